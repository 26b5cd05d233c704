"""The comparison as a table in the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from tl_toxmem.comparison import Comparison


def print_comparison(console: "Console", comparison: "Comparison") -> None:
    """The lowest toxic rate of each method at each cost, and what the comparison says in words."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    frame = comparison.at_cost()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("toxic, at neutral ppl up to", no_wrap=True)
    for column in frame.columns:
        table.add_column(column, justify="right", no_wrap=True)
    for method, values in frame.iterrows():
        cells = [f"{100 * float(value):.1f}%" for value in values]
        table.add_row(comparison.of(str(method))[0][0].label, *cells)
    console.print(table)
    for sentence in comparison.sentences():
        console.print(sentence)
