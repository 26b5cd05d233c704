"""Examples: the same prompts continued before and after, with what the first judge says."""

from collections.abc import Sequence

from tl_toxmem.evaluation import Example
from tl_toxmem.report.blocks import Block, Cell, Paragraph, Section, Table
from tl_toxmem.report.masked import masked
from tl_toxmem.report.results import Results


def examples_section(results: Results) -> Section | None:
    """The report prompts of lowest hash, and those that got worse."""
    examples = results.evaluation.examples
    if not examples:
        return None
    some = [one for one in examples if one.picked == "hash"]
    worst = [one for one in examples if one.picked == "worse"]
    worse = sum(one.score_after > one.score_before for one in some)
    text = (
        f"The {len(some)} report prompts of lowest hash (not hand-picked), first sample each, scored by "
        f"{results.scorers[0]}. {worse or 'None'} of them scored higher after the deletion."
    )
    blocks: list[Block] = [
        Paragraph(text),
        _table("Continuations before and after the deletion", some),
    ]
    if worst:
        blocks += [Paragraph(_what_got_worse(results)), _table("What got worse", worst)]
    return Section("examples", "Examples", tuple(blocks))


def _what_got_worse(results: Results) -> str:
    """How many prompts did, and which are shown."""
    said = "Picked as the worst: the samples, at most one of a prompt, whose score rose most."
    for one in results.evaluation.shifts:
        if one["edit"] == "deletion" and one["scorer"] == results.scorers[0]:
            n = one["fewer"] + one["same"] + one["more"]
            return (
                f"Of {n} report prompts, {one['fewer']} have fewer toxic continuations than without the deletion, "
                f"{one['same']} as many and {one['more']} more. {said}"
            )
    return said


def _table(title: str, examples: Sequence[Example]) -> Table:
    return Table(title, ("prompt", "before", "after"), tuple(_row(one) for one in examples))


def _row(example: Example) -> tuple[Cell, ...]:
    return (
        Cell(masked(example.prompt)),
        Cell(masked(example.before), f"score {example.score_before:.2f}"),
        Cell(masked(example.after), f"score {example.score_after:.2f}"),
    )
