"""Maps of a trace. Panels of one figure share one scale, so that what looks stronger is stronger."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from jaxtyping import Bool
from plotly.subplots import make_subplots
from torch import Tensor

from tl_toxmem.errors import ToxmemError
from tl_toxmem.plots.style import layout, shown
from tl_toxmem.stats import Estimate
from tl_toxmem.trace.metrics import UNITS
from tl_toxmem.trace.statistics import Place

if TYPE_CHECKING:
    import pandas as pd

    from tl_toxmem.trace.agreement import Robustness
    from tl_toxmem.trace.record import Trace

SITES = {
    "resid_pre": "residual stream before the layer",
    "resid_post": "residual stream",
    "mlp_out": "MLP output",
    "mlp_post": "MLP neurons",
    "attn_out": "attention output",
}
PLACE_NAMES: dict[Place, str] = {
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
_TOP = 110
"""Pixels for a title of two lines above titles of two lines."""


def plot_trace(trace: "Trace", *, prompt: int | None = None) -> go.Figure:
    """Token x layer heat maps of one prompt's effects, one per site, on one scale centred on zero.

    Args:
        trace: any.
        prompt: its place in the trace; None: the prompt that corruption takes most from.
    """
    n = len(trace.prompt_ids)
    if prompt is not None and not 0 <= prompt < n:
        raise ToxmemError(f"there is no prompt {prompt}: this trace has 0 to {n - 1}")
    p = int(trace.total_effect.argmax()) if prompt is None else prompt
    words = [shown(word) for word in trace.words[p]]
    start, end = trace.subjects[p]
    labels = [f"{i}: {w}{' *' if start <= i < end else ''}" for i, w in enumerate(words)]
    values = trace.effect[p, :, :, : len(words)]
    maps = _maps(trace)
    limit = float(values[maps].nan_to_num().abs().max()) or 1.0
    figure = _row_of_maps(trace, maps)
    for column, s in enumerate(maps, start=1):
        estimated = ~trace.exact[p, s, :, : len(words)]
        figure.add_trace(
            go.Heatmap(
                z=values[s].T.tolist(),
                y=labels,
                text=_hover(trace, s, estimated),
                coloraxis="coloraxis",
                hovertemplate="layer %{x}, %{text}<br>token %{y}<br>effect %{z:.3g}<extra></extra>",
            ),
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    title = (
        f"What restoring one state gives back, prompt {shown(trace.prompt_ids[p])} (total effect "
        f"{trace.total_effect[p]:.3g} "
        f"{UNITS[trace.metric]})<br><sup>tokens that were corrupted ({_corruption(trace)}) are marked *; one scale "
        f"for all panels{_estimated(trace, slice(p, p + 1))}</sup>"
    )
    return layout(
        figure, title, height=190 + 30 * len(words), top=_TOP, coloraxis=_scale(trace, limit)
    )


def plot_classes(trace: "Trace") -> go.Figure:
    """Average indirect effect by layer and class of token, a map per site on one scale; a dot where max-T says so."""
    frame = trace.by_class()
    maps = _maps(trace)
    names = [trace.sites[s] for s in maps]
    frame = frame[frame.site.isin(names)]
    classes = [c for c in _CLASSES if c in set(frame.token_class)]
    limit = float(frame.value.abs().max()) or 1.0
    figure = _row_of_maps(trace, maps)
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
                hovertemplate="layer %{x}, %{y}: %{z:.3g}<br>%{text}<extra></extra>",
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
    figure.update_yaxes(categoryorder="array", categoryarray=[_CLASSES[c] for c in classes])
    figure.update_yaxes(autorange="reversed")
    title = (
        f"Average indirect effect by layer and token<br><sup>{means(trace)}; a dot: p < {_SIGNIFICANT} by max-T over "
        "all cells of the panel</sup>"
    )
    return layout(figure, title, height=400, top=_TOP, coloraxis=_scale(trace, limit))


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
        f"at {PLACE_NAMES[robustness.place]} over {n} prompts, each row over its own largest; Spearman with the first "
        "row, 95 % intervals over prompts</sup>"
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
    return f"{row.low:.3g} to {row.high:.3g}, n = {row.n:.0f}, p = {row.p:.3f}"


def _hover(trace: "Trace", s: int, estimated: Bool[Tensor, "layer pos"]) -> list[list[str]]:
    """For each token and layer how many layers were restored, and whether the effect was measured."""
    counts = trace.n_restored[s].tolist()
    return [
        [
            f"{n} restored, {'estimated' if e else 'measured'}"
            for n, e in zip(counts, row, strict=True)
        ]
        for row in estimated.T.tolist()
    ]


def _maps(trace: "Trace") -> list[int]:
    """Places of the sites that have a value at every token."""
    return [s for s, name in enumerate(trace.sites) if "_without_" not in name]


def _row_of_maps(trace: "Trace", maps: list[int]) -> go.Figure:
    figure = make_subplots(
        rows=1,
        cols=len(maps),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[site_title(trace, s).replace(" (", "<br>(") for s in maps],
    )
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text="layer")
    return figure


def _scale(trace: "Trace", limit: float) -> dict[str, object]:
    return {
        "colorscale": "RdBu_r",
        "cmin": -limit,
        "cmax": limit,
        "colorbar": {"title": unit(trace)},
    }


def unit(trace: "Trace") -> str:
    """The unit of a trace's effects, in two lines."""
    return UNITS[trace.metric].replace(" of ", "<br>of ", 1)


def _corruption(trace: "Trace") -> str:
    if trace.corruption == "noise":
        return f"noise of {trace.noise:.3g}, mean over {trace.n_noise} draws"
    return "by the counterfactual" if trace.corruption == "replace" else "to the mean embedding"


def means(trace: "Trace") -> str:
    """What a figure of averages is over."""
    told = (
        f"mean over {len(trace.prompt_ids)} prompts with 95 % intervals; mean total effect "
        f"{float(trace.total_effect.mean()):.3g} {UNITS[trace.metric]}; {_corruption(trace)}"
    )
    return told + _estimated(trace, slice(None))


def _estimated(trace: "Trace", prompts: slice) -> str:
    """How many of the cells that are drawn as maps, and not zero for certain, are estimated only."""
    maps = _maps(trace)
    effect, exact = trace.effect[prompts, maps], trace.exact[prompts, maps]
    possible = ~effect.isnan() & ~(exact & (effect == 0))
    share = float((~exact[possible]).float().mean())
    return f"; {share:.0%} of cells estimated only" if share else ""


def site_title(trace: "Trace", s: int) -> str:
    """A site as people call it, and how many layers are restored together."""
    widest = int(trace.n_restored[s].max())
    name = trace.sites[s].removesuffix("_single")
    return f"{SITES.get(name, name)} ({widest} layer{'s' if widest > 1 else ''})"


def _interval(e: Estimate) -> str:
    return f"{e.value:.2f}" if e.low is None else f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})"
