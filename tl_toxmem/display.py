"""How records show themselves: a headline in words, compact tables, notes; as plain text, and as HTML for notebooks.

What is shown may be from a prompt's author or a model. So slurs are masked and markup is inert, here and thereby for
every record; `frame()` has the texts as they are. No colours are set, so that it can be read on dark and on light.

Figures are not part of it. One in every output would put plotly's megabytes, or a script that asks the network for
them, into each notebook that a record is looked at in, and take its time; they are drawn when asked for, by `plot()`.
"""

import math
from dataclasses import dataclass
from html import escape

from tl_toxmem.masking import mask_slurs
from tl_toxmem.stats import Estimate

MOST_ROWS = 20
"""Of a table; with headline and notes, this is a screen."""
_MOST_LETTERS = 120
"""Of a cell."""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of each is its heading.

    Attributes:
        head: over the columns; empty for names and values.
        rows: cells, as people read them.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def shown(self) -> list[tuple[str, ...]]:
        """Head, if any, and the rows that fit on a screen, with what they say made harmless."""
        rows = [self.head] * bool(self.head) + list(self.rows[:MOST_ROWS])
        more = len(self.rows) - MOST_ROWS
        if more > 0:
            rows.append((f"… and {more} more", *("" for _ in rows[0][1:])))
        return [tuple(harmless(cell, most=_MOST_LETTERS) for cell in row) for row in rows]

    def lines(self) -> list[str]:
        """As text, in columns."""
        rows = self.shown()
        if not rows:
            return []
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        pad = [str.rjust if number else str.ljust for number in self._numbers()]
        return [
            "  ".join(f(cell, n) for f, cell, n in zip(pad, row, widths, strict=True)).rstrip()
            for row in rows
        ]

    def html(self) -> str:
        """As HTML; it scrolls where it is wider than the page."""
        rows = self.shown()
        style = ["right" if number else "left" for number in self._numbers()]
        body = "".join(
            _row(row, style, head=bool(self.head) and not i) for i, row in enumerate(rows)
        )
        return f'<div style="overflow-x: auto"><table>{body}</table></div>'

    def _numbers(self) -> list[bool]:
        """Which columns are of numbers, and so read best aligned at the right."""
        return [
            i > 0 and all(cell[:1] in "+-−–.0123456789" for cell in column)
            for i, column in enumerate(zip(*self.rows, strict=True))
        ] or [False] * len(self.head)


@dataclass(frozen=True)
class Display:
    """What is shown of a record.

    Attributes:
        headline: what it is and the main result in words, with n and unit.
        tables: at most a few, small ones.
        notes: sentences below them: what to know, and where there is more.
    """

    headline: str
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [harmless(self.headline)]
        for table in self.tables:
            lines += table.lines()
        return "\n".join([*lines, *map(harmless, self.notes)])

    def html(self) -> str:
        """For a notebook."""
        notes = "".join(f"<p><small>{escape(harmless(note))}</small></p>" for note in self.notes)
        tables = "".join(table.html() for table in self.tables)
        return f"<p><strong>{escape(harmless(self.headline))}</strong></p>{tables}{notes}"


class Displayed:
    """A record that shows itself as its `display`: in a terminal, by `print`, at the end of a notebook's cell."""

    def display(self) -> Display:
        """What is shown."""
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self.display())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.display().html()


def harmless(text: str, *, most: int | None = None) -> str:
    """A text on one line, with slurs masked and what a terminal or a page would obey spelt out.

    Args:
        text: of anyone.
        most: letters; what is longer is cut, after masking.
    """
    letters = (c if c.isprintable() else repr(c)[1:-1] for c in mask_slurs(text))
    told = "".join(letters)
    return told if most is None or len(told) <= most else f"{told[: most - 1]}…"


def estimate_text(estimate: Estimate | None, form: str = ".3g", *, scale: float = 1) -> str:
    """A value with its interval; a dash where there is none.

    Args:
        estimate: to be told.
        form: of each number.
        scale: what they are multiplied by; 100 for percent, which then follows the value.
    """
    if estimate is None or math.isnan(estimate.value):
        return "–"
    value = f"{scale * estimate.value:{form}}" + " %" * (scale == 100)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({scale * estimate.low:{form}} to {scale * estimate.high:{form}})"


def count(n: int, noun: str) -> str:
    """A number of things: `1 prompt`, `2,000 prompts`."""
    return f"{n:,} {noun}" + "s" * (n != 1)


def _row(cells: tuple[str, ...], style: list[str], *, head: bool) -> str:
    tags = ["th" if head or not i else "td" for i in range(len(cells))]
    told = zip(tags, style, cells, strict=True)
    written = (f'<{t} style="text-align: {s}">{escape(cell)}</{t}>' for t, s, cell in told)
    return f"<tr>{''.join(written)}</tr>"
