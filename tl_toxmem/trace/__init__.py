"""Causal tracing: which states, put back into a corrupted run, bring the target back."""

from tl_toxmem.trace.causal import causal_trace
from tl_toxmem.trace.cells import PARTS, Panel, resolve_window, window_of
from tl_toxmem.trace.record import PLACES, Place, Trace

__all__ = [
    "PARTS",
    "PLACES",
    "Panel",
    "Place",
    "Trace",
    "causal_trace",
    "resolve_window",
    "window_of",
]
