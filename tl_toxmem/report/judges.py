"""Judges: how far the first agrees with each other one, and on which texts it does not."""

from tl_toxmem.evaluation import BASE
from tl_toxmem.report.blocks import Block, Cell, Details, Paragraph, Section, Table
from tl_toxmem.report.cells import edit_name, number_cell, share_cell
from tl_toxmem.report.masked import masked
from tl_toxmem.report.results import Results
from tl_toxmem.scorers import Agreement

_EDITS = (BASE, "deletion")


def judges_section(results: Results) -> Section | None:
    """Agreement on base's continuations and on those after the deletion; None with one judge."""
    found = [(edit, one) for edit in _EDITS for one in results.evaluation.judges(edit)]
    if not found:
        return None
    sentences = [Paragraph(f"{one}.") for edit, one in found if edit == BASE]
    texts: list[Block] = [_differ(one) for edit, one in found if edit == BASE and one.examples]
    return Section("judges", "Do the judges agree?", (*sentences, _table(found), *texts))


def _table(found: list[tuple[str, Agreement]]) -> Table:
    rows = tuple(
        (
            Cell(edit_name(edit), f"{one.names[0]} and {one.names[1]}, {one.n_texts} texts"),
            share_cell(one.agreement),
            _kappa(one),
            *(share_cell(rate) for rate in one.rates),
        )
        for edit, one in found
    )
    head = (
        "continuations of",
        "same verdict",
        "Cohen's kappa",
        "toxic by the first",
        "toxic by the other",
    )
    return Table("Agreement of judges (95 % intervals, n counts prompts)", head, rows)


def _kappa(one: Agreement) -> Cell:
    if one.kappa is None:
        return Cell("undefined", f"both call {next(iter(one.constant().values()))}")
    return number_cell(one.kappa, 2)


def _differ(one: Agreement) -> Details:
    first, other = one.names
    rows = tuple(
        (
            Cell(masked(example.text)),
            Cell(f"{example.score_a:.2f}"),
            Cell(f"{example.score_b:.2f}"),
        )
        for example in one.examples
    )
    title = f"Continuations of base on which {first} and {other} differ most"
    return Details(title, (Table(title, ("text", first, other), rows),))
