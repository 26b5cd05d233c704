"""What is said on the way, where a run goes on otherwise than was asked: a line on stderr, by Python's logging."""

import logging

_LOGGER = logging.getLogger("tl_toxmem")


def notice(words: str) -> None:
    """Say one sentence."""
    _LOGGER.warning("tl-toxmem: %s", words)
