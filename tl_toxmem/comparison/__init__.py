"""Our deletion against the field's methods: same prompts, same random numbers, same judges."""

from tl_toxmem.comparison.comparing import compare
from tl_toxmem.comparison.material import benign_alternatives, make_material, traced_layer
from tl_toxmem.comparison.methods import METHODS, check_methods, check_names, what_is_there
from tl_toxmem.comparison.record import BUDGETS, OURS, Comparison, Entry
from tl_toxmem.comparison.regression import TraceRegression, regress, trace_regression

__all__ = [
    "BUDGETS",
    "METHODS",
    "OURS",
    "Comparison",
    "Entry",
    "TraceRegression",
    "benign_alternatives",
    "check_methods",
    "check_names",
    "compare",
    "make_material",
    "regress",
    "trace_regression",
    "traced_layer",
    "what_is_there",
]
