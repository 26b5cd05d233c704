"""The field's methods, each a deletion law: made from the find split, at several strengths."""

from tl_toxmem.comparators.aura import AURA
from tl_toxmem.comparators.base import Comparator, Maker, Material, labelled_from
from tl_toxmem.comparators.knowledge_neurons import KNOWLEDGE_NEURONS
from tl_toxmem.comparators.ours import OURS, OURS_MEAN
from tl_toxmem.comparators.probe_shift import PROBE_SHIFT
from tl_toxmem.comparators.profs import PROFS, PROFS_ALL_LAYERS
from tl_toxmem.comparators.random_neurons import RANDOM_EARLY_LAYERS, RANDOM_NEURONS
from tl_toxmem.comparators.rome import ROME, ROME_RANDOM_LAYER
from tl_toxmem.comparators.value_vectors import VALUE_VECTORS
from tl_toxmem.errors import ToxmemError

COMPARATORS: dict[str, Comparator] = {
    "ours": OURS,
    "ours_mean": OURS_MEAN,
    "knowledge_neurons": KNOWLEDGE_NEURONS,
    "value_vectors": VALUE_VECTORS,
    "probe_shift": PROBE_SHIFT,
    "aura": AURA,
    "profs": PROFS,
    "profs_all_layers": PROFS_ALL_LAYERS,
    "rome": ROME,
    "rome_random_layer": ROME_RANDOM_LAYER,
    "random_neurons": RANDOM_NEURONS,
    "random_early_layers": RANDOM_EARLY_LAYERS,
}
"""By name: ours first, controls last."""


def comparator(name: str) -> Comparator:
    """The method of a name.

    Raises:
        ToxmemError: there is none; naming those that there are.
    """
    if name not in COMPARATORS:
        raise ToxmemError(f"unknown comparator {name!r}: choose from {', '.join(COMPARATORS)}")
    return COMPARATORS[name]


__all__ = ["COMPARATORS", "Comparator", "Maker", "Material", "comparator", "labelled_from"]
