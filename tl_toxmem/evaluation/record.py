"""What an evaluation found: a row per edit and scorer, the protocol they were made by, and examples."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tl_toxmem.config import MeasureName
from tl_toxmem.display import Display, Displayed, Table, count
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation.measures import BASE, EDITS, MAIN, MEASURES, measured
from tl_toxmem.files import read_json, write_json
from tl_toxmem.reading import record
from tl_toxmem.scorers import Agreement
from tl_toxmem.stats import Estimate

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


_PROTOCOL = ("description", "headline", "intervals", "n_prompts")
"""What is always told of a protocol."""


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """One row: what one edit does, by one scorer. What was not measured is None; see `measures.MEASURES`.

    Attributes:
        edit: `none`, `deletion`, `random_neurons`, `random_early_layers`, ...
        n_neurons: how many it touches.
        layers: which layers they are in.
        scorer: who judged.
        seed: of sampling and intervals.
        toxicity_rate: share of continuations scored at or above the threshold.
        toxicity_change: the toxic rate less base's, paired by prompt; None for base.
        expected_max_toxicity: mean over prompts of the highest score among a prompt's continuations.
        any_toxic: share of prompts with at least one toxic continuation.
        mean_toxicity: mean score.
        neutral_perplexity: of the neutral text kept for reporting.
        neutral_perplexity_ratio: the edit's over base's, paired by document; 1 for base.
        kl_neutral: mean KL(base || edit) per neutral token, nats.
        prompt_perplexity: of the prompts' own tokens.
        continuation_perplexity: of the edit's continuations, given their prompts, under the unedited model.
        kl_continuations: mean KL(base || edit) per token of base's own continuations, nats.
        last_word_accuracy: share of the neutral documents whose last word is the greedy continuation of the rest.
        benign_kept: share of the benign prompts that base answers right (greedy, whole target) and the edit
            still does; None also without benign prompts.
        dist_1: different words of a prompt's continuations over all of their words.
        dist_2: different bigrams over all words.
        dist_3: different trigrams over all words.
        repetition: share of a continuation's 4-grams that stood in it before.
        entropy: of a continuation's bigrams and trigrams, weighted as in ROME, bits.
    """

    edit: str
    n_neurons: int
    layers: tuple[int, ...]
    scorer: str
    seed: int
    toxicity_rate: Estimate
    neutral_perplexity: Estimate
    neutral_perplexity_ratio: Estimate
    toxicity_change: Estimate | None = None
    expected_max_toxicity: Estimate | None = None
    any_toxic: Estimate | None = None
    mean_toxicity: Estimate | None = None
    kl_neutral: Estimate | None = None
    prompt_perplexity: Estimate | None = None
    continuation_perplexity: Estimate | None = None
    kl_continuations: Estimate | None = None
    last_word_accuracy: Estimate | None = None
    benign_kept: Estimate | None = None
    dist_1: Estimate | None = None
    dist_2: Estimate | None = None
    dist_3: Estimate | None = None
    repetition: Estimate | None = None
    entropy: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "layers": list(self.layers)}


@dataclass(frozen=True)
class Example:
    """One continuation of a prompt before and after the deletion, with the first scorer's scores.

    Attributes:
        picked: `hash`, a prompt of lowest hash and its first sample; or `worse`, one of those whose score rose most.
    """

    prompt: str
    before: str
    after: str
    score_before: float
    score_after: float
    picked: Literal["hash", "worse"] = "hash"


_SHOWN: tuple[MeasureName, ...] = (*MAIN, "kl_neutral")


@dataclass(frozen=True, repr=False)
class Evaluation(Displayed):
    """Rows per edit and scorer.

    Attributes:
        rows: base first.
        protocol: how they were made, `description` in one line.
        examples: prompts before and after.
        agreement: of the first judge with each other one on each edit's continuations, as plain values; empty with one
            judge.
        tasks: of lm-eval: one object per edit and task, `edit`, `task` and `values` by the harness's own names.
        shifts: one object per deletion and scorer: `edit`, `scorer`, and of how many prompts `fewer`, as many (`same`)
            or `more` continuations are toxic than of base.
    """

    rows: tuple[EditResult, ...]
    protocol: dict[str, Any]
    examples: tuple[Example, ...]
    agreement: tuple[dict[str, Any], ...] = ()
    tasks: tuple[dict[str, Any], ...] = ()
    shifts: tuple[dict[str, Any], ...] = ()

    def row(self, edit: str, *, scorer: str | None = None) -> EditResult:
        """The row of an edit (of the first scorer, unless named)."""
        for row in self.rows:
            if row.edit == edit and scorer in (None, row.scorer):
                return row
        edits = ", ".join(dict.fromkeys(r.edit for r in self.rows))
        raise ToxmemError(f"no row {edit!r} of scorer {scorer!r}; edits: {edits}")

    @property
    def nothing_toxic(self) -> tuple[str, ...]:
        """Scorers that call none of base's continuations toxic: of theirs, no rate says what an edit removes."""
        return tuple(r.scorer for r in self.rows if r.edit == BASE and r.toxicity_rate.value == 0)

    def judges(self, edit: str = BASE) -> list[Agreement]:
        """How far the first judge agrees with each other one on an edit's continuations; empty with one judge."""
        found = [dict(one) for one in self.agreement]
        return [Agreement.from_json(one) for one in found if one.pop("edit") == edit]

    def frame(self) -> "pd.DataFrame":
        """One row per edit and scorer, a column per measure and its bounds; NaN where it was not measured."""
        import pandas as pd

        rows = []
        for row in self.rows:
            values: dict[str, Any] = {
                "edit": row.edit,
                "scorer": row.scorer,
                "n_neurons": row.n_neurons,
            }
            for name in MEASURES:
                estimate = getattr(row, name)
                low, high = (None, None) if estimate is None else (estimate.low, estimate.high)
                value = None if estimate is None else estimate.value
                values |= {name: value, f"{name}_low": low, f"{name}_high": high}
            rows.append(values)
        frame = pd.DataFrame(rows)
        return frame.astype({c: float for c in frame.columns[3:]})

    def plot(self) -> "go.Figure":
        """Bars per edit with intervals."""
        from tl_toxmem.plots import plot_evaluation

        return plot_evaluation(self)

    def display(self) -> Display:
        """The main measures, a row per edit and judge; `frame` has them all."""
        columns = measured(self.rows, _SHOWN, headline=self.protocol.get("headline"))
        judges = list(dict.fromkeys(row.scorer for row in self.rows))
        labels = (f"{m.label} ({m.unit})" if m.unit else m.label for m in columns)
        rows = []
        for row in self.rows:
            cells = (m.cell(getattr(row, m.name)) for m in columns)
            told = (f"{value} ({bounds})" if bounds else value or "–" for value, bounds in cells)
            who = [row.scorer] * (len(judges) > 1)
            rows.append((EDITS.get(row.edit, row.edit), *who, str(row.n_neurons), *told))
        head = ("edit", *["judge"] * (len(judges) > 1), "neurons", *labels)
        notes = [str(one) + "." for one in self.judges()]
        notes += [f"{name} calls nothing that base says toxic." for name in self.nothing_toxic]
        how = [self.protocol["description"], self.protocol.get("intervals")]
        return Display(
            self._headline(judges),
            (Table(head, tuple(rows)),),
            (*notes, "; ".join(filter(None, how))),
        )

    def _headline(self, judges: list[str]) -> str:
        """What base says that is toxic, and the deletion, or what stands first."""
        toxic = MEASURES["toxicity_rate"]
        base, *others = [row for row in self.rows if row.scorer == judges[0]]
        first = next(
            (row for row in others if row.edit == "deletion"), others[0] if others else None
        )
        on = f"{count(base.toxicity_rate.n, 'prompt')}, judged by {judges[0]}"
        said = f"{toxic.text(base.toxicity_rate.value)} toxic continuations without an edit"
        if first is not None:
            edit = EDITS.get(first.edit, first.edit)
            said += f", {toxic.text(first.toxicity_rate.value)} with {edit}"
        return f"{count(len(others), 'edit')} evaluated on {on}: {said}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "protocol": self.protocol,
            "rows": [row.to_json() for row in self.rows],
            "examples": [asdict(example) for example in self.examples],
            "agreement": list(self.agreement),
            "tasks": list(self.tasks),
            "shifts": list(self.shifts),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], *, where: object = "the evaluation") -> "Evaluation":
        """From what `to_json` gave; a measure that it does not know of is None.

        Args:
            values: plain ones.
            where: they are from, to be named.

        Raises:
            ToxmemError: they make no evaluation, saying why.
        """
        found = record(cls, values, where)
        check_evaluation(found, where)
        return found

    def save(self, path: str | Path) -> None:
        """Write one JSON file."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Read what `save` wrote.

        Raises:
            ToxmemError: missing, damaged, or something else.
        """
        return cls.from_json(read_json(Path(path)), where=path)


def check_evaluation(evaluation: Evaluation, where: object) -> None:
    """Refuse what no evaluation says.

    Raises:
        ToxmemError: naming it.
    """
    protocol = evaluation.protocol
    if not evaluation.rows:
        raise ToxmemError(f"{where} is damaged: it has no rows")
    if lacking := [name for name in _PROTOCOL if name not in protocol]:
        raise ToxmemError(f"{where} is damaged: its protocol lacks {', '.join(lacking)}")
    if str(protocol["headline"]) not in MEASURES:
        raise ToxmemError(f"{where} is damaged: no measure {protocol['headline']!r}")
    if any("edit" not in one for one in evaluation.agreement):
        raise ToxmemError(f"{where} is damaged: an agreement of judges without its edit")
    for one in {row.edit for row in evaluation.rows}:
        evaluation.judges(one)
