"""Knowledge neurons (Dai et al. 2022), silenced.

A neuron's attribution is its integrated gradient of the target's probability, from zero, where the target is predicted.
In each prompt those count that reach `threshold` x the prompt's largest; refined, a neuron is kept that counts in
enough of the prompts. The paper moves that share until two to five neurons are left; here the share ranks them, and
among equals the mean attribution does, so that any number can be taken.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute import METHODS, NeuronScores, top_neurons
from tl_toxmem.comparators.base import Comparator, Material
from tl_toxmem.comparators.counts import by_count, neuron_counts
from tl_toxmem.config import AttributeConfig
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.model import LensModel


def ranked_by_share(scores: NeuronScores, *, threshold: float) -> Float[Tensor, "layer d_mlp"]:
    """In how many prompts a neuron counts, plus less than 1 for the place of its mean attribution among all."""
    shared = (scores.share(threshold=threshold) * scores.n_prompts).round().double()
    order = scores.scores.flatten().argsort()
    places = torch.empty(len(order), dtype=torch.float64)
    places[order] = torch.arange(len(order), dtype=torch.float64) / len(order)
    return shared + places.view_as(shared)


def _make(
    model: LensModel, material: Material, *, strengths: Sequence[float], cfg: ComparatorConfig
) -> dict[float, Deletion]:
    attribution = AttributeConfig(
        method="knowledge_neurons", steps=cfg.knowledge_steps, seed=material.seed
    )
    prompts = material.prompts.first(cfg.knowledge_prompts)
    scores = METHODS["knowledge_neurons"](model, prompts, cfg=attribution)
    values = ranked_by_share(scores, threshold=cfg.knowledge_threshold)
    return by_count(strengths, scores, lambda n: top_neurons(values, n))


KNOWLEDGE_NEURONS = Comparator(
    label="knowledge neurons (Dai et al. 2022)",
    family="deletion",
    strength="neurons",
    strengths=neuron_counts,
    make=_make,
)
