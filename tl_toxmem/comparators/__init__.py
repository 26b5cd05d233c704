"""The field's methods, each a deletion law: made from the find split, at several strengths."""

from tl_toxmem.comparators.base import Comparator, Maker, Material, labelled_from
from tl_toxmem.comparators.profs import PROFS
from tl_toxmem.comparators.rome import ROME, ROME_RANDOM_LAYER

COMPARATORS: dict[str, Comparator] = {
    "rome": ROME,
    "rome_random_layer": ROME_RANDOM_LAYER,
    "profs": PROFS,
}
"""By name."""

__all__ = ["COMPARATORS", "Comparator", "Maker", "Material", "labelled_from"]
