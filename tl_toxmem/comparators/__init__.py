"""The field's methods, each a deletion law: made from the find split, at several strengths."""

from tl_toxmem.comparators.base import Comparator, Maker, Material, labelled_from
from tl_toxmem.comparators.profs import PROFS, PROFS_ALL_LAYERS
from tl_toxmem.comparators.rome import ROME, ROME_RANDOM_LAYER

COMPARATORS: dict[str, Comparator] = {
    "rome": ROME,
    "rome_random_layer": ROME_RANDOM_LAYER,
    "profs": PROFS,
    "profs_all_layers": PROFS_ALL_LAYERS,
}
"""By name."""

__all__ = ["COMPARATORS", "Comparator", "Maker", "Material", "labelled_from"]
