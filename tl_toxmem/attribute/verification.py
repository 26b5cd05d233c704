"""`Verification`: scores held against what ablating neurons really does.

Measured are the `k` neurons that rank highest and a random sample of all others. The sample says how well the ranking
separates them, and bounds what it missed:

- how many of the others could have an effect as large as the weakest of the top's upper half: the exact upper limit of
  a binomial share (Clopper and Pearson);
- what all others together carry: their number times the sample's mean effect, with an interval by bootstrap over the
  sampled neurons. Some of them speak for the target and some against it, and these cancel;
- how much those of them that speak for it could carry: the same of the effects above zero alone, where the noise of an
  effect that is really zero counts as well, so that it is an upper figure. Its limit adds as many neurons as a sample
  of that size may miss altogether (the rule of three, exactly), each as strong as the strongest that was measured.

Effects of single neurons do not add up exactly, so these are figures of size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import beta, spearmanr
from torch import Tensor

from tl_toxmem.errors import ToxmemError
from tl_toxmem.neurons import Neuron
from tl_toxmem.reading import check_tensors, record
from tl_toxmem.stats import CONFIDENCE, Estimate, interval, mean_estimates, resampled

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Words:
    """The fields that are no tensors (see `Verification`)."""

    n_rest: int
    law: str
    seed: int


@dataclass(frozen=True, repr=False)
class Verification:
    """Measured effects of the highest neurons and of a random sample of the others.

    Attributes:
        neurons: [neuron, 2] (layer, neuron): first the highest in order, then the sample.
        is_top: [neuron] whether a neuron is of the highest.
        scores: [neuron] what the method says.
        measured: [neuron, prompt] what ablating each takes from the target's log-probability, in nats.
        n_rest: neurons that are not of the highest, of which the sample was drawn.
        law: `zero` or `mean`: what ablating means.
        seed: of the sample and the intervals.
    """

    neurons: Int[Tensor, "neuron 2"]
    is_top: Bool[Tensor, " neuron"]
    scores: Float[Tensor, " neuron"]
    measured: Float[Tensor, "neuron prompt"]
    n_rest: int
    law: str
    seed: int

    def __repr__(self) -> str:
        others = len(self.scores) - self.k
        return f"Verification({self.k} highest and {others} others set to {self.law} on {self.n_prompts} prompts)"

    @property
    def n_prompts(self) -> int:
        """Prompts that effects were measured on."""
        return int(self.measured.shape[1])

    @property
    def k(self) -> int:
        """How many are of the highest."""
        return int(self.is_top.sum())

    def effects(self) -> dict[Neuron, Estimate]:
        """The mean effect of each measured neuron with its interval over prompts (nats)."""
        found = mean_estimates(self.measured.T.numpy(), seed=self.seed)
        return dict(zip((tuple(n) for n in self.neurons.tolist()), found, strict=True))

    @property
    def spearman(self) -> float:
        """Rank correlation of scores and measured effects over all that were measured (NaN below 3)."""
        if len(self.scores) < 3:
            return float("nan")
        return float(spearmanr(self.scores.numpy(), self.measured.mean(1).numpy()).statistic)

    @property
    def spearman_top(self) -> float:
        """The same among the highest alone, which is the harder question."""
        if self.k < 3:
            return float("nan")
        effects = self.measured.mean(1)[self.is_top]
        return float(spearmanr(self.scores[self.is_top].numpy(), effects.numpy()).statistic)

    @property
    def precision(self) -> float:
        """Share of the highest whose effect is above zero with its whole interval (for one prompt: its value)."""
        effects = list(self.effects().values())[: self.k]
        sure = [e.value > 0 if e.low is None else e.low > 0 for e in effects]
        return sum(sure) / len(sure) if sure else float("nan")

    @property
    def missed_share(self) -> tuple[int, float]:
        """Neurons of the sample that reach the median of the highest; at most what share of all others do, at 95 %."""
        top, rest = self._means()
        if not len(rest) or not len(top):
            return 0, float("nan")
        over, n = int((rest >= np.median(top)).sum()), len(rest)
        return over, 1.0 if over == n else float(beta.ppf(CONFIDENCE, over + 1, n - over))

    @property
    def rest_effect(self) -> Estimate:
        """What all others together carry by the sample, for the target less against it, in nats, with its interval."""
        _, rest = self._means()
        n = len(rest)
        if n < 2:
            return Estimate(float("nan"), None, None, n)
        drawn = resampled(n, np.random.default_rng(self.seed)) @ rest / n
        low, high = interval(self.n_rest * drawn)
        return Estimate(self.n_rest * float(rest.mean()), low, high, n)

    @property
    def missed_effect(self) -> Estimate:
        """The same of effects above zero alone, noise included: estimate and one-sided 95 % limit (`high`)."""
        _, rest = self._means()
        n = len(rest)
        if n < 2:
            return Estimate(float("nan"), None, None, n)
        positive = np.maximum(rest, 0)
        drawn = resampled(n, np.random.default_rng(self.seed)) @ positive / n
        unseen = 1 - (1 - CONFIDENCE) ** (1 / n)
        strongest = max(float(self.measured.mean(1).max()), 0.0)
        limit = self.n_rest * (float(np.quantile(drawn, CONFIDENCE)) + unseen * strongest)
        return Estimate(self.n_rest * float(positive.mean()), None, limit, n)

    def _means(self) -> tuple[Any, Any]:
        means = self.measured.mean(1).numpy().astype(float)
        top = self.is_top.numpy()
        return means[top], means[~top]

    def text(self) -> str:
        """All of it in words."""
        over, share = self.missed_share
        missed, rest = self.missed_effect, self.rest_effect
        top, _ = self._means()
        value = "zero" if self.law == "zero" else "their mean on neutral text"
        if self.k < 3:
            return f"{len(self.scores)} neurons set to {value}, {self.k} of them of the highest: too few to say more."
        sure = (
            "whole interval above zero" if self.n_prompts > 1 else "on a single prompt: no interval"
        )
        words = (
            f"Set to {value} one by one, of the {self.k} highest {self.precision:.0%} carry the target ({sure}); their "
            f"measured effects sum to {top.sum():.3g} nats. Spearman of score and effect {self.spearman:.2f} over all "
            f"{len(self.scores)} measured neurons, {self.spearman_top:.2f} among the highest."
        )
        if missed.high is None:
            return words
        return (
            f"{words} Of {missed.n} random others, {over} reach the median of the highest: at 95 %, at most "
            f"{share:.2%} of the {self.n_rest:,} others do. By the sample the others together carry {rest.value:.3g} "
            f"nats ({rest.low:.3g} to {rest.high:.3g}), those against the target subtracted. Of effects above zero "
            f"alone, noise included, it would be {missed.value:.3g} nats, and at most {missed.high:.3g} if what the "
            "sample missed is as strong as the strongest measured."
        )

    def frame(self) -> "pd.DataFrame":
        """One row per measured neuron: whether it is of the highest, score, measured effect and interval (nats)."""
        import pandas as pd

        rows = [
            {
                "layer": layer,
                "neuron": neuron,
                "top": bool(top),
                "score": float(score),
                "measured": effect.value,
                "low": effect.low,
                "high": effect.high,
                "n": effect.n,
            }
            for ((layer, neuron), effect), top, score in zip(
                self.effects().items(), self.is_top, self.scores, strict=True
            )
        ]
        names = ["layer", "neuron", "top", "score", "measured", "low", "high", "n"]
        return pd.DataFrame(rows, columns=names)

    @classmethod
    def from_parts(
        cls, tensors: dict[str, Tensor], words: Any, path: object, *, shape: tuple[int, ...]
    ) -> "Verification":
        """What `parts` gave, of a model of so many layers and neurons each.

        Raises:
            ToxmemError: they do not fit each other, or the model.
        """
        plain = record(_Words, words, path)
        n = len(tensors["neurons"]) if tensors.keys() >= {"neurons"} else 0
        n_prompts = tensors["measured"].shape[-1] if tensors.get("measured") is not None else 0
        shapes = {"neurons": (n, 2), "is_top": (n,), "scores": (n,), "measured": (n, n_prompts)}
        check_tensors(tensors, shapes, path, whole=("neurons",), truth=("is_top",))
        own: dict[str, Any] = {name: tensors[name] for name in shapes}
        size = torch.tensor(shape)
        if bool(((own["neurons"] < 0) | (own["neurons"] >= size)).any()):
            raise ToxmemError(
                f"{path} is damaged: it verifies neurons that the model does not have"
            )
        return cls(**own, n_rest=plain.n_rest, law=plain.law, seed=plain.seed)

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values, to be saved."""
        tensors = {
            "neurons": self.neurons,
            "is_top": self.is_top,
            "scores": self.scores,
            "measured": self.measured,
        }
        return tensors, {"n_rest": self.n_rest, "law": self.law, "seed": self.seed}
