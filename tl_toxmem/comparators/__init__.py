"""The field's methods, each a deletion law: made from the find split, at several strengths."""

from tl_toxmem.comparators.base import Comparator, Maker, Material, labelled_from

COMPARATORS: dict[str, Comparator] = {}
"""By name."""

__all__ = ["COMPARATORS", "Comparator", "Maker", "Material", "labelled_from"]
