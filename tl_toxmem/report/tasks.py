"""Tasks of lm-eval: what the harness found of base and every edit, by its own names."""

from tl_toxmem.evaluation import task_rows
from tl_toxmem.report.blocks import Cell, Paragraph, Section, Table
from tl_toxmem.report.cells import NOTHING, edit_name
from tl_toxmem.report.results import Results

_WHAT = (
    "EleutherAI's lm-evaluation-harness on the hooked model, base and every edit alike; names of tasks, metrics and "
    "filters are the harness's own."
)


def tasks_section(results: Results) -> Section | None:
    """A row per task and metric, a column per edit; None without tasks."""
    rows = task_rows(results.evaluation)
    if not rows:
        return None
    edits = list(dict.fromkeys(one["edit"] for one in results.evaluation.tasks))
    table = Table(
        "Results of lm-eval, with the harness's standard errors",
        ("task", "metric", *(edit_name(edit) for edit in edits)),
        tuple(
            (Cell(row.task), Cell(row.metric), *(_cell(row.values.get(edit)) for edit in edits))
            for row in rows
        ),
    )
    return Section("tasks", "Other tasks", (Paragraph(_WHAT), table))


def _cell(found: tuple[float, float | None] | None) -> Cell:
    if found is None:
        return NOTHING
    value, error = found
    return Cell(f"{value:.4g}", "" if error is None else f"standard error {error:.2g}")
