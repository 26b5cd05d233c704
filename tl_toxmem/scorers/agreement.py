"""The record of how far two judges agree, with the texts they differ most on; made by `kappa.py`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tl_toxmem.display import Display, Displayed, Table, harmless
from tl_toxmem.errors import ToxmemError
from tl_toxmem.stats import Estimate

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Disagreement:
    """A text on which two judges have different verdicts, and both scores; not masked."""

    text: str
    score_a: float
    score_b: float


@dataclass(frozen=True, repr=False)
class Agreement(Displayed):
    """How far two judges agree.

    Attributes:
        names: of the judges.
        threshold: scores from here on are toxic.
        n_texts: how many were judged; the `n` of estimates counts prompts.
        kappa: Cohen's kappa; None where both judges give all texts the same verdict.
        agreement: share of texts with the same verdict.
        rates: share of texts that each judge calls toxic.
        undefined: share of the resamples that had no kappa; its interval is over the others.
        examples: texts with different verdicts, the largest gap between the scores first; not masked.
        seed: of the intervals.
    """

    names: tuple[str, str]
    threshold: float
    n_texts: int
    kappa: Estimate | None
    agreement: Estimate
    rates: tuple[Estimate, Estimate]
    undefined: float
    examples: tuple[Disagreement, ...]
    seed: int

    def constant(self) -> dict[str, str]:
        """The judges that give all texts one verdict, and which."""
        said = {0.0: "no text toxic", 1.0: "every text toxic"}
        pairs = zip(self.names, self.rates, strict=True)
        return {name: said[rate.value] for name, rate in pairs if rate.value in said}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Agreement":
        """What `to_json` gave.

        Raises:
            ToxmemError: other fields than those of an agreement.
        """
        try:
            first, second = (Estimate(**rate) for rate in values["rates"])
            one, other = values["names"]
            return cls(
                **{
                    **values,
                    "names": (one, other),
                    "kappa": None if values["kappa"] is None else Estimate(**values["kappa"]),
                    "agreement": Estimate(**values["agreement"]),
                    "rates": (first, second),
                    "examples": tuple(Disagreement(**example) for example in values["examples"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ToxmemError(f"no agreement of two judges: {error!r}") from None

    def frame(self) -> "pd.DataFrame":
        """One row per measure: kappa, agreement and both toxic rates, with their intervals."""
        import pandas as pd

        measures: dict[str, Estimate | None] = {
            "Cohen's kappa": self.kappa,
            "same verdict": self.agreement,
        }
        measures |= {f"toxic by {n}": r for n, r in zip(self.names, self.rates, strict=True)}
        empty = Estimate(float("nan"), None, None, self.agreement.n)
        rows = [{"measure": m, **(e or empty).to_json()} for m, e in measures.items()]
        return pd.DataFrame(rows, columns=["measure", "value", "low", "high", "n"])

    def __str__(self) -> str:
        a, b = self.names
        rates = " and ".join(f"{rate.value:.1%}" for rate in self.rates)
        return harmless(
            f"{a} and {b} agree on {self.agreement.value:.1%} of {self.n_texts} texts, {self._kappa()}; they call "
            f"{rates} toxic"
        )

    def _kappa(self) -> str:
        constant = self.constant()
        if self.kappa is None:
            return f"kappa undefined, since both call {next(iter(constant.values()))}"
        text = f"kappa {self.kappa.value:.2f}"
        if self.kappa.low is not None and self.kappa.high is not None:
            text += f" ({self.kappa.low:.2f} to {self.kappa.high:.2f})"
        for name, said in constant.items():
            text += f", by definition, since {name} calls {said}"
        if self.undefined:
            text += f" (undefined in {self.undefined:.0%} of resamples)"
        return text

    def display(self) -> Display:
        """In a line, and the texts that they differ most on, masked."""
        a, b = self.names
        rows = tuple((f"{e.score_a:.2f}", f"{e.score_b:.2f}", e.text) for e in self.examples)
        return Display(str(self), (Table((a, b, "text"), rows),) * bool(rows))
