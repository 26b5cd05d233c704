"""Figures: one plotly function per record. No model code; words shown to people are masked and escaped."""

from tl_toxmem.plots.evaluation import plot_evaluation
from tl_toxmem.plots.profiles import plot_layers, plot_severed, plot_shares
from tl_toxmem.plots.scores import NAMES, plot_k_curve, plot_scores
from tl_toxmem.plots.style import shown
from tl_toxmem.plots.trace import plot_classes, plot_robustness, plot_trace

__all__ = [
    "NAMES",
    "plot_classes",
    "plot_evaluation",
    "plot_k_curve",
    "plot_layers",
    "plot_robustness",
    "plot_scores",
    "plot_severed",
    "plot_shares",
    "plot_trace",
    "shown",
]
