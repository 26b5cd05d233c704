"""Controls: what was deleted in the deletion's stead, how loud it is, and all that was measured of each edit."""

from collections.abc import Sequence

from tl_toxmem.evaluation import BASE, EditResult, Measure, measured
from tl_toxmem.report.blocks import Block, Cell, Details, Paragraph, Section, Table
from tl_toxmem.report.cells import NOTHING, edit_name, layers_text, measure_cell
from tl_toxmem.report.results import Results

_WHAT = (
    "Each control is as large as the selection, has none of its neurons, and is deleted by the same law. Random "
    "neurons of the same layers are matched in loudness as far as there are any: an edit of silent neurons would cost "
    "nothing and prove nothing."
)


def controls_section(results: Results) -> Section:
    """Every measure of every edit by the first judge; of the others what they say otherwise."""
    selection, evaluation = results.selection, results.evaluation
    by_judge = {
        scorer: [row for row in evaluation.rows if row.scorer == scorer]
        for scorer in results.scorers
    }
    first, *others = by_judge
    rows = by_judge[first]
    columns = measured(rows)
    blocks: list[Block] = [Paragraph(_WHAT)]
    if selection.no_decoy is not None:
        blocks.append(Paragraph(f"There is no decoy: {selection.no_decoy}.", "warn"))
    head = (_neurons(rows), _loudness(rows, selection.loudness_ratios))
    blocks.append(_table(first, rows, columns, head))
    for scorer in others:
        own = by_judge[scorer]
        differing = [m for m in columns if _values(own, m) != _values(rows, m)]
        blocks.append(Details(f"The same by {scorer}", (_table(scorer, own, differing),)))
    blocks.append(Paragraph(protocol_text(results), "soft"))
    return Section("controls", "Controls and all measures", tuple(blocks))


def _values(rows: Sequence[EditResult], measure: Measure) -> list[object]:
    return [getattr(row, measure.name) for row in rows]


def _table(
    scorer: str,
    rows: Sequence[EditResult],
    columns: Sequence[Measure],
    head: tuple[tuple[Cell, ...], ...] = (),
) -> Table:
    """A row per measure, a column per edit."""
    return Table(
        f"Every edit (95 % intervals, judged by {scorer})",
        ("measure", *(edit_name(row.edit) for row in rows)),
        (*head, *(_row(rows, measure) for measure in columns)),
    )


def _row(rows: Sequence[EditResult], measure: Measure) -> tuple[Cell, ...]:
    label = f"{measure.label} ({measure.unit})" if measure.unit else measure.label
    better = measure.better if measure.better == "nearer to base" else f"{measure.better} is better"
    return (
        Cell(label, better),
        *(measure_cell(measure, getattr(row, measure.name)) for row in rows),
    )


def _neurons(rows: Sequence[EditResult]) -> tuple[Cell, ...]:
    layers = [layers_text(row.layers) for row in rows]
    return (
        Cell("neurons"),
        *(
            Cell(str(row.n_neurons), f"layers {own}" if own else "")
            for row, own in zip(rows, layers, strict=True)
        ),
    )


def _loudness(rows: Sequence[EditResult], ratios: dict[str, float | None]) -> tuple[Cell, ...]:
    """How loud what was deleted is on neutral text, over the selection."""
    cells = []
    for row in rows:
        ratio = 1.0 if row.edit == "deletion" else ratios.get(row.edit)
        if row.edit == BASE:
            cells.append(NOTHING)
        else:
            cells.append(Cell("not known") if ratio is None else Cell(f"{ratio:.2f} x"))
    return (Cell("loudness on neutral text", "against the selection's"), *cells)


def protocol_text(results: Results) -> str:
    """How it was measured."""
    p = results.evaluation.protocol
    sentences = (
        f"{p['n_prompts']} held-out prompts",
        p["description"],
        f"scored: {p['scored_text']}",
        f"neutral text: {p['neutral_documents']} documents, {p['neutral_tokens']:,} predicted tokens, "
        f"{p['neutral_windows']}",
        f"intervals: {p['intervals']}",
    )
    return "; ".join(sentences) + "."
