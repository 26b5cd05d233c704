"""The figure of an evaluation."""

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_toxmem.plots.style import COLOURS, CONTROL_COLOUR, layout, shown

if TYPE_CHECKING:
    from tl_toxmem.evaluation import Evaluation

EDITS = {
    "none": "base",
    "deletion": "deletion",
    "random_neurons": "random neurons,<br>same layers",
    "random_early_layers": "random neurons,<br>early layers",
    "random_anywhere": "random neurons,<br>all layers",
    "decoy": "found on<br>benign prompts",
}
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
        colours = [own.get(row.edit, CONTROL_COLOUR) for row in rows]
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
    return layout(figure, title, height=460)
