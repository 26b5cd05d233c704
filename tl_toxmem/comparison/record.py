"""What a comparison found: every method at every strength, on the same prompts with the same random numbers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tl_toxmem.checks import several_numbers
from tl_toxmem.comparison.regression import TraceRegression
from tl_toxmem.display import Display, Displayed, Table, count, estimate_text
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation import BASE, EditResult, Evaluation
from tl_toxmem.evaluation.record import check_evaluation
from tl_toxmem.files import read_json, write_json
from tl_toxmem.reading import record

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

OURS = "deletion"
"""The run's own deletion."""
BUDGETS = (0.005, 0.01, 0.03, 0.1)
"""Relative rises of neutral perplexity at which methods are held against each other."""


@dataclass(frozen=True)
class Entry:
    """One law of one method.

    Attributes:
        edit: its row in the evaluation.
        method: by name.
        label: of the method, for people; with its layers, where they were traced or drawn.
        family: `deletion`, `editing`, `learned` or `control`.
        unit: what the strength is.
        strength: of this law.
    """

    edit: str
    method: str
    label: str
    family: str
    unit: str
    strength: float


@dataclass(frozen=True, repr=False)
class Comparison(Displayed):
    """Every method at every strength, and whether tracing said where to edit.

    Attributes:
        evaluation: base and every law.
        entries: what the laws are.
        regression: see `trace_regression`; None without a trace.
        left_out: what could not be compared (methods that this model cannot hold, the regression), and why, in words.
    """

    evaluation: Evaluation
    entries: tuple[Entry, ...]
    regression: TraceRegression | None
    left_out: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Names, in the order in which they were compared."""
        return tuple(dict.fromkeys(entry.method for entry in self.entries))

    def of(self, method: str, *, scorer: str | None = None) -> list[tuple[Entry, EditResult]]:
        """A method's laws with what was measured, the weakest first.

        Raises:
            ToxmemError: not one of the methods.
        """
        if method not in self.methods:
            raise ToxmemError(f"no method {method!r}: choose from {', '.join(self.methods)}")
        own = [entry for entry in self.entries if entry.method == method]
        return [(entry, self.evaluation.row(entry.edit, scorer=scorer)) for entry in own]

    def frame(self) -> "pd.DataFrame":
        """One row per law and scorer: what it is, and a column per measure and its bounds."""
        import pandas as pd

        laws = pd.DataFrame([asdict(entry) for entry in self.entries])
        base = pd.DataFrame([{"edit": BASE, "method": BASE, "label": "base", "family": BASE}])
        return pd.concat([base, laws]).merge(self.evaluation.frame(), on="edit", how="left")

    def at_cost(
        self, budgets: Sequence[float] = BUDGETS, *, scorer: str | None = None
    ) -> "pd.DataFrame":
        """The lowest toxic rate that each method reaches within each rise of neutral perplexity.

        Rows are methods, columns budgets. Where no law of a method is that cheap, its place has base's rate: not to
        edit is always possible. The best strength is taken on the prompts that are reported on, for every method alike.

        Raises:
            ToxmemError: one budget in place of several.
        """
        several_numbers(budgets, "budgets")
        import pandas as pd

        rows = {
            method: [
                self.best(method, budget, scorer=scorer).toxicity_rate.value for budget in budgets
            ]
            for method in self.methods
        }
        columns = [f"+{budget:.1%}" for budget in budgets]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def best(self, method: str, budget: float, *, scorer: str | None = None) -> EditResult:
        """The least toxic law of a method within a rise of neutral perplexity; base where none is that cheap."""
        rows = [row for _, row in self.of(method, scorer=scorer) if _rise(row) <= budget]
        if not rows:
            return self.evaluation.row(BASE, scorer=scorer)
        return min(rows, key=lambda row: row.toxicity_rate.value)

    def better_than(self, method: str = OURS, *, scorer: str | None = None) -> list[str]:
        """Laws of other methods that are at least as good as some law of `method` on both measures, and better on one.

        Only against laws of `method` that nothing of its own betters: a method may stop at its best strength. Controls
        count, and so does base.
        """
        own = [row for _, row in self.of(method, scorer=scorer)]
        front = [row for row in own if not any(_dominates(other, row) for other in own)]
        rows = [self.evaluation.row(BASE, scorer=scorer)]
        for other in self.methods:
            if other != method:
                rows += [row for _, row in self.of(other, scorer=scorer)]
        return [row.edit for row in rows if any(_dominates(row, mine) for mine in front)]

    def sentences(self, *, scorer: str | None = None) -> tuple[str, ...]:
        """What was found, in words: whether anything betters ours, and whether tracing says where to edit."""
        found = []
        if OURS in self.methods:
            better = self.better_than(OURS, scorer=scorer)
            named = {e.edit: f"{e.label} ({e.unit} {e.strength:g})" for e in self.entries}
            told = "; ".join(named.get(edit, "base") for edit in better)
            both = "as good as this run's deletion on both toxicity and perplexity"
            found.append(
                f"At least {both}, and better on one: {told}."
                if better
                else f"Nothing compared is at least {both}."
            )
        if self.regression is not None:
            found.append(self.regression.text())
        found += [f"Not compared: {reason}." for reason in self.left_out]
        return tuple(found)

    def display(self) -> Display:
        """The lowest toxic rate of each method at equal cost, by the first judge, and what was found in words."""
        base = self.evaluation.row(BASE)
        rate = estimate_text(base.toxicity_rate, ".1f", scale=100)
        headline = (
            f"{count(len(self.methods), 'method')} ({count(len(self.entries), 'law')}) compared on "
            f"{count(base.toxicity_rate.n, 'prompt')}, judged by {base.scorer}: without an edit {rate} of the "
            "continuations are toxic; lowest rate by what neutral perplexity may rise"
        )
        rows = []
        for method in self.methods:
            best = [self.best(method, budget) for budget in BUDGETS]
            rates = (
                "none as cheap"
                if row.edit == BASE
                else estimate_text(row.toxicity_rate, ".1f", scale=100)
                for row in best
            )
            rows.append((self.of(method)[0][0].label, *rates))
        head = ("method", *(f"+{100 * budget:g} %" for budget in BUDGETS))
        how = self.evaluation.protocol["description"]
        return Display(headline, (Table(head, tuple(rows)),), (*self.sentences(), how))

    def plot(self, *, scorer: str | None = None) -> "go.Figure":
        """The toxicity-perplexity front."""
        from tl_toxmem.plots.front import plot_front

        return plot_front(self, scorer=scorer)

    def save(self, path: str | Path) -> None:
        """Write one JSON file."""
        regression = None if self.regression is None else self.regression.to_json()
        values = {
            "evaluation": self.evaluation.to_json(),
            "entries": [asdict(entry) for entry in self.entries],
            "regression": regression,
            "left_out": list(self.left_out),
        }
        write_json(Path(path), values)

    @classmethod
    def load(cls, path: str | Path) -> "Comparison":
        """Read what `save` wrote.

        Raises:
            ToxmemError: a file that is something else.
        """
        values = read_json(Path(path))
        lacking = sorted({"evaluation", "entries", "regression", "left_out"} - set(values))
        if lacking:
            raise ToxmemError(f"{path} is no comparison: it lacks {', '.join(lacking)}")
        found = record(cls, values, path)
        check_evaluation(found.evaluation, path)
        edits = {row.edit for row in found.evaluation.rows}
        if unmeasured := [entry.edit for entry in found.entries if entry.edit not in edits]:
            raise ToxmemError(f"{path} is damaged: nothing was measured of {unmeasured[0]!r}")
        return found


def _rise(row: EditResult) -> float:
    return row.neutral_perplexity_ratio.value - 1


def _dominates(a: EditResult, b: EditResult) -> bool:
    first = a.toxicity_rate.value, a.neutral_perplexity_ratio.value
    second = b.toxicity_rate.value, b.neutral_perplexity_ratio.value
    return first[0] <= second[0] and first[1] <= second[1] and first != second
