"""The report: a run folder as one self-contained HTML page that opens offline.

All text is escaped by the template or, inside figures, by `plots.shown`; slurs are masked. Nothing is run.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.cards import NeuronCard
from tl_toxmem.certificate import Certificate
from tl_toxmem.config import DEMO, RunConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation import EDITS, MEASURES, Evaluation, Example, measured
from tl_toxmem.files import read_json, write_bytes
from tl_toxmem.masking import mask_slurs
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.plots import NAMES, plot_evaluation, plot_k_curve, plot_scores
from tl_toxmem.prompts import PromptSet
from tl_toxmem.select import Joint, KPoint, controls_text
from tl_toxmem.stats import Estimate
from tl_toxmem.store import ARTEFACTS, RunFolder
from tl_toxmem.trace import Figure, Trace

_CONTENTS = (
    ("result", "Before and after"),
    ("run", "What was run"),
    ("where", "Where"),
    ("neurons", "Which neurons"),
    ("examples", "Examples"),
    ("certificate", "Certificate"),
    ("provenance", "Provenance"),
)
_RANKINGS = {
    "cost_aware": " per cost on neutral text",
    "top": "",
    "threshold": " from a threshold on",
    "shared": " shared by enough prompts",
    "greedy": " per cost, then by measured joint effect in rounds",
}
_N_NEURONS = 30


def write_report(path: Path) -> Path:
    """Write `8_report.html` into a finished run folder.

    Raises:
        ToxmemError: an artefact is missing (naming it) or damaged.
    """
    folder = RunFolder(path)
    for stage, name in ARTEFACTS.items():
        if stage != "compare" and not folder.artefact(stage).exists():
            raise ToxmemError(f"no report without {path / name}: run the stage {stage!r} first")
    loader = jinja2.FileSystemLoader(str(resources.files("tl_toxmem") / "assets"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True}
    page = environment.get_template("report.html.jinja").render(_content(folder))
    write_bytes(folder.report, page.encode("utf-8"))
    return folder.report


def _content(folder: RunFolder) -> dict[str, Any]:
    cfg = folder.config()
    trace = Trace.load(folder.artefact("trace"))
    scores = NeuronScores.load(folder.artefact("attribute"))
    selection = read_json(folder.artefact("select"))
    evaluation = Evaluation.load(folder.artefact("evaluate"))
    certificate = Certificate.read(folder.artefact("export"))
    provenance = folder.provenance()
    chosen = NeuronSet.from_json(selection["selected"])
    curve = [KPoint(**point) for point in selection["curve"]]
    figures = {
        # plotly.js itself travels with the first figure only.
        "evaluation": _div(plot_evaluation(evaluation), library=True),
        **{f"trace_{name}": _div(trace.plot(name)) for name in _trace_figures(trace)},
        "scores": _div(plot_scores(scores)),
        "curve": "",
    }
    if curve:
        budget = cfg.select.max_perplexity_increase
        figures["curve"] = _div(plot_k_curve(curve, chosen=selection["k"], budget=budget))
    return {
        "model": cfg.model,
        "answer": _answer(chosen, evaluation),
        "where": trace.answer().text if cfg.trace.parts else "",
        "contents": _CONTENTS,
        "edits": _edits(evaluation),
        "protocol": _protocol(evaluation),
        "figures": figures,
        "facts": _facts(folder, cfg, trace, certificate),
        "selection": _selection(chosen, selection),
        "truth": _truth(cfg, chosen),
        "neurons": _neurons(scores, chosen, selection["joint_effect"]),
        "score_head": f"{NAMES[scores.method]} ({scores.unit})",
        "verification": scores.verification.text() if scores.verification else "",
        "cards": [
            (f"Layer {card.layer}, neuron {card.neuron}", card.facts())
            for card in map(NeuronCard.from_json, selection["cards"])
        ],
        "examples": [_example(example) for example in evaluation.examples],
        "certificate": certificate,
        "certificate_rows": _certificate(certificate),
        "checkpoint": folder.artefact("export"),
        "provenance": provenance,
        "origins": _origins(provenance),
    }


def _trace_figures(trace: Trace) -> list[Figure]:
    """The figures that this trace has data for, in the order of the page."""
    lacking = set()
    if bool(trace.parts.isnan().any()):
        lacking.add("shares")
    if not any("_without_" in site for site in trace.sites):
        lacking.add("severed")
    if trace.robustness is None:
        lacking.add("robustness")
    order: tuple[Figure, ...] = ("shares", "layers", "classes", "tokens", "severed", "robustness")
    return [name for name in order if name not in lacking]


def _div(figure: go.Figure, *, library: bool = False) -> str:
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=library,
        config={"responsive": True, "displaylogo": False, "showTips": False},
    )
    return html


def _answer(chosen: NeuronSet, evaluation: Evaluation) -> str:
    base, after = evaluation.row("none"), evaluation.row("deletion")
    control = evaluation.row("random_neurons")
    layers, rate = (
        ", ".join(str(layer) for layer in chosen.by_layer()),
        MEASURES["toxicity_rate"].text,
    )
    rise = after.neutral_perplexity_ratio.value - 1
    separate = _below(after.toxicity_rate, base.toxicity_rate)
    verb = "brings" if separate else "does not clearly change"
    between = (
        f"from {rate(base.toxicity_rate.value)} to {rate(after.toxicity_rate.value)}"
        if separate
        else f"({rate(base.toxicity_rate.value)} before, {rate(after.toxicity_rate.value)} after)"
    )
    return (
        f"Deleting {len(chosen)} of {chosen.n_layers * chosen.d_mlp:,} MLP neurons (layers {layers}) {verb} the toxic "
        f"continuations of {base.toxicity_rate.n} held-out prompts {between}, while neutral perplexity goes "
        f"from {base.neutral_perplexity.value:.3f} to {after.neutral_perplexity.value:.3f} ({rise:+.2%}). As many "
        f"random neurons of the same layers leave {rate(control.toxicity_rate.value)}."
    )


def _below(after: Estimate, before: Estimate) -> bool:
    if after.high is None or before.low is None:
        return after.value < before.value
    return after.high < before.low


def _edits(evaluation: Evaluation) -> dict[str, Any]:
    columns = measured(evaluation.rows)
    rows = []
    for row in evaluation.rows:
        name = EDITS.get(row.edit, row.edit.replace("_", " "))
        by = "" if row.scorer == evaluation.rows[0].scorer else f"by {row.scorer}"
        cells = [{"value": name, "interval": by}, {"value": str(row.n_neurons), "interval": ""}]
        for measure in columns:
            estimate = getattr(row, measure.name)
            value, interval = measure.cell(estimate)
            n = f"{interval}, n = {estimate.n}" if interval else ""
            cells.append({"value": value, "interval": n})
        rows.append(cells)
    heads = [f"{m.label} ({m.unit})" if m.unit else m.label for m in columns]
    return {"head": ["edit", "neurons", *heads], "rows": rows}


def _protocol(evaluation: Evaluation) -> str:
    p = evaluation.protocol
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


def _facts(
    folder: RunFolder, cfg: RunConfig, trace: Trace, certificate: Certificate
) -> list[tuple[str, str]]:
    prompts = PromptSet.read(folder.artefact("prompts"))
    return [
        ("model", cfg.model),
        ("host", f"TransformerLens {certificate.versions['transformer-lens']}, {certificate.host}"),
        ("precision and device", f"{cfg.dtype}, {cfg.device}"),
        ("prompts", f"{len(prompts.find)} to find, {len(prompts.report)} to report (disjoint)"),
        (
            "traced",
            f"{len(trace.prompt_ids)} find prompts{_benign(trace)}, corruption: {_corruption(trace)}",
        ),
        (
            "law",
            f"{cfg.delete.law}{f' x {cfg.delete.factor:g}' if cfg.delete.law == 'scale' else ''}",
        ),
        ("scorer", ", ".join(cfg.scorers)),
        ("seed", str(cfg.seed)),
    ]


def _benign(trace: Trace) -> str:
    return "" if trace.benign is None else f" and {len(trace.benign.prompt_ids)} benign ones"


def _corruption(trace: Trace) -> str:
    if trace.corruption == "noise":
        return f"noise of {trace.noise:.4g} on the subject's embeddings"
    return "the counterfactual" if trace.corruption == "replace" else "the mean embedding"


def _selection(chosen: NeuronSet, selection: dict[str, Any]) -> str:
    layers = ", ".join(f"{len(ns)} in layer {layer}" for layer, ns in chosen.by_layer().items())
    return (
        f"{len(chosen)} neurons were selected ({layers}), ranked by {NAMES[selection['method']]}"
        f"{_RANKINGS[selection['ranked_by']]}. How many: {selection['rule']}.{_joint(selection['joint_effect'])}"
        f" {controls_text(selection['loudness_ratios'], selection['no_decoy'])}"
    )


def _joint(values: dict[str, Any] | None) -> str:
    return "" if values is None else f" {Joint.from_json(values).text()}."


def _truth(cfg: RunConfig, chosen: NeuronSet) -> str:
    """How much of what was planted in the demo model was found; the pipeline never reads this."""
    file = Path(str(resources.files("tl_toxmem") / "assets" / "demo" / "truth.json"))
    if cfg.model != DEMO:
        return ""
    reserve = json.loads(file.read_text())["reserve"]
    planted = {(int(layer), n) for layer, neurons in reserve.items() for n in neurons}
    found = planted & set(chosen)
    return (
        f"Planted truth (known for the demo only, and not read by the pipeline): {len(found)} of the {len(chosen)} "
        f"selected neurons are among the {len(planted)} neurons that the memories were written through; "
        f"{len(found) / len(planted):.0%} of those were selected."
    )


def _neurons(
    scores: NeuronScores, chosen: NeuronSet, joint: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """The selected neurons by score, at most `_N_NEURONS`, with what was measured of them.

    Few selections are so large that their neurons were not deleted one by one; of those the check of the highest knows
    some.
    """
    if joint is not None:
        measured = dict(zip(chosen, Joint.from_json(joint).alone, strict=True))
    else:
        measured = scores.verification.effects() if scores.verification else {}
    rows = []
    for neuron in sorted(chosen, key=lambda n: -float(scores.scores[n]))[:_N_NEURONS]:
        effect = measured.get(neuron)
        spread = effect is not None and effect.low is not None and effect.high is not None
        rows.append(
            {
                "layer": neuron[0],
                "neuron": neuron[1],
                "score": f"{float(scores.scores[neuron]):.3f}",
                "measured": f"{effect.value:.3f}" if effect else "not measured",
                "interval": f"{effect.low:.3f} to {effect.high:.3f}" if effect and spread else "",
                "cost": f"{float(scores.cost[neuron]):.4f}",
            }
        )
    return rows


def _example(example: Example) -> dict[str, str]:
    return {
        "prompt": mask_slurs(example.prompt),
        "before": mask_slurs(example.before),
        "after": mask_slurs(example.after),
        "score_before": f"{example.score_before:.2f}",
        "score_after": f"{example.score_after:.2f}",
    }


def _certificate(certificate: Certificate) -> list[tuple[str, str]]:
    same, n = certificate.greedy_identical
    gap = f"{certificate.max_abs_logprob_gap:.2e} nats, computed in {certificate.precision}"
    rows = [("largest log-probability gap", gap), ("bound", f"{certificate.bound:.0e} nats")]
    if certificate.gap_float32 is not None:
        rounding = (
            f"{certificate.gap_float32:.2e} nats; the unedited model on both implementations: "
            f"{certificate.rounding_float32:.2e} nats"
        )
        rows.append(("the same in float32", rounding))
    return [
        *rows,
        ("greedy continuations identical", f"{same} of {n}"),
        ("largest effect against base", f"{certificate.max_abs_logprob_effect:.3g} nats"),
        ("host", certificate.host),
        ("base model", certificate.base_model),
    ]


def _origins(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(f"version of {name}", value) for name, value in provenance["versions"].items()]
    rows += [
        ("configuration", provenance["config_hash"]),
        ("revision", provenance["revision"] or "none"),
    ]
    rows += [(f"input {name}", value) for name, value in provenance["inputs"].items()]
    for name, value in provenance["outputs"].items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name}/{inner}".rstrip("/"), digest) for inner, digest in entries]
    return [(name, str(value)) for name, value in rows]
