"""Figures of neuron scores and of how many neurons are chosen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_toxmem.plots.style import COLOURS, CONTROL_COLOUR, error_bars, layout

if TYPE_CHECKING:
    from tl_toxmem.attribute import NeuronScores, Verification
    from tl_toxmem.select import KPoint

_TOP = 50
NAMES = {
    "gradient": "gradient x activation",
    "attribution_patching": "attribution patching",
    "grad_drop": "attribution patching with GradDrop",
    "integrated_gradients": "integrated gradients",
    "knowledge_neurons": "knowledge neurons",
    "direct_effect": "direct effect",
    "contrast": "contrast with benign prompts",
    "experts": "expert neurons",
    "probe": "cosine with the probe",
    "ablation": "ablation",
}
"""Of the methods, for people."""


def plot_scores(scores: "NeuronScores") -> go.Figure:
    """Scores against the measured effects of the verified neurons, and where the highest lie."""
    verification = scores.verification
    checked = f"Spearman {verification.spearman:.2f}" if verification else "not verified"
    n_top = min(_TOP, scores.scores.numel())
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.62, 0.38],
        horizontal_spacing=0.12,
        subplot_titles=[
            f"score against measured effect: {checked}",
            f"the {n_top} highest by layer",
        ],
    )
    if verification:
        _add_verified(figure, verification)
    counts = [0] * len(scores.scores)
    for layer, neurons in scores.top(n_top).by_layer().items():
        counts[layer] = len(neurons)
    bars = go.Bar(
        x=list(range(len(counts))),
        y=counts,
        marker_color=COLOURS[0],
        showlegend=False,
        hovertemplate="layer %{x}: %{y} neurons<extra></extra>",
    )
    figure.add_trace(bars, row=1, col=2)
    figure.update_xaxes(title_text=f"score ({scores.unit})", row=1, col=1)
    figure.update_yaxes(title_text="measured by ablation (nats)", row=1, col=1)
    figure.update_xaxes(title_text="layer", row=1, col=2)
    figure.update_yaxes(title_text="neurons", row=1, col=2)
    over = f"{scores.n_prompts} find prompts" if scores.n_prompts else "labelled texts"
    measured = (
        f"; effects measured on {verification.measured.shape[1]} prompts, 95 % intervals"
        if verification
        else ""
    )
    title = f"Neurons by {NAMES[scores.method]}<br><sup>scored over {over}{measured}</sup>"
    return layout(figure, title)


def _add_verified(figure: go.Figure, verification: "Verification") -> None:
    frame = verification.frame()
    kinds = (
        (f"the {verification.k} highest", frame[frame.top], COLOURS[0]),
        ("random others", frame[~frame.top], CONTROL_COLOUR),
    )
    for name, rows, colour in kinds:
        words = [f"layer {one.layer}, neuron {one.neuron}" for one in rows.itertuples()]
        points = go.Scatter(
            x=rows.score.tolist(),
            y=rows.measured.tolist(),
            mode="markers",
            name=name,
            marker={"color": colour, "size": 6, "opacity": 0.7},
            text=words,
            hovertemplate="%{text}<br>score %{x:.3f}<br>measured %{y:.3f}<extra></extra>",
            **error_bars(rows.measured, rows.low, rows.high),
        )
        figure.add_trace(points, row=1, col=1)


def plot_k_curve(curve: Sequence["KPoint"], *, chosen: int, budget: float) -> go.Figure:
    """What deleting the top k leaves and costs, on the find prompts and the text kept for choosing."""
    base, *points = curve
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    lines = (
        ("toxic continuations", [p.toxicity_rate for p in points], False, COLOURS[0]),
        ("probability of the targets", [p.target_prob for p in points], False, COLOURS[2]),
        ("perplexity increase", [p.perplexity_increase for p in points], True, COLOURS[1]),
    )
    for name, values, secondary, colour in lines:
        line = go.Scatter(
            x=[p.k for p in points],
            y=values,
            mode="lines+markers",
            name=name,
            line={"color": colour},
        )
        figure.add_trace(line, secondary_y=secondary)
    figure.add_vline(x=chosen, line_dash="dot", line_color="#888888")
    figure.update_xaxes(type="log", title_text="neurons deleted, k")
    figure.update_yaxes(
        title_text="on the find prompts", tickformat=".0%", rangemode="tozero", secondary_y=False
    )
    figure.update_yaxes(
        title_text="perplexity increase", tickformat=".1%", secondary_y=True, showgrid=False
    )
    title = (
        f"How many neurons: k = {chosen}, chosen on the find split<br><sup>base: {base.toxicity_rate:.0%} toxic, "
        f"targets {base.target_prob:.0%}; toxicity is sampled where perplexity rises by at most {budget:.1%}; the "
        "report split is not seen</sup>"
    )
    return layout(figure, title, legend={"orientation": "h", "y": -0.25})
