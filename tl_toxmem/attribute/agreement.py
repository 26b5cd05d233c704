"""Agreement: several methods on the same prompts, held against each other and against measured effects.

Measured are the top k of every method and one random sample of all neurons. The table says, method by method: the rank
correlation with the measured effects, how many of its top k really carry the target, and how much of the measured
effect of the best k that are known its own k capture. Between methods: rank correlation over all neurons, and how many
of their top k they share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from tl_toxmem.attribute.ablation import measure_ablations
from tl_toxmem.attribute.attribution import METHODS
from tl_toxmem.attribute.cost import with_cost
from tl_toxmem.attribute.scores import NeuronScores, highest
from tl_toxmem.attribute.texts import Texts
from tl_toxmem.checks import prompt_set, whole
from tl_toxmem.config import AttributeConfig
from tl_toxmem.display import Display, Displayed, Table
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import Neuron
from tl_toxmem.prompts import PromptSet
from tl_toxmem.stats import Estimate, interval, resampled

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Agreement(Displayed):
    """Methods against each other and against measured effects.

    Attributes:
        scores: by method.
        k: neurons of a top.
        neurons: all that were measured: the tops, and the random sample.
        n_random: how many of them are of the random sample.
        measured: [neuron, prompt] what ablating each takes from the target's log-probability, in nats.
        seed: of sample and intervals.
        law: `zero` or `mean`: what ablating means.
    """

    scores: dict[str, NeuronScores]
    k: int
    neurons: tuple[Neuron, ...]
    n_random: int
    measured: Float[Tensor, "neuron prompt"]
    seed: int
    law: str = "zero"

    def __repr__(self) -> str:
        names = ", ".join(self.scores)
        return (
            f"Agreement({names}; k = {self.k}, {len(self.neurons)} neurons set to {self.law} on "
            f"{self.measured.shape[1]} prompts)"
        )

    def tops(self) -> dict[str, list[Neuron]]:
        """The top k of each method."""
        return {name: highest(one.scores, self.k) for name, one in self.scores.items()}

    def captured(self) -> dict[str, Estimate]:
        """Measured effect of a method's top k over that of the k best known, with a 95 % interval over prompts."""
        place = {neuron: i for i, neuron in enumerate(self.neurons)}
        effects = self.measured.numpy().astype(float)
        n = effects.shape[1]
        drawn = resampled(n, np.random.default_rng(self.seed)) / n
        best = np.sort(effects.mean(1))[::-1][: self.k].sum()
        # The best k of each resampling: chosen anew, or the reference would be too high by chance.
        bests = np.sort(drawn @ effects.T, axis=1)[:, ::-1][:, : self.k].sum(1)
        found = {}
        for name, top in self.tops().items():
            own = effects[[place[neuron] for neuron in top]].sum(0)
            if best <= 0:  # nothing that was measured carries the target
                found[name] = Estimate(float("nan"), None, None, n)
                continue
            low, high = interval((drawn @ own) / bests) if n > 1 else (None, None)
            found[name] = Estimate(float(own.mean() / best), low, high, n)
        return found

    def frame(self) -> "pd.DataFrame":
        """One row per method.

        Columns: `spearman` with the measured effects over all that were measured, `spearman_random` over the random
        sample alone, `captured` (share of the measured effect of the best k, `low` to `high`), `effect` of the top k in
        nats (sum of single ablations), `positive` (share of the top k whose mean measured effect is above zero).
        """
        import pandas as pd

        place = {neuron: i for i, neuron in enumerate(self.neurons)}
        means = self.measured.mean(1).numpy()
        captured, rows = self.captured(), []
        for name, top in self.tops().items():
            values = np.array([float(self.scores[name].scores[n]) for n in self.neurons])
            own = means[[place[neuron] for neuron in top]]
            share = captured[name]
            sample = slice(len(self.neurons) - self.n_random, None)
            rows.append(
                {
                    "method": name,
                    "spearman": _spearman(values, means),
                    "spearman_random": _spearman(values[sample], means[sample]),
                    "captured": share.value,
                    "low": share.low,
                    "high": share.high,
                    "effect": float(own.sum()),
                    "positive": float((own > 0).mean()),
                }
            )
        return pd.DataFrame(rows)

    def between(self) -> "pd.DataFrame":
        """One row per pair of methods: rank correlation over all neurons, and the share of the top k in common."""
        import pandas as pd

        names, tops, rows = list(self.scores), self.tops(), []
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                values = (self.scores[name].scores.flatten().numpy() for name in (one, other))
                common = len(set(tops[one]) & set(tops[other])) / self.k
                rows.append(
                    {
                        "one": one,
                        "other": other,
                        "spearman": _spearman(*values),
                        "overlap": common,
                    }
                )
        return pd.DataFrame(rows, columns=["one", "other", "spearman", "overlap"])

    def display(self) -> Display:
        """A row per method."""
        frame = self.frame()
        rows = tuple(
            (str(name), *(f"{x:.3g}" for x in values))
            for name, *values in frame.itertuples(index=False)
        )
        return Display(repr(self), (Table(tuple(frame.columns), rows),))


def compare_methods(
    model: LensModel,
    prompts: PromptSet,
    *,
    methods: Sequence[str],
    k: int = 50,
    cfg: AttributeConfig | None = None,
    texts: Texts | None = None,
) -> Agreement:
    """Run several methods and measure what the top k of each, and a random sample of all neurons, really do.

    Args:
        model: any host.
        prompts: all methods see all; effects are measured on `cfg.verify_prompts` of them (lowest hash first).
        methods: names of `METHODS`.
        k: neurons of a top.
        cfg: of the methods; `verify_random` is the sample's size, `verify_law` what ablating means.
        texts: what some methods need besides; neutral text for the law `mean`.

    Raises:
        ToxmemError: no methods or an unknown one, k larger than the model, a mean without neutral text, or what the
            methods raise.
    """
    prompt_set(prompts)
    cfg = cfg or AttributeConfig()
    unknown = [repr(name) for name in methods if name not in METHODS]
    if unknown or not methods:
        problem = f"unknown methods {', '.join(unknown)}" if unknown else "no methods to compare"
        raise ToxmemError(f"{problem}: choose from {', '.join(METHODS)}")
    _check_k(model, k)
    neutral = None if texts is None else texts.neutral
    if cfg.verify_law == "mean" and not neutral:
        raise ToxmemError(
            "compare_methods by verify_law = 'mean' needs neutral text: give texts=Texts(neutral=...)"
        )
    scores = {name: METHODS[name](model, prompts, cfg=cfg, texts=texts) for name in methods}
    if cfg.verify_law == "mean" and neutral:
        first = methods[0]
        scores[first] = with_cost(model, scores[first], neutral, cfg=cfg)
    return compare_scores(model, prompts, scores, k=k, cfg=cfg)


def compare_scores(
    model: LensModel,
    prompts: PromptSet,
    scores: Mapping[str, NeuronScores],
    *,
    k: int = 50,
    cfg: AttributeConfig | None = None,
) -> Agreement:
    """`compare_methods` of scores that are there already, by any names.

    Raises:
        ToxmemError: no scores, or of another model; k larger than the model; for `cfg.verify_law = "mean"`, none with
            mean activations.
    """
    prompt_set(prompts)
    cfg = cfg or AttributeConfig()
    if not scores:
        raise ToxmemError("nothing to compare: give scores of at least one method")
    _check_k(model, k)
    for one in scores.values():
        one.check_model(model)
    n_neurons = model.n_layers * model.d_mlp
    tops = [neuron for one in scores.values() for neuron in highest(one.scores, k)]
    draw = torch.Generator().manual_seed(cfg.seed)
    order = torch.randperm(n_neurons, generator=draw)[: cfg.verify_random].tolist()
    sample = [(i // model.d_mlp, i % model.d_mlp) for i in order]
    neurons = [n for n in dict.fromkeys(tops) if n not in set(sample)] + sample
    some, law = prompts.first(cfg.verify_prompts), cfg.verify_law
    mean = _mean_activation(scores) if law == "mean" else None
    measured = measure_ablations(model, some, neurons, mean_activation=mean)
    return Agreement(dict(scores), k, tuple(neurons), len(sample), measured, cfg.seed, law)


def _mean_activation(scores: Mapping[str, NeuronScores]) -> Float[Tensor, "layer d_mlp"]:
    """They are of the model and the neutral text, so that any method's will do."""
    for one in scores.values():
        if bool(one.mean_activation.isfinite().all()):
            return one.mean_activation
    raise ToxmemError(
        "verify_law = 'mean' needs mean activations: none of these scores was made with neutral text"
    )


def _check_k(model: LensModel, k: int) -> None:
    n_neurons = model.n_layers * model.d_mlp
    whole(k, "k", least=1, most=n_neurons, why=f"the model has {n_neurons} neurons")


def _spearman(one: Any, other: Any) -> float:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one, other).statistic)
