"""The figure of an evaluation."""

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_toxmem.evaluation.measures import EDITS, MAIN, MEASURES
from tl_toxmem.plots.style import COLOURS, CONTROL_COLOUR, layout, shown

if TYPE_CHECKING:
    from tl_toxmem.evaluation import Evaluation


def plot_evaluation(evaluation: "Evaluation") -> go.Figure:
    """Bars with 95 % intervals: base, deletion and controls (first scorer)."""
    scorer = evaluation.rows[0].scorer
    rows = [row for row in evaluation.rows if row.scorer == scorer]
    headline = evaluation.protocol["headline"]
    wanted = dict.fromkeys((headline, *MAIN))
    panels = [MEASURES[m] for m in wanted if all(getattr(row, m) is not None for row in rows)]
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=[p.label for p in panels])
    names = [_name(row.edit) for row in rows]
    for column, panel in enumerate(panels, start=1):
        estimates = [getattr(row, panel.name) for row in rows]
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
        figure.update_yaxes(tickformat=panel.tick, rangemode="tozero", row=1, col=column)
    p = evaluation.protocol
    title = (
        f"Before and after, with controls of equal size<br><sup>{p['n_prompts']} held-out prompts, scorer "
        f"{shown(scorer)}, 95 % intervals clustered by prompt<br>{shown(p['description'])}</sup>"
    )
    return layout(figure, title, height=480, top=110)


def _name(edit: str) -> str:
    """A row's name, in two lines where it has two parts."""
    return EDITS.get(edit, shown(edit.replace("_", " "))).replace(", ", ",<br>")
