"""Figures of a trace. Panels of one figure share one scale, so that what looks stronger is stronger."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_toxmem.plots.style import COLOURS, error_bars, layout, shown
from tl_toxmem.stats import Estimate
from tl_toxmem.trace.metrics import UNITS

if TYPE_CHECKING:
    import pandas as pd

    from tl_toxmem.trace.agreement import Robustness
    from tl_toxmem.trace.record import Place, Trace

SITES = {
    "resid_pre": "residual stream before the layer",
    "resid_post": "residual stream",
    "mlp_out": "MLP output",
    "mlp_post": "MLP neurons",
    "attn_out": "attention output",
}
_PLACES: "dict[Place, str]" = {
    "last_subject": "the subject's last token",
    "last": "the prompt's last token",
}
_CLASSES = {
    "first_subject": "first subject token",
    "middle_subject": "middle subject tokens",
    "last_subject": "last subject token",
    "first_after": "first token after",
    "further": "further tokens",
    "last": "last token",
}
_SIGNIFICANT = 0.05


def plot_trace(trace: "Trace", *, prompt: int | None = None) -> go.Figure:
    """Token x layer heat maps of one prompt's effects: windows above, single layers below.

    Args:
        trace: any.
        prompt: its place in the trace; None: the prompt that corruption takes most from.
    """
    p = int(trace.total_effect.argmax()) if prompt is None else prompt
    words = [shown(word) for word in trace.words[p]]
    start, end = trace.subjects[p]
    labels = [f"{i}: {w}{' *' if start <= i < end else ''}" for i, w in enumerate(words)]
    above, below = _maps(trace)
    values = trace.effect[p, :, :, : len(words)]
    shown_sites = [s for s in (*above, *below) if s is not None]
    limit = float(values[shown_sites].nan_to_num().abs().max()) or 1.0
    n_rows = 2 if any(s is not None for s in below) else 1
    grid = [*above, *below][: n_rows * len(above)]
    figure = make_subplots(
        rows=n_rows,
        cols=len(above),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.5 / max(4, len(words)),
        subplot_titles=["" if s is None else _site_title(trace, s) for s in grid],
    )
    for i, s in enumerate(grid):
        if s is None:
            continue
        place = {"row": i // len(above) + 1, "col": i % len(above) + 1}
        estimated = ~trace.exact[p, s, :, : len(words)]
        figure.add_trace(
            go.Heatmap(
                z=values[s].T.tolist(),
                y=labels,
                text=[["estimated" if e else "measured" for e in row] for row in estimated.T],
                coloraxis="coloraxis",
                hovertemplate="layer %{x}<br>token %{y}<br>%{text} effect %{z:.3f}<extra></extra>",
            ),
            **place,
        )
        figure.update_xaxes(title_text="layer", **place)
    figure.update_yaxes(autorange="reversed")
    title = (
        f"What restoring one state gives back, one prompt (total effect {trace.total_effect[p]:.2f} "
        f"{UNITS[trace.metric]})<br><sup>tokens that were corrupted ({_corruption(trace)}) are marked *; one scale "
        "for all panels</sup>"
    )
    return layout(
        figure, title, height=160 + n_rows * (40 + 28 * len(words)), coloraxis=_scale(trace, limit)
    )


def plot_layers(trace: "Trace") -> go.Figure:
    """Mean effect by layer at two tokens, a line per site with its 95 % interval; single layers dotted."""
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[f"at {name}" for name in _PLACES.values()],
    )
    families = list(dict.fromkeys(site.removesuffix("_single") for site in trace.sites))
    for column, place in enumerate(_PLACES, start=1):
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
                name=_site_title(trace, s),
                legendgroup=site,
                showlegend=column == 1,
                line={"color": colour, "dash": "dot" if site.endswith("_single") else "solid"},
                customdata=rows.n_restored.tolist(),
                hovertemplate="layer %{x}: %{y:.3f} (%{customdata} layers restored)<extra></extra>",
                **error_bars(rows.value, rows.low, rows.high),
            )
            figure.add_trace(line, row=1, col=column)
        figure.update_xaxes(title_text="layer", row=1, col=column)
    figure.update_yaxes(title_text=f"indirect effect ({_unit(trace)})", row=1, col=1)
    title = (
        "Which layers mediate the target: one state restored at one token"
        f"<br><sup>{_means(trace)}; dotted: each layer alone</sup>"
    )
    return layout(figure, title, height=480, legend={"orientation": "h", "y": -0.2})


def plot_classes(trace: "Trace") -> go.Figure:
    """Average indirect effect by layer and class of token, a map per site on one scale; a dot where max-T says so."""
    frame = trace.by_class()
    sites = [s for s in _maps(trace)[0] if s is not None]
    names = [trace.sites[s] for s in sites]
    frame = frame[frame.site.isin(names)]
    classes = [c for c in _CLASSES if c in set(frame.token_class)]
    limit = float(frame.value.abs().max()) or 1.0
    figure = make_subplots(
        rows=1,
        cols=len(sites),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[_site_title(trace, s) for s in sites],
    )
    for column, name in enumerate(names, start=1):
        rows = frame[frame.site == name].assign(told=lambda f: f.apply(_told, axis=1))
        value, told = (
            rows.pivot(index="token_class", columns="layer", values=what).loc[classes]
            for what in ("value", "told")
        )
        figure.add_trace(
            go.Heatmap(
                z=value.to_numpy().tolist(),
                y=[_CLASSES[c] for c in classes],
                text=told.to_numpy().tolist(),
                coloraxis="coloraxis",
                hovertemplate="layer %{x}, %{y}: %{z:.3f}<br>%{text}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        sure = rows[rows.p < _SIGNIFICANT]
        dots = go.Scatter(
            x=sure.layer.tolist(),
            y=[_CLASSES[c] for c in sure.token_class],
            mode="markers",
            marker={"color": "#000000", "size": 4},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_trace(dots, row=1, col=column)
        figure.update_xaxes(title_text="layer", row=1, col=column)
    figure.update_yaxes(categoryorder="array", categoryarray=[_CLASSES[c] for c in classes])
    figure.update_yaxes(autorange="reversed")
    title = (
        f"Average indirect effect by layer and token<br><sup>{_means(trace)}; a dot: p < {_SIGNIFICANT} by max-T over "
        "all cells of the panel</sup>"
    )
    return layout(figure, title, height=380, coloraxis=_scale(trace, limit))


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
                hovertemplate="layer %{x}: %{y:.3f}<extra></extra>",
                **error_bars(rows.value, rows.low, rows.high),
            )
        )
    figure.update_xaxes(title_text="layer restored, at the subject's last token")
    figure.update_yaxes(title_text=f"indirect effect ({_unit(trace)})")
    title = (
        "Through what a restored state acts: effect with the MLPs or attentions above held as corrupted"
        f"<br><sup>{_means(trace)}; a gap to the first line runs through what was severed</sup>"
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


def plot_robustness(robustness: "Robustness") -> go.Figure:
    """Every variant's layer profile, each on its own scale, with its rank agreement with the trace as configured."""
    sites = list(dict.fromkeys(p.site for p in robustness.profiles))
    figure = make_subplots(
        rows=1,
        cols=len(sites),
        horizontal_spacing=0.28,
        subplot_titles=[SITES.get(site, site) for site in sites],
    )
    n = robustness.profiles[0].agreement.n
    for column, site in enumerate(sites, start=1):
        profiles = [p for p in robustness.profiles if p.site == site]
        largest = [max(abs(v) for v in p.effect) or 1.0 for p in profiles]
        labels = [
            f"{p.varied}: {p.name}<br>Spearman {_interval(p.agreement)}"
            if i
            else f"as configured:<br>{p.name}"
            for i, p in enumerate(profiles)
        ]
        figure.add_trace(
            go.Heatmap(
                z=[[v / top for v in p.effect] for p, top in zip(profiles, largest, strict=True)],
                y=labels,
                text=[[f"{v:.3g}" for v in p.effect] for p in profiles],
                coloraxis="coloraxis",
                hovertemplate="layer %{x}<br>%{y}<br>mean effect %{text}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="layer", row=1, col=column)
    figure.update_yaxes(autorange="reversed", tickfont={"size": 11})
    title = (
        "Robustness: does the layer profile survive other noise, windows, metrics and corruptions?<br><sup>mean effect "
        f"at the subject's last token over {n} prompts, each row over its own largest; Spearman with the first row, "
        "95 % intervals over prompts</sup>"
    )
    scale = {
        "colorscale": "RdBu_r",
        "cmin": -1,
        "cmax": 1,
        "colorbar": {"title": "of the<br>largest"},
    }
    rows = max(sum(p.site == site for p in robustness.profiles) for site in sites)
    return layout(figure, title, height=180 + 44 * rows, coloraxis=scale)


def _told(row: "pd.Series") -> str:
    if row.n < 2:
        return "n = 1"
    return f"{row.low:.3f} to {row.high:.3f}, n = {row.n:.0f}, p = {row.p:.3f}"


def _maps(trace: "Trace") -> tuple[list[int | None], list[int | None]]:
    """Places of the sites that have a value at every token, and below each that of its single layers."""
    names = list(trace.sites)
    above = [s for s in names if "_without_" not in s and not s.endswith("_single")]
    below = [f"{s}_single" for s in above]
    return (
        [names.index(s) for s in above],
        [names.index(s) if s in names else None for s in below],
    )


def _scale(trace: "Trace", limit: float) -> dict[str, object]:
    return {
        "colorscale": "RdBu_r",
        "cmin": -limit,
        "cmax": limit,
        "colorbar": {"title": _unit(trace)},
    }


def _unit(trace: "Trace") -> str:
    return UNITS[trace.metric].replace(" of ", "<br>of ", 1)


def _corruption(trace: "Trace") -> str:
    if trace.corruption == "noise":
        return f"noise of {trace.noise:.3g}, mean over {trace.n_noise} draws"
    return "by the counterfactual" if trace.corruption == "replace" else "to the mean embedding"


def _means(trace: "Trace") -> str:
    return (
        f"mean over {len(trace.prompt_ids)} prompts with 95 % intervals; mean total effect "
        f"{float(trace.total_effect.mean()):.2f}; {_corruption(trace)}"
    )


def _site_title(trace: "Trace", s: int) -> str:
    widest = int(trace.n_restored[s].max())
    name = trace.sites[s].removesuffix("_single")
    return f"{SITES.get(name, name)} ({widest} layer{'s' if widest > 1 else ''})"


def _interval(e: Estimate) -> str:
    return f"{e.value:.2f}" if e.low is None else f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})"
