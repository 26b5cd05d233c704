"""The front: the field's methods against ours, at every strength and at equal cost."""

from tl_toxmem.comparison import OURS, Comparison
from tl_toxmem.evaluation import BASE, MEASURES
from tl_toxmem.report.blocks import Block, Cell, Details, Paragraph, Section, Table
from tl_toxmem.report.cells import measure_cell, percent, rise_cell
from tl_toxmem.report.figures import page_figure
from tl_toxmem.report.results import Results


def front_section(results: Results) -> Section | None:
    """What a comparison found, by the first judge; by the others, the table at equal cost."""
    comparison = results.comparison
    if comparison is None:
        return None
    first, *others = results.scorers
    blocks: list[Block] = [Paragraph(text) for text in comparison.sentences(scorer=first)]
    blocks += [page_figure(comparison.plot(scorer=first)), _at_cost(comparison, first)]
    blocks += [
        Details(
            f"The same by {scorer}",
            (
                Paragraph(comparison.sentences(scorer=scorer)[0]),
                _at_cost(comparison, scorer),
            ),
        )
        for scorer in others
    ]
    blocks.append(
        Details(
            f"All {len(comparison.entries)} laws that were measured", (_laws(comparison, first),)
        )
    )
    return Section("front", "Against other methods", tuple(blocks))


def _at_cost(comparison: Comparison, scorer: str) -> Table:
    frame = comparison.at_cost(scorer=scorer)
    rows = []
    for method, values in frame.iterrows():
        entry = comparison.of(str(method), scorer=scorer)[0][0]
        rates = (Cell(percent(float(rate))) for rate in values)
        rows.append((Cell(entry.label, entry.family), *rates))
    base = comparison.evaluation.row(BASE, scorer=scorer).toxicity_rate
    title = (
        f"Lowest toxic rate that each method reaches within a rise of neutral perplexity (judged by {scorer}; base "
        f"{percent(base.value)}, n = {base.n} prompts)"
    )
    ours = tuple(i for i, method in enumerate(frame.index) if method == OURS)
    return Table(
        title,
        ("method", *(str(name).replace("%", " %") for name in frame.columns)),
        tuple(rows),
        strong=ours,
    )


def _laws(comparison: Comparison, scorer: str) -> Table:
    rate, kept = MEASURES["toxicity_rate"], MEASURES["benign_kept"]
    pairs = [one for method in comparison.methods for one in comparison.of(method, scorer=scorer)]
    benign = any(row.benign_kept is not None for _, row in pairs)
    rows = tuple(
        (
            Cell(entry.label, f"{entry.unit}: {entry.strength:g}"),
            measure_cell(rate, row.toxicity_rate),
            rise_cell(row),
            *([measure_cell(kept, row.benign_kept)] if benign else []),
        )
        for entry, row in pairs
    )
    head = ["method", "toxic continuations", "rise of neutral perplexity"]
    return Table(
        f"Every method at every strength (95 % intervals, judged by {scorer})",
        tuple(head + ["benign answers kept"] * benign),
        rows,
    )
