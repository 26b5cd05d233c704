"""Estimates as cells of tables."""

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


def share_cell(estimate: Estimate) -> Cell:
    """A share in percent with its interval and n."""
    return Cell(f"{estimate.value:.1%}", _note(estimate, ".1%"))


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
    return Cell(f"{rise.value:+.2%}", _note(rise, "+.2%"))


def edit_name(edit: str) -> str:
    """A row's name for people."""
    return EDITS.get(edit, edit.replace("_", " "))


def toxic(row: EditResult) -> str:
    """A row's toxic rate in words."""
    return MEASURES["toxicity_rate"].text(row.toxicity_rate.value)


def _note(estimate: Estimate, form: str) -> str:
    n = f"n = {estimate.n}"
    if estimate.low is None or estimate.high is None:
        return n
    return f"{estimate.low:{form}} to {estimate.high:{form}}, {n}"
