"""The comparison as a table in the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from tl_toxmem.comparison import Comparison
    from tl_toxmem.evaluation import EditResult

_ROOMY = 104  # columns of a terminal that intervals fit into


def print_comparison(console: "Console", comparison: "Comparison") -> None:
    """The lowest toxic rate of each method at each cost, and what the comparison says in words."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from tl_toxmem.cli.console import protocol_line
    from tl_toxmem.comparison import BUDGETS
    from tl_toxmem.evaluation import BASE, MEASURES

    base = comparison.evaluation.row(BASE)

    def cell(row: "EditResult") -> str:
        value, interval = MEASURES["toxicity_rate"].cell(row.toxicity_rate)
        return f"{value}\n{interval}" if interval and console.width >= _ROOMY else value

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("toxic, at neutral ppl up to")
    for budget in BUDGETS:
        table.add_column(f"+{budget:.1%}", justify="right", no_wrap=True)
    table.add_row("base", *(cell(base) for _ in BUDGETS))
    for method in comparison.methods:
        best = (comparison.best(method, budget) for budget in BUDGETS)
        table.add_row(comparison.of(method)[0][0].label, *map(cell, best))
    console.print(table)
    console.print(protocol_line(comparison.evaluation, base.scorer), soft_wrap=True)
    for sentence in comparison.sentences():
        console.print(sentence, soft_wrap=True)
