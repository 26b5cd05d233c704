"""Progress bars with the time left, on anything that takes more than a moment; none where nobody watches.

In a terminal they go to stderr, in a notebook they are widgets, and in a pipe or a log they are silent.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
_DELAY_SECONDS = 1.0


def track(items: Iterable[T], description: str, *, total: int) -> Iterator[T]:
    """Yield `items` while a bar with the time left counts them."""
    # disable=None: off where stderr is no terminal; leave=False: gone when done, so that bars may nest.
    bar = tqdm(
        items, desc=description, total=total, leave=False, disable=None, delay=_DELAY_SECONDS
    )
    yield from bar


def in_batches(items: Sequence[T], size: int, description: str) -> Iterator[list[T]]:
    """Yield `items` in lists of at most `size` while a bar counts the lists."""
    starts = range(0, len(items), size)
    for start in track(starts, description, total=len(starts)):
        yield list(items[start : start + size])
