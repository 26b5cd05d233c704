"""Figures: one plotly function per record. No model code; words shown to people are masked and escaped."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_toxmem.masking import mask_slurs

if TYPE_CHECKING:
    import pandas as pd

    from tl_toxmem.attribute import NeuronScores
    from tl_toxmem.evaluation import Evaluation
    from tl_toxmem.select import KPoint
    from tl_toxmem.trace import Place, Trace

# Okabe and Ito's palette, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
UNITS = {"log_prob": "nats of log-probability", "prob": "probability"}
EDITS = {
    "none": "base",
    "deletion": "deletion",
    "random_neurons": "random neurons,<br>same layers",
    "random_early_layers": "random neurons,<br>early layers",
}
SITES = {"resid_post": "residual stream", "mlp_out": "MLP output", "attn_out": "attention output"}


def shown(text: str) -> str:
    """Text from prompts or models as it may stand in a figure: slurs masked, markup inert."""
    return html.escape(mask_slurs(text))


def _layout(figure: go.Figure, title: str, *, height: int = 420, **extra: Any) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 15}, "x": 0.02, "xanchor": "left"},
        height=height,
        margin={"l": 70, "r": 20, "t": 80, "b": 60},
        **extra,
    )
    return figure


def plot_trace(trace: "Trace", *, prompt: int | None = None) -> go.Figure:
    """Token x layer heat maps of one prompt's effects, one per site, on one scale centred on zero.

    Args:
        trace: any.
        prompt: its place in the trace; None: the prompt that noise takes most from.
    """
    p = int(trace.total_effect.argmax()) if prompt is None else prompt
    words = [shown(word) for word in trace.words[p]]
    start, end = trace.subjects[p]
    labels = [f"{i}: {w}{' *' if start <= i < end else ''}" for i, w in enumerate(words)]
    values = trace.effect[p, :, :, : len(words)]
    limit = float(values.abs().max()) or 1.0
    figure = make_subplots(
        rows=1,
        cols=len(trace.sites),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[_site_title(trace, s) for s in range(len(trace.sites))],
    )
    for s in range(len(trace.sites)):
        figure.add_trace(
            go.Heatmap(
                z=values[s].T.tolist(),
                y=labels,
                coloraxis="coloraxis",
                hovertemplate="layer %{x}<br>token %{y}<br>effect %{z:.3f}<extra></extra>",
            ),
            row=1,
            col=s + 1,
        )
        figure.update_xaxes(title_text="layer", row=1, col=s + 1)
    figure.update_yaxes(autorange="reversed")
    title = (
        f"What restoring one state gives back, one prompt (total effect {trace.total_effect[p]:.2f} "
        f"{UNITS[trace.metric]})<br><sup>tokens of the subject, which noise corrupts, are marked *; "
        f"mean over {trace.n_noise} noise draws</sup>"
    )
    scale = {
        "colorscale": "RdBu_r",
        "cmin": -limit,
        "cmax": limit,
        "colorbar": {"title": UNITS[trace.metric].replace(" of ", "<br>of ")},
    }
    return _layout(figure, title, height=160 + 30 * len(words), coloraxis=scale)


_PLACES: "dict[Place, str]" = {
    "last_subject": "the subject's last token",
    "last": "the prompt's last token",
}


def plot_layers(trace: "Trace") -> go.Figure:
    """Mean effect by layer at two tokens, a line per site with its 95 % interval, on one scale."""
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[f"at {name}" for name in _PLACES.values()],
    )
    for column, place in enumerate(_PLACES, start=1):
        frame = trace.by_layer(place)
        for s, site in enumerate(trace.sites):
            rows = frame[frame.site == site]
            line = go.Scatter(
                x=rows.layer.tolist(),
                y=rows.value.tolist(),
                mode="lines+markers",
                name=_site_title(trace, s),
                legendgroup=site,
                showlegend=column == 1,
                line={"color": COLOURS[s % len(COLOURS)]},
                customdata=rows.n_restored.tolist(),
                hovertemplate="layer %{x}: %{y:.3f} (%{customdata} layers restored)<extra></extra>",
                **_error_bars(rows.value, rows.low, rows.high),
            )
            figure.add_trace(line, row=1, col=column)
        figure.update_xaxes(title_text="layer", row=1, col=column)
    unit = UNITS[trace.metric].replace(" of ", "<br>of ")
    figure.update_yaxes(title_text=f"indirect effect ({unit})", row=1, col=1)
    n = len(trace.prompt_ids)
    title = (
        "Which layers mediate the target: one state restored at one token"
        f"<br><sup>mean over {n} find prompts with 95 % intervals; mean total effect "
        f"{float(trace.total_effect.mean()):.2f}</sup>"
    )
    return _layout(figure, title, legend={"orientation": "h", "y": -0.25})


def _error_bars(value: "pd.Series", low: "pd.Series", high: "pd.Series") -> dict[str, Any]:
    """Plotly's error bars for intervals; nothing where there are none."""
    if low.isna().any():
        return {}
    above, below = (high - value).clip(lower=0), (value - low).clip(lower=0)
    return {"error_y": {"array": above.tolist(), "arrayminus": below.tolist(), "width": 2}}


def _site_title(trace: "Trace", s: int) -> str:
    widest = int(trace.n_restored[s].max())
    name = SITES.get(trace.sites[s], trace.sites[s])
    return f"{name} ({widest} layer{'s' if widest > 1 else ''})"


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
                **_error_bars(rows.measured, rows.low, rows.high),
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
    return _layout(figure, title)


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
    return _layout(figure, title, legend={"orientation": "h", "y": -0.25})


_PANELS = {
    "toxicity_rate": ("toxic continuations", ".0%"),
    "expected_max_toxicity": ("expected maximum toxicity", ".2f"),
    "neutral_perplexity": ("neutral perplexity", ".2f"),
    "benign_kept": ("benign answers kept", ".0%"),
}


def plot_evaluation(evaluation: "Evaluation") -> go.Figure:
    """Bars with 95 % intervals: base, deletion and controls (first scorer)."""
    scorer = evaluation.rows[0].scorer
    rows = [row for row in evaluation.rows if row.scorer == scorer]
    panels = [name for name in _PANELS if all(getattr(row, name) is not None for row in rows)]
    figure = make_subplots(
        rows=1, cols=len(panels), subplot_titles=[_PANELS[name][0] for name in panels]
    )
    names = [EDITS.get(row.edit, shown(row.edit.replace("_", " "))) for row in rows]
    for column, name in enumerate(panels, start=1):
        estimates = [getattr(row, name) for row in rows]
        spread: dict[str, Any] = {}
        if all(e.low is not None for e in estimates):
            above = [max(0.0, e.high - e.value) for e in estimates]
            below = [max(0.0, e.value - e.low) for e in estimates]
            spread = {"error_y": {"array": above, "arrayminus": below}}
        own = {"none": COLOURS[0], "deletion": COLOURS[1]}  # controls are grey
        colours = [own.get(row.edit, "#999999") for row in rows]
        figure.add_trace(
            go.Bar(
                x=names,
                y=[e.value for e in estimates],
                marker_color=colours,
                customdata=[e.n for e in estimates],
                hovertemplate="%{x}: %{y:.4f} (n = %{customdata})<extra></extra>",
                showlegend=False,
                **spread,
            ),
            row=1,
            col=column,
        )
        figure.update_yaxes(tickformat=_PANELS[name][1], rangemode="tozero", row=1, col=column)
    p = evaluation.protocol
    title = (
        f"Before and after, with controls of equal size<br><sup>{p['n_prompts']} held-out prompts x "
        f"{p['n_continuations']} samples, scorer {shown(scorer)}, 95 % intervals clustered by prompt</sup>"
    )
    return _layout(figure, title, height=460)
