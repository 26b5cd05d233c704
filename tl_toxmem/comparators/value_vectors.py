"""Toxic value vectors (Lee et al. 2024), silenced: those of the highest cosine with a toxicity probe."""

from collections.abc import Sequence

from tl_toxmem.attribute import METHODS, Texts
from tl_toxmem.comparators.base import Comparator, Material
from tl_toxmem.comparators.counts import by_count, neuron_counts
from tl_toxmem.config import AttributeConfig
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.model import LensModel


def _make(
    model: LensModel,
    material: Material,
    *,
    strengths: Sequence[float],
    cfg: ComparatorConfig,  # noqa: ARG001 - of every method
) -> dict[float, Deletion]:
    texts = Texts(labelled=material.labelled_for("value_vectors"))
    attribution = AttributeConfig(method="probe", seed=material.seed)
    scores = METHODS["probe"](model, material.prompts, cfg=attribution, texts=texts)
    return by_count(strengths, scores, scores.top)


VALUE_VECTORS = Comparator(
    label="toxic value vectors (Lee et al. 2024)",
    family="deletion",
    strength="neurons",
    strengths=neuron_counts,
    make=_make,
    needs=("labelled",),
)
