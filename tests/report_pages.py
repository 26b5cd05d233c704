"""Pages of results with everything in them, and what tests read from pages."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

MARKUP = "</script><script>alert(3)</script><b>"
TOKEN = "</script><b>"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> you stupid idiot"
JUDGES = ("profanity", "second <b>judge</b>")


def read(folder: Path):
    """The results of a finished folder."""
    from tl_toxmem.report.results import read_results
    from tl_toxmem.store import RunFolder

    return read_results(RunFolder(folder))


def full(results, *, text: str = "you stupid idiot"):
    """The same results with two judges, a comparison, a search, and `text` wherever prompts and models may speak."""
    from tl_toxmem.comparison import Comparison, Entry
    from tl_toxmem.scorers import judge_agreement
    from tl_toxmem.select import Tried

    evaluation = results.evaluation
    rows = [replace(row, scorer=name) for row in evaluation.rows for name in JUDGES]
    rows = [
        replace(r, mean_toxicity=replace(r.mean_toxicity, value=0.123))
        if r.scorer != JUDGES[0]
        else r
        for r in rows
    ]
    agreement = judge_agreement(
        [[0.9, 0.1], [0.2, 0.7]],
        [[0.8, 0.6], [0.1, 0.9]],
        threshold=0.5,
        names=JUDGES,
        seed=0,
        texts=[[text, "b"], ["c", text]],
        n_examples=2,
    )
    examples = tuple(replace(e, prompt=text, before=text, after=text) for e in evaluation.examples)
    evaluation = replace(
        evaluation,
        rows=tuple(rows),
        examples=examples,
        agreement=(
            {"edit": "none", **agreement.to_json()},
            {"edit": "deletion", **agreement.to_json()},
        ),
    )
    entries = [
        Entry(row.edit, row.edit, f"{row.edit} {TOKEN}", "deletion", "neurons", 3.0)
        for row in results.evaluation.rows
        if row.edit != "none"
    ]
    cards = tuple(
        replace(
            card,
            excited=tuple(replace(one, prompt=text, token=text) for one in card.excited),
            changes=tuple(
                replace(one, prompt=text, before=text, after=text + "!") for one in card.changes
            ),
            raised=tuple((text, value) for _, value in card.raised),
            lowered=tuple((text, value) for _, value in card.raised),
        )
        for card in results.selection.cards
    )
    trials = (
        Tried(0, {"law": "scale", "k": 3, "factor": 0.5}, 0.001, 0.002, 0.25),
        Tried(1, {"law": "gates", "share": 0.7}, 0.1, 0.2, None),
    )
    trace = results.trace
    words = tuple((TOKEN, *own[1:]) for own in trace.words)
    return replace(
        results,
        evaluation=evaluation,
        selection=replace(results.selection, cards=cards, trials=trials),
        trace=replace(trace, words=words, prompt_ids=(text, *trace.prompt_ids[1:])),
        comparison=Comparison(evaluation, tuple(entries), None, (f"one method: {MARKUP}",)),
    )


def page_of(results) -> str:
    """The page of results."""
    from tl_toxmem.report.page import page_html

    return page_html(results)


class Page(HTMLParser):
    """What is in a page: elements, running scripts, data, and text that is read."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements, self.scripts, self.data, self.styles, self.text = [], [], [], [], ""
        self._in = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self._in = self.data if dict(attrs).get("type") == "application/json" else self.scripts
            self._in.append("")
        elif tag == "style":
            self._in = self.styles
            self._in.append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._in = None

    def handle_data(self, data):
        if self._in is None:
            self.text += data
        else:
            self._in[-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def classed(self, name):
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]

    @property
    def sections(self):
        return [attrs["id"] for attrs in self.all("section")]

    @property
    def policy(self):
        found = next(a["content"] for a in self.all("meta") if a.get("http-equiv"))
        return {part.split()[0]: part.split()[1:] for part in found.split("; ")}
