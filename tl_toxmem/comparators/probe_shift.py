"""Subtracting a toxicity probe's direction from the last layer (Lee et al. 2024): `x <- x - alpha w / |w|`.

The direction is taken from the last MLP's output, at every position, so that the output bias holds it. `alpha` is the
strength times the mean length of the state that leaves the last layer: what is far for one model is near for another.
"""

from collections.abc import Sequence

from tl_toxmem.attribute.labelled import fit_probe
from tl_toxmem.comparators.base import Comparator, Material, check_bakeable
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
    probe = fit_probe(model, material.labelled_for("probe_shift"), seed=material.seed)
    unit = probe.direction.double() / probe.direction.double().norm()
    last, found = model.n_layers - 1, {}
    for strength in strengths:
        added = {last: -strength * probe.length * unit}
        found[strength] = Deletion.constant(added, n_layers=model.n_layers, d_mlp=model.d_mlp)
        check_bakeable(model, found[strength])
    return found


PROBE_SHIFT = Comparator(
    label="probe subtracted (Lee et al. 2024)",
    family="deletion",
    strength="length, of the state's",
    strengths=lambda model: (0.03, 0.1, 0.3, 1.0),  # noqa: ARG005 - of every method
    make=_make,
    needs=("labelled", "output_bias"),
    takes="positive",
)
