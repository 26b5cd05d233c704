"""Progress bars with the time left, on anything that takes more than a moment; none where nobody watches.

In a terminal they go to stderr, in a notebook they are widgets, and in a pipe or a log they are silent.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
Advance = Callable[[float], object]
"""Called with the size of what was just done."""
_DELAY_SECONDS = 1.0
_SILENT = ContextVar("silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """No bars within the block, whoever watches."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


def is_silent() -> bool:
    """Whether there are to be no bars."""
    return _SILENT.get()


def _disabled() -> bool | None:
    return is_silent() or None  # None: off where stderr is no terminal


def track(items: Iterable[T], description: str, *, total: int) -> Iterator[T]:
    """Yield `items` while a bar with the time left counts them."""
    # leave=False: gone when done, so that bars may nest.
    bar = tqdm(
        items, desc=description, total=total, leave=False, disable=_disabled(), delay=_DELAY_SECONDS
    )
    yield from bar


@contextmanager
def meter(description: str, total: float) -> Iterator[Advance]:
    """A bar for work whose pieces differ in size: call what it gives with the size of each piece that is done."""
    with tqdm(
        desc=description,
        total=total,
        leave=False,
        disable=_disabled(),
        delay=_DELAY_SECONDS,
        bar_format="{l_bar}{bar}| {elapsed}<{remaining}",
    ) as bar:
        yield bar.update


def in_batches(
    items: Sequence[T],
    size: int,
    description: str,
    *,
    length: Callable[[T], int] | None = None,
    most: int | None = None,
) -> Iterator[list[T]]:
    """Yield `batched` lists while a bar counts them."""
    batches = batched(items, size, length=length, most=most)
    yield from track(batches, description, total=len(batches))


def batched(
    items: Sequence[T],
    size: int,
    *,
    length: Callable[[T], int] | None = None,
    most: int | None = None,
) -> list[list[T]]:
    """`items` in lists of at most `size`.

    Args:
        items: what to divide; the order is kept.
        size: most items in a list.
        length: of an item, padded to the longest of its list.
        most: of that length in a list of more than one item; None for any.
    """
    batches: list[list[T]] = []
    longest = 0
    for item in items:
        here = length(item) if length else 0
        longest = max(longest, here)
        full = not batches or len(batches[-1]) == size
        if full or (most is not None and longest * (len(batches[-1]) + 1) > most):
            batches.append([])
            longest = here
        batches[-1].append(item)
    return batches
