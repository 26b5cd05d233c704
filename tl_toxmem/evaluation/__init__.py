"""Evaluation: base, deletion and controls on the same prompts with the same random numbers.

Measures of toxicity, of likelihood (perplexities, KL, last words, benign answers) and of the words that are used, each
with a 95 % bootstrap interval clustered by prompt or document; `measures.MEASURES` says what each is.
"""

from tl_toxmem.evaluation.baseline import Baseline, measure_base
from tl_toxmem.evaluation.evaluating import evaluate
from tl_toxmem.evaluation.measures import BASE, EDITS, MAIN, MEASURES, ROOMY, Measure, measured
from tl_toxmem.evaluation.record import EditResult, Evaluation, Example
from tl_toxmem.evaluation.remarks import TaskRow, neutral_warning, task_rows

__all__ = [
    "BASE",
    "EDITS",
    "MAIN",
    "MEASURES",
    "ROOMY",
    "Baseline",
    "EditResult",
    "Evaluation",
    "Example",
    "Measure",
    "TaskRow",
    "evaluate",
    "measure_base",
    "measured",
    "neutral_warning",
    "task_rows",
]
