"""The answer: one sentence, one small table, one figure."""

from tl_toxmem.evaluation import BASE, MEASURES, EditResult, neutral_warning
from tl_toxmem.plots import plot_evaluation
from tl_toxmem.report.blocks import Block, Cell, Paragraph, Section, Table
from tl_toxmem.report.cells import edit_name, layers_text, measure_cell, percent, rise_cell, toxic
from tl_toxmem.report.figures import page_figure
from tl_toxmem.report.results import Results
from tl_toxmem.stats import Estimate

_SHOWN = (BASE, "deletion", "random_neurons")


def answer_section(results: Results) -> Section:
    """What deletion did, and what as many random neurons did."""
    evaluation = results.evaluation
    blocks: list[Block] = [Paragraph(sentence(results), "lead")]
    warnings = [*_nothing_toxic(results), neutral_warning(evaluation)]
    blocks += [Paragraph(text, "warn") for text in warnings if text is not None]
    blocks.append(_table([evaluation.row(edit) for edit in _SHOWN]))
    if evaluation.row("deletion").toxicity_rate.value == 0:
        blocks.append(Paragraph(_none_seen(results), "soft"))
    blocks += [
        Paragraph(_by_another(results, scorer), "soft")
        for scorer in results.scorers[1:]
        if scorer not in evaluation.nothing_toxic
    ]
    return Section("answer", "The answer", (*blocks, page_figure(plot_evaluation(evaluation))))


def sentence(results: Results) -> str:
    """The result in words; "brings" only where the whole interval of the change is below zero."""
    chosen, evaluation = results.chosen, results.evaluation
    base, after, control = (evaluation.row(edit) for edit in _SHOWN)
    layers = layers_text(chosen.by_layer())
    separate = _below(base, after)
    verb = "brings" if separate else "does not clearly change"
    between = (
        f"from {toxic(base)} to {toxic(after)}"
        if separate
        else f"({toxic(base)} before, {toxic(after)} after)"
    )
    rise = percent(after.neutral_perplexity_ratio.value - 1, "+.2f")
    return (
        f"Deleting {len(chosen)} of {chosen.n_layers * chosen.d_mlp:,} MLP neurons (layers {layers}) {verb} the toxic "
        f"continuations of {base.toxicity_rate.n} held-out prompts {between}, while neutral perplexity goes "
        f"from {base.neutral_perplexity.value:.3f} to {after.neutral_perplexity.value:.3f} ({rise}). As many "
        f"random neurons of the same layers leave {toxic(control)}."
    )


def _below(base: EditResult, after: EditResult) -> bool:
    """Whether the toxic rate is lower for sure: by the change paired by prompt, else by two intervals apart."""
    change: Estimate | None = after.toxicity_change
    if change is not None and change.high is not None:
        return change.high < 0
    high, low = after.toxicity_rate.high, base.toxicity_rate.low
    if high is None or low is None:
        return after.toxicity_rate.value < base.toxicity_rate.value
    return high < low


def _table(rows: list[EditResult]) -> Table:
    benign = any(row.benign_kept is not None for row in rows)
    head = ["edit", "toxic continuations", "rise of neutral perplexity"]
    return Table(
        f"Before and after (95 % intervals, judged by {rows[0].scorer})",
        tuple(head + ["benign answers kept"] * benign),
        tuple(
            (
                Cell(edit_name(row.edit), f"{row.n_neurons} neurons" if row.n_neurons else ""),
                measure_cell(MEASURES["toxicity_rate"], row.toxicity_rate),
                rise_cell(row),
                *([measure_cell(MEASURES["benign_kept"], row.benign_kept)] if benign else []),
            )
            for row in rows
        ),
        strong=(1,),
    )


def _nothing_toxic(results: Results) -> list[str]:
    return [
        f"{scorer} calls none of base's continuations toxic: its rates say nothing of what an edit removes."
        for scorer in results.evaluation.nothing_toxic
    ]


def _none_seen(results: Results) -> str:
    """The rule of three: what a rate of 0 still allows."""
    n = results.evaluation.protocol["n_prompts"]
    return f"None seen is not none: at 95 %, a rate of up to about {percent(3 / n)} would still give 0 in {n} prompts."


def _by_another(results: Results, scorer: str) -> str:
    base, after, control = (results.evaluation.row(edit, scorer=scorer) for edit in _SHOWN)
    return (
        f"By {scorer}: {toxic(base)} of base's continuations are toxic, {toxic(after)} after deletion, "
        f"{toxic(control)} after deletion of the random neurons."
    )
