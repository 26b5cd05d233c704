"""What sections are made of: plain values, which the template writes as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tl_toxmem.report.masked import Masked

Text = str | Masked


@dataclass(frozen=True)
class Paragraph:
    """A paragraph: the `lead`, plain, `soft` (small print), `good` or `warn`; `code` is a command that ends it."""

    kind: ClassVar[str] = "paragraph"
    text: Text
    tone: Literal["lead", "plain", "soft", "good", "warn"] = "plain"
    code: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Cell:
    """A cell: what it says, and in small print below it an interval, an n or a remark."""

    value: Text
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading.

    Attributes:
        title: what it shows, in words.
        head: over the columns; empty where rows have one value each.
        rows: cells.
        strong: numbers of the rows that stand out.
    """

    kind: ClassVar[str] = "table"
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    strong: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure; see `figures.py`.

    Attributes:
        title: what it shows, in plain English.
        notes: units, n and protocol, a line each.
        data: plotly's traces.
        wide: layout for a screen.
        narrow: layout for a phone, panels one above the other.
    """

    kind: ClassVar[str] = "figure"
    title: str
    notes: tuple[str, ...]
    data: list[dict[str, Any]]
    wide: dict[str, Any]
    narrow: dict[str, Any]

    @property
    def spec(self) -> dict[str, Any]:
        """What the page draws it from."""
        return {"data": self.data, "wide": self.wide, "narrow": self.narrow}


@dataclass(frozen=True)
class Details:
    """Blocks that open on demand."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: tuple["Block", ...]


Block = Paragraph | Heading | Table | Figure | Details


@dataclass(frozen=True)
class Section:
    """A section: its anchor, its title, its blocks."""

    id: str
    title: str
    blocks: tuple[Block, ...]


def facts(title: str, pairs: Sequence[tuple[str, Text]]) -> Table:
    """A table of names and values."""
    return Table(title, (), tuple((Cell(name), Cell(value)) for name, value in pairs))
