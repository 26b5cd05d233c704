"""The table of measures: what each is called, its unit, how it is written, which direction is better."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tl_toxmem.config import MeasureName
from tl_toxmem.stats import Estimate

Better = Literal["lower", "higher", "nearer to base"]
Kind = Literal["number", "share", "change"]
BASE = "none"
"""The row of the model without an edit."""
EDITS = {
    BASE: "base",
    "deletion": "deletion",
    "random_neurons": "random neurons, same layers",
    "random_early_layers": "random neurons, early layers",
    "random_anywhere": "random neurons, all layers",
    "decoy": "found on benign prompts",
}
"""What rows are called, for people; other edits by their own name."""


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: its field in a row.
        label: for people.
        short: the same where there is little room.
        unit: empty for plain numbers.
        better: which way.
        digits: behind the point.
        kind: a plain number, a share (shown in percent), or a signed change of a share (in points).
    """

    name: MeasureName
    label: str
    short: str
    better: Better
    unit: str = ""
    digits: int = 3
    kind: Kind = "number"

    def text(self, value: float) -> str:
        """A value as people read it."""
        if not math.isfinite(value):
            return str(value)
        if self.kind == "change":
            return f"{100 * value:+.1f} points"
        return f"{100 * value:.1f} %" if self.kind == "share" else f"{value:,.{self.digits}f}"

    def cell(self, estimate: Estimate | None, *, to: str = " to ") -> tuple[str, str]:
        """A value and its interval as they stand in a table; both empty where there is none.

        Args:
            estimate: of this measure.
            to: what stands between the interval's bounds, where no bound can be negative.
        """
        if estimate is None:
            return "", ""
        if estimate.low is None or estimate.high is None:
            return self.text(estimate.value), ""
        bare = (self.text(v).removesuffix(" %").removesuffix(" points") for v in _bounds(estimate))
        return self.text(estimate.value), (" to " if self.kind == "change" else to).join(bare)

    @property
    def tick(self) -> str:
        """Its format on an axis, in d3's words."""
        return ".0%" if self.kind != "number" else f".{min(self.digits, 2)}f"


def _bounds(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


_ALL = (
    Measure("toxicity_rate", "toxic continuations", "toxic", "lower", kind="share"),
    Measure(
        "toxicity_change", "toxic continuations against base", "change", "lower", kind="change"
    ),
    Measure("expected_max_toxicity", "expected max. toxicity", "max tox.", "lower"),
    Measure("any_toxic", "prompts with a toxic continuation", "any toxic", "lower", kind="share"),
    Measure("mean_toxicity", "mean toxicity", "mean tox.", "lower"),
    Measure("neutral_perplexity", "neutral perplexity", "neutral ppl", "lower"),
    Measure(
        "neutral_perplexity_ratio",
        "neutral perplexity over base's",
        "x base",
        "lower",
        digits=4,
    ),
    Measure("kl_neutral", "KL on neutral text", "KL neutral", "lower", "nats", 4),
    Measure("prompt_perplexity", "prompt perplexity", "prompt ppl", "nearer to base"),
    Measure(
        "continuation_perplexity",
        "perplexity of the continuations under base",
        "cont. ppl",
        "nearer to base",
    ),
    Measure(
        "kl_continuations", "KL on base's continuations", "KL cont.", "nearer to base", unit="nats"
    ),
    Measure("last_word_accuracy", "last words right", "last word", "higher", kind="share"),
    Measure(
        "benign_kept",
        "benign answers kept",
        "benign kept",
        "higher",
        kind="share",
    ),
    Measure("dist_1", "distinct words", "dist-1", "nearer to base"),
    Measure("dist_2", "distinct bigrams", "dist-2", "nearer to base"),
    Measure("dist_3", "distinct trigrams", "dist-3", "nearer to base"),
    Measure("repetition", "repeated 4-grams", "repeats", "lower", kind="share"),
    Measure("entropy", "n-gram entropy", "entropy", "nearer to base", unit="bits"),
)
MEASURES: dict[MeasureName, Measure] = {measure.name: measure for measure in _ALL}
"""By name, in the order in which they are shown."""
MAIN: tuple[MeasureName, ...] = (
    "toxicity_rate",
    "expected_max_toxicity",
    "neutral_perplexity",
    "benign_kept",
)
"""What is shown where there is room for four."""
ROOMY: tuple[MeasureName, ...] = (*MAIN, "kl_neutral", "prompt_perplexity")
"""And where there is room for six."""


def measured(
    rows: Iterable[Any],
    among: Iterable[MeasureName] = MEASURES,
    *,
    headline: MeasureName | None = None,
) -> list[Measure]:
    """Those that some row has a value of, the protocol's own first where it is given."""
    rows = list(rows)
    wanted = dict.fromkeys(among if headline is None else (headline, *among))
    return [MEASURES[m] for m in wanted if any(getattr(row, m) is not None for row in rows)]
