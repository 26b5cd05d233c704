"""The toxicity-perplexity front of a comparison."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from tl_toxmem.comparison.record import OURS
from tl_toxmem.evaluation import BASE
from tl_toxmem.plots.style import COLOURS, CONTROL_COLOUR, layout, shown

if TYPE_CHECKING:
    from tl_toxmem.comparison import Comparison
    from tl_toxmem.stats import Estimate

_TICKS = (-3, -1, 0, 1, 3, 10, 30, 100, 300, 1000, 10_000)
_LEGEND = 44
"""Characters of a line."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")


def plot_front(comparison: "Comparison", *, scorer: str | None = None) -> go.Figure:
    """A line per method through its strengths: rise of neutral perplexity against the share of toxic continuations.

    Percents of perplexity are drawn on a scale that is even near zero and logarithmic beyond (inverse hyperbolic sine),
    since some methods cost a hundredth of a percent and others a thousand percent. Crosses are 95 % intervals.
    """
    figure = go.Figure()
    colours, symbols = iter(COLOURS * 3), iter(_SYMBOLS * 6)
    lowest, highest = -1.0, 3.0
    for method in comparison.methods:
        laws = comparison.of(method, scorer=scorer)
        entry = laws[0][0]
        control = entry.family == "control"
        ratios = [row.neutral_perplexity_ratio for _, row in laws]
        rates = [row.toxicity_rate for _, row in laws]
        rises = [_percent(ratio.value) for ratio in ratios]
        lowest, highest = min(lowest, *rises), max(highest, *rises)
        figure.add_trace(
            go.Scatter(
                x=[_even(rise) for rise in rises],
                y=[rate.value for rate in rates],
                error_x=_bars([_even(_percent(v)) for v in _values(ratios)]),
                error_y=_bars(_values(rates)),
                name="<br>".join(map(shown, textwrap.wrap(entry.label, _LEGEND))),
                mode="lines+markers",
                cliponaxis=False,  # whole markers at 0 %
                line={"color": CONTROL_COLOUR if control else next(colours), "width": 1},
                marker={"symbol": next(symbols), "size": 12 if method == OURS else 7},
                customdata=[
                    [entry.unit, entry.strength, rise]
                    for (entry, _), rise in zip(laws, rises, strict=True)
                ],
                hovertemplate="%{y:.1%} toxic at %{customdata[2]:+.2f} % perplexity<br>%{customdata[0]}: "
                "%{customdata[1]:g}<extra>%{fullData.name}</extra>",
            )
        )
    base = comparison.evaluation.row(BASE, scorer=scorer)
    figure.add_hline(y=base.toxicity_rate.value, line_dash="dot", annotation_text="base")
    ticks = [t for t in _TICKS if 3 * lowest <= t <= 3 * highest or t in (0, 1)]
    p = comparison.evaluation.protocol
    title = (
        f"Toxicity against perplexity, every method at every strength<br><sup>{p['n_prompts']} held-out prompts, "
        f"scorer {shown(base.scorer)}, 95 % intervals clustered by prompt and document; controls are grey<br>"
        f"{shown(p['description'])}</sup>"
    )
    figure.update_xaxes(
        title="rise of neutral perplexity (%)",
        tickvals=[_even(t) for t in ticks],
        ticktext=[f"{t:+,}" if t else "0" for t in ticks],
    )
    figure.update_yaxes(title="toxic continuations", tickformat=".0%", rangemode="tozero")
    return layout(figure, title, height=580, top=110)


def _percent(ratio: float) -> float:
    return 100 * (ratio - 1)


def _even(percent: float) -> float:
    return math.asinh(2 * percent)


def _values(estimates: "Sequence[Estimate]") -> list[float]:
    """Value, low and high of each, one after the other."""
    return [
        v
        for e in estimates
        for v in (
            e.value,
            e.value if e.low is None else e.low,
            e.value if e.high is None else e.high,
        )
    ]


def _bars(values: Sequence[float]) -> dict[str, Any]:
    """Plotly's error bars from value, low and high."""
    middle, low, high = values[::3], values[1::3], values[2::3]
    return {
        "array": [max(0.0, h - m) for m, h in zip(middle, high, strict=True)],
        "arrayminus": [max(0.0, m - lo) for m, lo in zip(middle, low, strict=True)],
        "thickness": 0.8,
        "width": 2,
    }
