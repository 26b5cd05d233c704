"""Choosing by measured joint effect, because neurons interact.

Two neurons that say the same cover for each other: each alone takes little, both take much; or the second adds nothing.
So the effects are measured anew, round after round, with what was chosen before already deleted.
"""

from dataclasses import dataclass

import torch

from tl_toxmem.attribute import Law, NeuronScores, measure_ablations
from tl_toxmem.attribute.scores import highest
from tl_toxmem.checks import prompt_set, seed_of
from tl_toxmem.config import SelectConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import Neuron, NeuronSet, check_layers
from tl_toxmem.progress import track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.select.ranking import layers_of, rank_values
from tl_toxmem.stats import Estimate, mean_estimate, mean_estimates
from tl_toxmem.tokens import target_log_probs

MOST_SINGLES = 200
"""Most neurons of a selection that a run also measures one by one, to hold the sum against their joint effect."""


@dataclass(frozen=True)
class Joint:
    """What a set of neurons takes from the targets together, against the sum of what each takes alone (nats).

    A joint effect above the sum says that the neurons cover for each other; below it, that they say the same.

    Attributes:
        together: all of them deleted.
        summed: the effects of each alone, summed.
        alone: each alone, in the order of the set.
        law: what was done to them, in words.
    """

    together: Estimate
    summed: Estimate
    alone: tuple[Estimate, ...]
    law: str

    def text(self) -> str:
        """Both in words."""
        return (
            f"Deleted together ({self.law}) they take {self.together.value:.3g} nats from the targets; one by one "
            f"their effects sum to {self.summed.value:.3g}"
        )


def joint_effect(
    model: LensModel,
    prompts: PromptSet,
    neurons: NeuronSet,
    *,
    law: Law = Deletion.zero,
    seed: int = 0,
) -> Joint:
    """Measure a set together and one by one.

    Args:
        model: any host.
        prompts: with their targets.
        neurons: which.
        law: what is done to them.
        seed: of the intervals.

    Raises:
        ToxmemError: no neurons, no prompts, or another model's.
    """
    prompt_set(prompts)
    if not len(neurons) or not len(prompts):
        raise ToxmemError("a joint effect needs at least one neuron and one prompt")
    seed_of(seed)
    base = target_log_probs(model, prompts)
    deletion = law(neurons)
    with deletion.applied(model):
        together = base - target_log_probs(model, prompts)
    alone = measure_ablations(model, prompts, list(neurons), law=law)
    return Joint(
        mean_estimate(together.numpy(), seed=seed),
        mean_estimate(alone.sum(0).numpy(), seed=seed),
        tuple(mean_estimates(alone.T.numpy(), seed=seed)),
        deletion.law,
    )


def select_greedily(
    model: LensModel,
    prompts: PromptSet,
    scores: NeuronScores,
    *,
    cfg: SelectConfig,
    layers: tuple[int, ...] | None = None,
    law: Law = Deletion.zero,
) -> NeuronSet:
    """`cfg.k` neurons in `cfg.rounds` rounds, each time those of highest measured effect per cost.

    Args:
        model: that the scores are of.
        prompts: find prompts that effects are measured on (`cfg.max_prompts` of them).
        scores: with costs; the `cfg.candidates` highest by score per cost are the candidates.
        cfg: k, rounds, candidates, the cost's floor.
        layers: to choose from; None: those that `cfg.layers` names.
        law: what is done to neurons when their effects are measured.

    Raises:
        ToxmemError: no k, or more than there are candidates; an unknown layer; scores of another model or without cost.
    """
    prompt_set(prompts)
    scores.check_model(model)
    if cfg.k is None:
        raise ToxmemError("select_greedily needs cfg.k: set it")
    if layers is None:
        layers = layers_of(cfg, n_layers=model.n_layers)
    else:
        check_layers(layers, n_layers=model.n_layers)
    by_cost = cfg.model_copy(update={"method": "greedy"})
    values = rank_values(scores, cfg=by_cost, layers=layers)
    available = int((values > -torch.inf).sum())
    n = min(cfg.candidates, available)
    if cfg.k > n:
        raise ToxmemError(
            f"select.k is {cfg.k}, but greedy selection has {n} candidates of {available} neurons to choose from: "
            "lower select.k, or raise select.candidates"
        )
    left = highest(values, n)
    weight = scores.cost + cfg.cost_floor * scores.cost.mean()
    some = prompts.first(cfg.max_prompts)
    chosen: list[Neuron] = []
    sizes = [cfg.k * (i + 1) // cfg.rounds - cfg.k * i // cfg.rounds for i in range(cfg.rounds)]
    steps = [size for size in sizes if size]
    for size in track(steps, "greedy rounds", total=len(steps)):
        before = law(NeuronSet(tuple(chosen), model.n_layers, model.d_mlp))
        with before.applied(model):
            effects = measure_ablations(model, some, left, law=law).mean(1)
        gains = [
            float(effect) / float(weight[neuron])
            for effect, neuron in zip(effects, left, strict=True)
        ]
        order = sorted(range(len(left)), key=lambda i: -gains[i])  # noqa: B023 - used here
        chosen += [left[i] for i in order[:size]]
        left = [left[i] for i in order[size:]]
    return NeuronSet(tuple(chosen), model.n_layers, model.d_mlp)
