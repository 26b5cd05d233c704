"""What a trace shows of itself: largest mean effects at two tokens, and what thirds of the stack do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tl_toxmem.display import Display, Table, count, estimate_text
from tl_toxmem.errors import ToxmemError
from tl_toxmem.stats import Estimate, mean_estimate
from tl_toxmem.trace.cells import PART_SITES
from tl_toxmem.trace.metrics import UNITS
from tl_toxmem.trace.statistics import PLACES

if TYPE_CHECKING:
    from tl_toxmem.trace.record import Trace


def summary(trace: "Trace") -> Display:
    """Headline, the largest effects, the thirds where they were traced, and the answer in words."""
    n, n_layers = len(trace.prompt_ids), trace.restored.shape[3]
    total = mean_estimate(trace.total_effect.numpy(), seed=trace.seed)
    headline = (
        f"Trace of {count(n, 'prompt')} through {count(n_layers, 'layer')}: {_corruption(trace)} takes "
        f"{estimate_text(total)} {UNITS[trace.metric]} from the target{', mean over prompts' if n > 1 else ''}"
    )
    largest = "In brackets: 95 % intervals over prompts. The largest of all layers is likely too large: see by_layer."
    tables, notes = [_largest(trace)], [largest]
    if not _is_measured(trace):
        share = float(trace.exact[~trace.effect.isnan()].float().mean())
        notes.append(f"Screened: {share:.1%} of the cells were measured, the others estimated.")
    if not bool(trace.parts.isnan().any()):
        tables.append(_thirds(trace))
        notes.append(_answer(trace))
    return Display(headline, tuple(tables), tuple(notes))


def _corruption(trace: "Trace") -> str:
    if trace.corruption == "noise":
        where = "subject" if trace.has_subjects else "prompt"
        return f"noise of {trace.noise:.3g} on the {where} ({count(trace.n_noise, 'draw')})"
    return {"replace": "the counterfactual"}.get(trace.corruption, "the mean embedding")


def _is_measured(trace: "Trace") -> bool:
    """Whether every cell was, and none estimated by a screening."""
    return bool(trace.exact[~trace.effect.isnan()].all())


def _largest(trace: "Trace") -> Table:
    """Sites by tokens: in which layer the mean effect is largest, and how large."""
    from tl_toxmem.plots.trace import PLACE_NAMES, site_title

    rows = []
    for place in PLACES if trace.has_subjects else PLACES[1:]:
        found = trace.by_layer(place).dropna(subset=["value"]).to_dict("records")
        for s, site in enumerate(trace.sites):
            own = [row for row in found if row["site"] == site]
            if not own or "_without_" in site:
                continue
            sure = [row for row in own if row["measured"] == 1]  # an estimate may be far too large
            best = max(sure or own, key=lambda row: row["value"])
            how = "measured" if sure else f"{best['measured']:.0%} measured"
            effect = estimate_text(_estimate(best))
            rows.append((site_title(trace, s), PLACE_NAMES[place], str(best["layer"]), effect, how))
    head = ("restored", "at", "largest at layer", f"gives back ({UNITS[trace.metric]})", "cells")
    if _is_measured(trace):
        return Table(head[:-1], tuple(row[:-1] for row in rows))
    return Table(head, tuple(rows))


def _thirds(trace: "Trace") -> Table:
    """Shares of the total effect that thirds of the stack give back, restored as a whole."""
    from tl_toxmem.plots.trace import SITES

    head: list[str] = []
    rows = []
    traces = {"": trace} | ({} if trace.benign is None else {", benign prompts": trace.benign})
    for name, one in traces.items():
        shares = one.shares().to_dict("records")
        for site in PART_SITES:
            own = [row for row in shares if row["site"] == site]
            head = [f"{row['part']} ({row['first_layer']} to {row['last_layer']})" for row in own]
            cells = (estimate_text(_estimate(row), ".0f", scale=100) for row in own)
            rows.append((f"{SITES[site]}{name}", *cells))
    return Table(("gives back of what was taken, layers", *head), tuple(rows))


def _estimate(row: Mapping[Any, Any]) -> Estimate:
    """Of a frame's row, where a bound that is lacking may have become NaN."""
    low, high = (None if row[name] != row[name] else row[name] for name in ("low", "high"))
    return Estimate(row["value"], low, high, row["n"])


def _answer(trace: "Trace") -> str:
    """In words, or why there is none; a record can be looked at whatever stands beside it."""
    try:
        return trace.answer().text
    except ToxmemError as error:
        return f"No answer: {error}."
