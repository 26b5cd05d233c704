"""Strengths that are numbers of neurons."""

from collections.abc import Callable, Sequence

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet

_SHARES = (0.0006, 0.002, 0.006, 0.02, 0.06)


def neuron_counts(model: LensModel) -> tuple[float, ...]:
    """From a two-thousandth to a twentieth of the model's neurons, in steps of about three."""
    whole = model.n_layers * model.d_mlp
    return tuple(sorted({float(max(1, round(share * whole))) for share in _SHARES}))


def by_count(
    strengths: Sequence[float],
    scores: NeuronScores,
    choose: Callable[[int], NeuronSet],
    *,
    law: Callable[[NeuronSet], Deletion] = Deletion.zero,
) -> dict[float, Deletion]:
    """A law for each number of neurons.

    Args:
        strengths: the numbers.
        scores: of the model.
        choose: the neurons for a number.
        law: what is done to them.

    Raises:
        ToxmemError: a strength that is no whole number from 1 to the model's neurons.
    """
    whole = scores.scores.numel()
    for strength in strengths:
        if strength != int(strength) or not 1 <= strength <= whole:
            raise ToxmemError(
                f"strength {strength:g} is no number of neurons: give whole numbers from 1 to {whole}"
            )
    return {strength: law(choose(int(strength))) for strength in strengths}
