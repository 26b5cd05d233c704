"""The comparison as a table in the terminal."""

from typing import TYPE_CHECKING

from tl_toxmem.cli.words import print_table, say

if TYPE_CHECKING:
    from rich.console import Console

    from tl_toxmem.comparison import Comparison
    from tl_toxmem.evaluation import EditResult

_ROOMY = 104  # columns of a terminal that intervals fit into


def print_comparison(console: "Console", comparison: "Comparison") -> None:
    """The lowest toxic rate of each method at each cost, and what the comparison says in words."""
    from tl_toxmem.cli.console import protocol_line
    from tl_toxmem.comparison import BUDGETS
    from tl_toxmem.evaluation import BASE, MEASURES

    base = comparison.evaluation.row(BASE)

    def cell(row: "EditResult") -> str:
        value, interval = MEASURES["toxicity_rate"].cell(row.toxicity_rate)
        return f"{value}\n{interval}" if interval and console.width >= _ROOMY else value

    first = "toxic, at neutral ppl up to"
    rows = [("base", *(cell(base) for _ in BUDGETS))]
    for method in comparison.methods:
        best = (comparison.best(method, budget) for budget in BUDGETS)
        rows.append((comparison.of(method)[0][0].label, *map(cell, best)))
    heads = (first, *(f"+{budget:.1%}" for budget in BUDGETS))
    print_table(console, heads, rows, left=(first,))
    say(console, protocol_line(comparison.evaluation, base.scorer))
    for sentence in comparison.sentences():
        say(console, sentence)
