"""Localisation: what the causal trace says, and whether it survives other settings."""

from tl_toxmem.report.blocks import Block, Paragraph, Section
from tl_toxmem.report.figures import page_figure
from tl_toxmem.report.results import Results
from tl_toxmem.trace import Figure, Robustness, Trace

_WHAT = (
    "Corrupting the embeddings of the subject, or of the whole prompt where it has none, takes the target away; then "
    "one state at a time is put back to its clean value. An effect above zero: the state mediates the target."
)


def where_section(results: Results) -> Section:
    """Which layers and tokens mediate, MLPs against attentions, early against late."""
    trace = results.trace
    blocks: list[Block] = []
    if _has_parts(trace):
        blocks.append(Paragraph(trace.answer().text))
    blocks.append(Paragraph(_WHAT, "soft"))
    blocks += [page_figure(trace.plot(name)) for name in trace_figures(trace)]
    return Section("where", "Where: causal trace", tuple(blocks))


def trace_figures(trace: Trace) -> tuple[Figure, ...]:
    """The figures that this trace has data for, in the order of the page; robustness has a section of its own."""
    lacking = set[Figure]()
    if not _has_parts(trace):
        lacking.add("shares")
    if not any("_without_" in site for site in trace.sites):
        lacking.add("severed")
    order: tuple[Figure, ...] = ("shares", "layers", "classes", "tokens", "severed")
    return tuple(name for name in order if name not in lacking)


def _has_parts(trace: Trace) -> bool:
    return not bool(trace.parts.isnan().any())


def robustness_section(results: Results) -> Section | None:
    """Layer profiles under other noise, windows, metrics and corruptions."""
    robustness = results.trace.robustness
    if robustness is None:
        return None
    blocks = (Paragraph(_agreement(robustness)), page_figure(robustness.plot()))
    return Section("robustness", "Robustness of the trace", blocks)


def _agreement(robustness: Robustness) -> str:
    varied = [p for p in robustness.profiles if p.varied != "as configured"]
    if not varied:
        return "Nothing was varied."
    least = min(varied, key=lambda p: p.agreement.value)
    most = max(p.agreement.value for p in varied)
    ways, sites = {(p.varied, p.name) for p in varied}, {p.site for p in varied}
    low, name = least.agreement, f"{least.varied}: {least.name}"
    return (
        f"The layer profiles of {len(sites)} sites were traced anew in {len(ways)} ways, over {low.n} prompts. Their "
        f"rank correlation with those as configured is from {low.value:.2f} ({name}) to {most:.2f}."
    )
