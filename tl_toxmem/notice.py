"""What is said on the way, where a run goes on otherwise than was asked: a line on stderr, by Python's logging."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LOGGER = logging.getLogger("tl_toxmem")
_HEARD: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def notice(words: str) -> None:
    """Say one sentence."""
    heard = _HEARD.get()
    if heard is None:
        _LOGGER.warning("tl-toxmem: %s", words)
    else:
        heard.append(words)


@contextmanager
def hearing() -> Iterator[list[str]]:
    """What is said within the block, in place of saying it: a worker has nobody who listens, and passes it on."""
    heard: list[str] = []
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)
