"""Controls: what was deleted in the deletion's stead, how loud it is, and all that was measured of each edit."""

from tl_toxmem.evaluation import measured
from tl_toxmem.report.blocks import Cell, Paragraph, Section, Table
from tl_toxmem.report.cells import edit_name, measure_cell
from tl_toxmem.report.results import Results

_WHAT = (
    "Each control is as large as the selection, has none of its neurons, and is deleted by the same law. Random "
    "neurons of the same layers are matched in loudness as far as there are any: an edit of silent neurons would cost "
    "nothing and prove nothing."
)


def controls_section(results: Results) -> Section:
    """Every measure of every edit by every judge."""
    selection = results.selection
    ratios = selection["loudness_ratios"]
    known = [
        f"{edit_name(name)} {ratio:.2f} x" for name, ratio in ratios.items() if ratio is not None
    ]
    loud = f"Loudness against the selection's: {'; '.join(known) or 'not known'}."
    blocks = [Paragraph(_WHAT), Paragraph(loud)]
    if selection["no_decoy"] is not None:
        blocks.append(Paragraph(f"There is no decoy: {selection['no_decoy']}.", "warn"))
    return Section(
        "controls",
        "Controls and all measures",
        (*blocks, _table(results), Paragraph(protocol_text(results), "soft")),
    )


def _table(results: Results) -> Table:
    evaluation = results.evaluation
    columns = measured(evaluation.rows)
    several = len(results.scorers) > 1
    rows = tuple(
        (
            Cell(edit_name(row.edit), f"by {row.scorer}" if several else ""),
            Cell(str(row.n_neurons)),
            *(measure_cell(measure, getattr(row, measure.name)) for measure in columns),
        )
        for row in evaluation.rows
    )
    heads = [f"{m.label} ({m.unit})" if m.unit else m.label for m in columns]
    strong = tuple(i for i, row in enumerate(evaluation.rows) if row.edit == "deletion")
    return Table("Every edit (95 % intervals)", ("edit", "neurons", *heads), rows, strong=strong)


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
        f"an observed rate of 0 still allows up to about {3 / p['n_prompts']:.1%} at 95 %",
    )
    return "; ".join(sentences) + "."
