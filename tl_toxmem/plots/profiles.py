"""Figures of a trace's averages by layer and by part of the stack."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_toxmem.plots.style import COLOURS, error_bars, layout
from tl_toxmem.plots.trace import PLACE_NAMES, means, site_title, unit
from tl_toxmem.trace.metrics import UNITS

if TYPE_CHECKING:
    from tl_toxmem.trace.record import Trace


def plot_layers(trace: "Trace") -> go.Figure:
    """Mean effect by layer at two tokens, a line per site with its 95 % interval; single layers dotted.

    Without subjects the two are one token, and there is one panel.
    """
    places = list(PLACE_NAMES)[not trace.has_subjects :]
    figure = make_subplots(
        rows=1,
        cols=len(places),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[f"at {PLACE_NAMES[place]}" for place in places],
    )
    families = list(dict.fromkeys(site.removesuffix("_single") for site in trace.sites))
    for column, place in enumerate(places, start=1):
        frame = trace.by_layer(place)
        for s, site in enumerate(trace.sites):
            rows = frame[frame.site == site]
            if "_without_" in site or not len(rows):
                continue
            colour = COLOURS[families.index(site.removesuffix("_single")) % len(COLOURS)]
            line = go.Scatter(
                x=rows.layer.tolist(),
                y=rows.value.tolist(),
                mode="lines+markers",
                name=site_title(trace, s),
                legendgroup=site,
                showlegend=column == 1,
                line={"color": colour, "dash": "dot" if site.endswith("_single") else "solid"},
                customdata=rows.n_restored.tolist(),
                hovertemplate="layer %{x}: %{y:.3g} (%{customdata} layers restored)<extra></extra>",
                **error_bars(rows.value, rows.low, rows.high),
            )
            figure.add_trace(line, row=1, col=column)
        figure.update_xaxes(title_text="layer", row=1, col=column)
    figure.update_yaxes(title_text=f"indirect effect ({unit(trace)})", row=1, col=1)
    title = (
        "Which layers mediate the target: one state restored at one token"
        f"<br><sup>{means(trace)}; dotted: each layer alone</sup>"
    )
    return layout(figure, title, height=480, legend={"orientation": "h", "y": -0.2})


def plot_severed(trace: "Trace") -> go.Figure:
    """What is left of a state's effect at the subject's last token when MLPs, or attentions, above it are severed."""
    frame = trace.by_layer("last_subject")
    names = {
        "resid_post": "residual stream restored",
        "resid_post_without_mlp": "the same, MLPs above severed",
        "resid_post_without_attn": "the same, attentions above severed",
    }
    figure = go.Figure()
    for colour, (site, name) in zip(COLOURS, names.items(), strict=False):
        rows = frame[frame.site == site]
        if not len(rows):
            continue
        figure.add_trace(
            go.Scatter(
                x=rows.layer.tolist(),
                y=rows.value.tolist(),
                mode="lines+markers",
                name=name,
                line={"color": colour},
                hovertemplate="layer %{x}: %{y:.3g}<extra></extra>",
                **error_bars(rows.value, rows.low, rows.high),
            )
        )
    figure.update_xaxes(title_text="layer restored, at the subject's last token")
    figure.update_yaxes(title_text=f"indirect effect ({unit(trace)})")
    title = (
        "Through what a restored state acts: effect with the MLPs or attentions above held as corrupted"
        f"<br><sup>{means(trace)}; a gap to the first line runs through what was severed</sup>"
    )
    return layout(figure, title, legend={"orientation": "h", "y": -0.25})


def plot_shares(trace: "Trace") -> go.Figure:
    """Share of the total effect that early, middle and late MLPs and attentions mediate, with 95 % intervals."""
    figure = go.Figure()
    traces = {"": trace, ", benign prompts": trace.benign}
    colours = iter(COLOURS)
    for suffix, one in traces.items():
        if one is None:
            continue
        frame = one.shares()
        for site in ("mlp_out", "attn_out"):
            rows = frame[frame.site == site]
            figure.add_trace(
                go.Bar(
                    x=[f"{r.part}<br>{r.first_layer} to {r.last_layer}" for r in rows.itertuples()],
                    y=rows.value.tolist(),
                    name=f"{'MLPs' if site == 'mlp_out' else 'attentions'}{suffix} (n = {rows.n.iloc[0]})",
                    marker_color=next(colours),
                    hovertemplate="%{x}: %{y:.1%}<extra></extra>",
                    **error_bars(rows.value, rows.low, rows.high),
                )
            )
    figure.update_xaxes(title_text="layers restored, at all tokens from the first corrupted one on")
    figure.update_yaxes(title_text="share of the total effect", tickformat=".0%")
    title = (
        "How much early, middle and late layers mediate<br><sup>mean effect over mean total effect, in "
        f"{UNITS[trace.metric]}, 95 % intervals over prompts</sup>"
    )
    return layout(figure, title, legend={"orientation": "h", "y": -0.3}, barmode="group")
