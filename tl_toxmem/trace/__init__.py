"""Causal tracing: which states, put back into a corrupted run, bring the target back."""

from tl_toxmem.trace.agreement import Profile, Robustness
from tl_toxmem.trace.causal import causal_trace, plan_trace
from tl_toxmem.trace.cells import parts_of
from tl_toxmem.trace.question import Answer
from tl_toxmem.trace.record import FIGURES, Figure, Trace
from tl_toxmem.trace.robustness import can_replace, check_robustness
from tl_toxmem.trace.statistics import PLACES, Place, mediating_layers

__all__ = [
    "FIGURES",
    "PLACES",
    "Answer",
    "Figure",
    "Place",
    "Profile",
    "Robustness",
    "Trace",
    "can_replace",
    "causal_trace",
    "check_robustness",
    "mediating_layers",
    "parts_of",
    "plan_trace",
]
