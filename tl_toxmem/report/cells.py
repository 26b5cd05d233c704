"""Estimates as cells of tables."""

from collections.abc import Iterable

from tl_toxmem.evaluation import EDITS, MEASURES, EditResult, Measure
from tl_toxmem.report.blocks import Cell
from tl_toxmem.stats import Estimate

NOTHING = Cell("–")
"""Where nothing was measured."""


def measure_cell(measure: Measure, estimate: Estimate | None) -> Cell:
    """A measure's value with its interval and n."""
    if estimate is None:
        return NOTHING
    value, interval = measure.cell(estimate)
    return Cell(value, ", ".join(filter(None, (interval, f"n = {estimate.n}"))))


def number_cell(estimate: Estimate | None, digits: int = 3) -> Cell:
    """A plain number with its interval and n."""
    if estimate is None:
        return NOTHING
    return Cell(f"{estimate.value:.{digits}f}", _note(estimate, f".{digits}f"))


def percent(share: float, form: str = ".1f") -> str:
    """A share as people read it."""
    return f"{100 * share:{form}} %"


def share_cell(estimate: Estimate) -> Cell:
    """A share in percent with its interval and n."""
    return Cell(percent(estimate.value), _note(estimate, ".1f", 100))


def rise_cell(row: EditResult) -> Cell:
    """What an edit does to neutral perplexity, paired with base by document."""
    ratio = row.neutral_perplexity_ratio
    if row.edit == "none":
        return Cell("0 %", f"perplexity {row.neutral_perplexity.value:.3f}, n = {ratio.n}")
    rise = Estimate(
        ratio.value - 1,
        None if ratio.low is None else ratio.low - 1,
        None if ratio.high is None else ratio.high - 1,
        ratio.n,
    )
    return Cell(percent(rise.value, "+.2f"), _note(rise, "+.2f", 100))


def edit_name(edit: str) -> str:
    """A row's name for people."""
    return EDITS.get(edit, edit.replace("_", " "))


def toxic(row: EditResult) -> str:
    """A row's toxic rate in words."""
    return MEASURES["toxicity_rate"].text(row.toxicity_rate.value)


def layers_text(layers: Iterable[int]) -> str:
    """Sorted layers, three or more in a row as "4 to 9"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = (f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)
    return ", ".join(words)


def _note(estimate: Estimate, form: str, scale: float = 1) -> str:
    n = f"n = {estimate.n}"
    if estimate.low is None or estimate.high is None:
        return n
    return f"{scale * estimate.low:{form}} to {scale * estimate.high:{form}}, {n}"
