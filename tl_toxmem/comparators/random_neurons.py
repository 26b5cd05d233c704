"""Controls: as many neurons as ours at random places, silenced likewise.

Of a selection of more than half of some layer there is no control as large; the largest that there is stands for it.
"""

from collections.abc import Callable, Sequence

from tl_toxmem.comparators.base import Comparator, Material
from tl_toxmem.comparators.counts import by_count, neuron_counts
from tl_toxmem.comparators.ours import best, most_controlled
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.select import control_sets


def _maker(control: str) -> Callable[..., dict[float, Deletion]]:
    def make(
        model: LensModel,  # noqa: ARG001 - of every method
        material: Material,
        *,
        strengths: Sequence[float],
        cfg: ComparatorConfig,  # noqa: ARG001 - of every method
    ) -> dict[float, Deletion]:
        def draw(n: int) -> NeuronSet:
            chosen = best(material, most_controlled(material, n))
            return control_sets(chosen, material.scores, seed=material.seed)[control]

        return by_count(strengths, material.scores, draw)

    return make


RANDOM_NEURONS = Comparator(
    label="random neurons, same layers, as loud",
    family="control",
    strength="neurons",
    strengths=neuron_counts,
    make=_maker("random_neurons"),
)
RANDOM_EARLY_LAYERS = Comparator(
    label="random neurons, early layers",
    family="control",
    strength="neurons",
    strengths=neuron_counts,
    make=_maker("random_early_layers"),
)
