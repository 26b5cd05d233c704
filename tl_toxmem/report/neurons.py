"""Neurons: how many, how they were chosen, by what law they are deleted, and a card of each."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tl_toxmem.cards import NeuronCard
from tl_toxmem.config import DEMO
from tl_toxmem.plots import NAMES, plot_k_curve, plot_scores
from tl_toxmem.report.blocks import (
    Block,
    Cell,
    Details,
    Figure,
    Heading,
    Paragraph,
    Section,
    Table,
)
from tl_toxmem.report.cells import NOTHING, number_cell, percent
from tl_toxmem.report.figures import page_figure
from tl_toxmem.report.masked import pair
from tl_toxmem.report.results import Results
from tl_toxmem.select import Tried

_RANKINGS = {
    "cost_aware": " per cost on neutral text",
    "top": "",
    "threshold": " from a threshold on",
    "shared": " shared by enough prompts",
    "greedy": " per cost, then by measured joint effect in rounds",
    "gates": " per cost, and of the highest those whose learned gate closes",
    "search": " per cost, in the way that a search found best",
}
_LAWS = {
    "zero": "activations are set to zero",
    "mean": "activations are set to their mean on neutral text",
}
_N_NEURONS = 30
_CARDS = (
    "What deleting a neuron takes from the targets; the tokens whose logits its value vector moves most, by itself, "
    "through the final LayerNorm and at its highest activation; where it is most active; and greedy continuations with "
    "and without it."
)


def neurons_section(results: Results) -> Section:
    """The selection, from its rule to its neurons."""
    selection, scores = results.selection, results.scores
    blocks: list[Block] = [Paragraph(_selection(results))]
    if results.cfg.model == DEMO:
        blocks.append(Paragraph(_truth(results), "good"))
    if selection.curve:
        blocks.append(_curve(results))
    if selection.trials:
        blocks.append(_trials(selection.trials))
    blocks.append(page_figure(plot_scores(scores)))
    if scores.verification:
        blocks.append(Paragraph(scores.verification.text()))
    blocks.append(_neurons(results))
    if selection.cards:
        blocks += [Heading("Cards of the highest"), Paragraph(_CARDS, "soft")]
        blocks += map(_card, selection.cards)
    return Section("neurons", "Which neurons", tuple(blocks))


def _curve(results: Results) -> Figure:
    select = results.cfg.select
    figure = plot_k_curve(
        results.selection.curve,
        chosen=results.selection.k,
        budget=select.max_perplexity_increase,
    )
    n = min(len(results.prompts.find), select.max_prompts)
    return page_figure(figure, f"n = {n} find prompts, {select.n_continuations} continuations each")


def law_text(law: dict[str, Any]) -> str:
    """What the law that the selection keeps does to a neuron, in words."""
    name = law["law"]
    if name == "gates":
        scales = law["scales"]
        spread = f", from {min(scales):.2f} to {max(scales):.2f}" if scales else ""
        return f"each activation is multiplied by a gate of its own, learned on the find prompts{spread}"
    if name == "scale":
        return f"activations are multiplied by {law['factor']:g}"
    if name == "input_gain":
        return f"what goes into the nonlinearity is multiplied by {law['factor']:g}"
    return _LAWS[name]


def _selection(results: Results) -> str:
    chosen, selection = results.chosen, results.selection
    layers = ", ".join(f"{len(own)} in layer {layer}" for layer, own in chosen.by_layer().items())
    joint = selection.joint_effect
    together = "" if joint is None else f" {joint.text()}."
    return (
        f"{len(chosen)} neurons were selected ({layers}), ranked by {NAMES[selection.method]}"
        f"{_RANKINGS[selection.ranked_by]}. How many: {selection.rule}. The law: {law_text(selection.law)}."
        f"{together}"
    )


def _truth(results: Results) -> str:
    """How much of what was planted in the demo model was found; the pipeline never reads this."""
    chosen = results.chosen
    file = Path(str(resources.files("tl_toxmem") / "assets" / "demo" / "truth.json"))
    reserve = json.loads(file.read_text())["reserve"]
    planted = {(int(layer), n) for layer, neurons in reserve.items() for n in neurons}
    found = planted & set(chosen)
    return (
        f"Planted truth (known for the demo only, and not read by the pipeline): {len(found)} of the {len(chosen)} "
        f"selected neurons are among the {len(planted)} neurons that the memories were written through; "
        f"{len(found) / len(planted):.0%} of those were selected."
    )


def _trials(trials: Sequence[Tried]) -> Details:
    """What the search tried, on the find split; the one that was taken stands out."""
    affordable = [t for t in trials if t.toxicity_rate is not None]
    rows = []
    for trial in trials:
        settings = {name: value for name, value in trial.settings.items() if name != "law"}
        words = ", ".join(f"{name} {_plain(value)}" for name, value in settings.items())
        rate = trial.toxicity_rate
        rows.append(
            (
                Cell(str(trial.number)),
                Cell(trial.settings["law"], words),
                Cell(percent(trial.rise, "+.2f"), f"up to {percent(trial.rise_high, '+.2f')}"),
                Cell("not affordable") if rate is None else Cell(percent(rate)),
            )
        )
    table = Table(
        "Deletions that were tried, on the find prompts and the text kept for choosing",
        ("trial", "law", "rise of neutral perplexity", "toxic continuations"),
        tuple(rows),
    )
    return Details(
        f"The search: {len(trials)} deletions tried, {len(affordable)} affordable", (table,)
    )


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _neurons(results: Results) -> Table:
    """The selected neurons by score, at most `_N_NEURONS`, with what was measured of them.

    Few selections are so large that their neurons were not deleted one by one; of those the check of the highest knows
    some.
    """
    chosen, scores = results.chosen, results.scores
    joint = results.selection.joint_effect
    if joint is not None:
        measured = dict(zip(chosen, joint.alone, strict=True))
    else:
        measured = scores.verification.effects() if scores.verification else {}
    shown = sorted(chosen, key=lambda neuron: -float(scores.scores[neuron]))[:_N_NEURONS]
    rows = tuple(
        (
            Cell(f"layer {layer}, neuron {neuron}"),
            Cell(f"{float(scores.scores[layer, neuron]):.3f}"),
            number_cell(measured.get((layer, neuron))),
            NOTHING
            if bool(scores.cost[layer, neuron].isnan())
            else Cell(f"{float(scores.cost[layer, neuron]):.4f}"),
        )
        for layer, neuron in shown
    )
    many = f"The {len(rows)} highest of {len(chosen)}" if len(rows) < len(chosen) else "The"
    head = (
        "neuron",
        f"{NAMES[scores.method]} ({scores.unit})",
        "taken from the targets when deleted alone (nats)",
        "cost (nats per token)",
    )
    return Table(f"{many} selected neurons, by score", head, rows)


def _card(card: NeuronCard) -> Details:
    both = zip(card.facts(), card.facts(mask=str), strict=True)
    lines = [(pair(name, bare), pair(value, plain)) for (name, value), (bare, plain) in both]
    title = f"Layer {card.layer}, neuron {card.neuron}"
    rows = tuple((Cell(name), Cell(value)) for name, value in lines)
    return Details(
        f"{title}: {card.effect.value:.3g} nats", (Table(f"Card of {title.lower()}", (), rows),)
    )
