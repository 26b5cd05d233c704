"""Progress bars on anything that may take over two seconds; nothing where there is no terminal.

One live display at a time: a bar that starts inside another one is added to it (rich allows one only).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_active: ContextVar[Progress | None] = ContextVar("tl_toxmem_progress", default=None)


@contextmanager
def progress_display() -> Iterator[Progress]:
    """The live display that bars are drawn in; the one around it, if there is one."""
    outer = _active.get()
    if outer is not None:
        yield outer
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    visible = console.is_terminal or console.is_jupyter
    display = Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not visible
    )
    token = _active.set(display)
    try:
        with display:
            yield display
    finally:
        _active.reset(token)


def track(items: Iterable[T], description: str, *, total: int) -> Iterator[T]:
    """Yield `items` while a bar with the time left counts them."""
    with progress_display() as display:
        task = display.add_task(description, total=total)
        try:
            for item in items:
                yield item
                display.advance(task)
        finally:
            display.remove_task(task)


def in_batches(items: Sequence[T], size: int, description: str) -> Iterator[list[T]]:
    """Yield `items` in lists of at most `size` while a bar counts the lists."""
    starts = range(0, len(items), size)
    for start in track(starts, description, total=len(starts)):
        yield list(items[start : start + size])
