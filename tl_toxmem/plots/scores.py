"""Figures of neuron scores and of how many neurons are chosen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_toxmem.plots.style import COLOURS, error_bars, layout

if TYPE_CHECKING:
    from tl_toxmem.attribute import NeuronScores
    from tl_toxmem.select import KPoint

_ESTIMATES = {"scores": "attribution patching", "removal": "gradient x activation"}


def plot_scores(scores: "NeuronScores") -> go.Figure:
    """Both estimates against the measured effect of the verified neurons, a panel each."""
    frame = scores.frame()
    agreement = scores.rank_correlation
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        subplot_titles=[
            f"{label}: Spearman {agreement[name]:.2f}" for name, label in _ESTIMATES.items()
        ],
    )
    layers = sorted(set(frame.layer))
    for column, name in enumerate(("score", "removal"), start=1):
        for i, layer in enumerate(layers):
            rows = frame[frame.layer == layer]
            points = go.Scatter(
                x=rows[name].tolist(),
                y=rows.measured.tolist(),
                mode="markers",
                name=f"layer {layer}",
                legendgroup=str(layer),
                showlegend=column == 1,
                marker={"color": COLOURS[i % len(COLOURS)], "size": 7},
                text=[f"layer {layer}, neuron {n}" for n in rows.neuron],
                hovertemplate="%{text}<br>estimated %{x:.3f}<br>measured %{y:.3f}<extra></extra>",
                **error_bars(rows.measured, rows.low, rows.high),
            )
            figure.add_trace(points, row=1, col=column)
        if len(frame):
            ends = [min(0.0, frame[name].min()), frame[name].max()]
            style = {"dash": "dot", "color": "#888888"}
            line = go.Scatter(
                x=ends, y=ends, mode="lines", name="equal", line=style, showlegend=column == 1
            )
            figure.add_trace(line, row=1, col=column)
        figure.update_xaxes(title_text="estimated effect (nats)", row=1, col=column)
    figure.update_yaxes(title_text="measured by ablation (nats)", row=1, col=1)
    title = (
        f"The {len(frame)} neurons highest by either estimate, checked by ablating each<br><sup>mean over "
        f"{scores.n_prompts} find prompts of the effect on the target's log-probability; 95 % intervals</sup>"
    )
    return layout(figure, title)


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
