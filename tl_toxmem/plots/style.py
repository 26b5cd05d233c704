"""What all figures share: colours, layout, intervals, and text that is safe to show."""

import html
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from tl_toxmem.masking import mask_slurs

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's palette, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CONTROL_COLOUR = "#999999"
"""Of what is random, beside what was chosen."""


def shown(text: str) -> str:
    """Text from prompts or models as it may stand in a figure: slurs masked, markup inert."""
    return html.escape(mask_slurs(text))


def layout(
    figure: go.Figure, title: str, *, height: int = 420, top: int = 80, **extra: Any
) -> go.Figure:
    """Give a figure its title and the margins that titles and labels need."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 15}, "x": 0.02, "xanchor": "left"},
        height=height,
        margin={"l": 70, "r": 20, "t": top, "b": 60},
        **extra,
    )
    return figure


def error_bars(value: "pd.Series", low: "pd.Series", high: "pd.Series") -> dict[str, Any]:
    """Plotly's error bars for intervals; nothing where there are none."""
    if low.isna().any():
        return {}
    above, below = (high - value).clip(lower=0), (value - low).clip(lower=0)
    return {"error_y": {"array": above.tolist(), "arrayminus": below.tolist(), "width": 2}}
