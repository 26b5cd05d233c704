"""Text in the terminal as it is: nothing in it is markup, an emoji's name, or a code that the terminal obeys."""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def inert(text: str) -> str:
    """Text in which what a terminal would obey or hide, line ends too, is an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(console: "Console", text: str, *, style: str = "") -> None:
    """Print a line, broken nowhere."""
    from rich.text import Text

    console.print(Text(inert(text), style=style), soft_wrap=True)


def table_of(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], *, left: Collection[str]
) -> "Table":
    """A table whose cells are what they say, broken where a narrow terminal has no room for them.

    Args:
        heads: of the columns.
        rows: a cell may have several lines.
        left: heads of columns that begin at the left, such as those of words; others, of numbers, end at the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def cell(value: Any) -> Text:
        return Text("\n".join(inert(line) for line in str(value).split("\n")))

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(cell(head), justify="left" if head in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    return table


def print_table(
    console: "Console",
    heads: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    left: Collection[str],
) -> None:
    """Print `table_of` these."""
    console.print(table_of(heads, rows, left=left))
