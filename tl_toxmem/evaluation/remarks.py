"""What is told along with an evaluation's table: lm-eval's results side by side, and neutral text of another kind."""

import math
from dataclasses import dataclass

from tl_toxmem.evaluation.measures import BASE
from tl_toxmem.evaluation.record import Evaluation

HIGH_PERPLEXITY = 100.0
"""Per token: a language model reads text of its own kind below this, also small models on WikiText."""
_OF_VOCABULARY = 0.5
"""Of the vocabulary's size, which is the perplexity of guessing: nearer to that a model tells little apart."""
_ERROR = "_stderr"


@dataclass(frozen=True)
class TaskRow:
    """One metric of one task.

    Attributes:
        task: by the harness's name.
        metric: likewise, with its filter in brackets where there is one.
        values: by edit, value and standard error (None where the harness gives none).
    """

    task: str
    metric: str
    values: dict[str, tuple[float, float | None]]


def task_rows(evaluation: Evaluation) -> list[TaskRow]:
    """The results of lm-eval, a row per task and metric; empty without any."""
    rows: dict[tuple[str, str], TaskRow] = {}
    for one in evaluation.tasks:
        values = one["values"]
        for name, value in values.items():
            metric, comma, kind = name.partition(",")
            if not comma or metric.endswith(
                _ERROR
            ):  # without a comma: facts such as the number of documents
                continue
            error = values.get(f"{metric}{_ERROR},{kind}")
            called = metric if kind in ("", "none") else f"{metric} ({kind})"
            row = rows.setdefault((one["task"], name), TaskRow(one["task"], called, {}))
            row.values[one["edit"]] = value, error
    return list(rows.values())


def neutral_warning(evaluation: Evaluation) -> str | None:
    """In words, that the neutral text is none of base's kind; None if it may be."""
    base = next((row for row in evaluation.rows if row.edit == BASE), None)
    if base is None:
        return None
    found, size = base.neutral_perplexity.value, evaluation.protocol.get("vocabulary", math.inf)
    if found <= min(HIGH_PERPLEXITY, _OF_VOCABULARY * size):
        return None
    guessing = (
        "" if math.isinf(size) else f", where guessing among its {size:,} tokens has {size:,}"
    )
    return (
        f"Base's perplexity on the neutral text is {found:,.1f} per token{guessing}: the text is of another kind than "
        "this model's, so that what the edit costs on it says little about what it costs on text that the model is "
        "used for. Give neutral text of the model's own kind (--neutral)."
    )
