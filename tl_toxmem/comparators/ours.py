"""Our deletion at other sizes: neurons by gradient x activation per cost, silenced or set to their mean."""

from collections.abc import Sequence

from tl_toxmem.comparators.base import Comparator, Material, check_bakeable
from tl_toxmem.comparators.counts import by_count, neuron_counts
from tl_toxmem.config import SelectConfig
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.select import leaving_half, rank_values, select_neurons
from tl_toxmem.trace import parts_of


def best(material: Material, n: int) -> NeuronSet:
    """The `n` neurons that score highest per cost.

    Raises:
        ToxmemError: scores without cost.
    """
    return select_neurons(material.scores, cfg=SelectConfig(k=n))


def most_controlled(material: Material, n: int) -> int:
    """The largest number up to `n` of best neurons for which as many others can be drawn, in their layers or early."""
    n_layers, d_mlp = material.scores.scores.shape
    early = len(parts_of(n_layers)["early"]) * d_mlp // 2
    return min(early, leaving_half(rank_values(material.scores, cfg=SelectConfig()), n))


def _zero(
    model: LensModel,  # noqa: ARG001 - of every method
    material: Material,
    *,
    strengths: Sequence[float],
    cfg: ComparatorConfig,  # noqa: ARG001 - of every method
) -> dict[float, Deletion]:
    return by_count(strengths, material.scores, lambda n: best(material, n))


def _mean(
    model: LensModel,
    material: Material,
    *,
    strengths: Sequence[float],
    cfg: ComparatorConfig,  # noqa: ARG001 - of every method
) -> dict[float, Deletion]:
    means = material.scores.mean_activation
    found = by_count(
        strengths,
        material.scores,
        lambda n: best(material, n),
        law=lambda neurons: Deletion.mean(neurons, means),
    )
    for law in found.values():
        check_bakeable(model, law)
    return found


OURS = Comparator(
    label="ours: gradient per cost, zero",
    family="deletion",
    strength="neurons",
    strengths=neuron_counts,
    make=_zero,
)
OURS_MEAN = Comparator(
    label="ours: gradient per cost, mean",
    family="deletion",
    strength="neurons",
    strengths=neuron_counts,
    make=_mean,
    needs=("output_bias",),
)
