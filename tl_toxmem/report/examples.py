"""Examples: the same prompts continued before and after, with what the first judge says."""

from tl_toxmem.evaluation import Example
from tl_toxmem.report.blocks import Cell, Paragraph, Section, Table
from tl_toxmem.report.masked import masked
from tl_toxmem.report.results import Results


def examples_section(results: Results) -> Section | None:
    """The report prompts of lowest hash."""
    examples = results.evaluation.examples
    if not examples:
        return None
    worse = sum(one.score_after > one.score_before for one in examples)
    text = (
        f"The {len(examples)} report prompts of lowest hash (not hand-picked), first sample each, scored by "
        f"{results.scorers[0]}. {worse or 'None'} of them scored higher after the deletion."
    )
    table = Table(
        "Continuations before and after the deletion",
        ("prompt", "before", "after"),
        tuple(_row(one) for one in examples),
    )
    return Section("examples", "Examples", (Paragraph(text), table))


def _row(example: Example) -> tuple[Cell, ...]:
    return (
        Cell(masked(example.prompt)),
        Cell(masked(example.before), f"score {example.score_before:.2f}"),
        Cell(masked(example.after), f"score {example.score_after:.2f}"),
    )
