"""Strengths that count something: edits, dimensions, neurons."""

from collections.abc import Callable, Sequence

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet

_SHARES = (0.0006, 0.002, 0.006, 0.02, 0.06)


def whole_numbers(method: str, strengths: Sequence[float]) -> list[int]:
    """The strengths as whole numbers above 0.

    Raises:
        ToxmemError: there are none, or one is something else.
    """
    wrong = [x for x in strengths if x < 1 or x != int(x)]
    if wrong or not strengths:
        got = f"not {wrong[0]:g}" if wrong else "and there are none"
        raise ToxmemError(f"{method}: strengths are whole numbers above 0, {got}")
    return [int(x) for x in strengths]


def neuron_counts(model: LensModel) -> tuple[float, ...]:
    """From 0.06 % to 6 % of the model's neurons, in steps of about three."""
    whole = model.n_layers * model.d_mlp
    return tuple(sorted({float(max(1, round(share * whole))) for share in _SHARES}))


def by_count(
    strengths: Sequence[float],
    scores: NeuronScores,
    choose: Callable[[int], NeuronSet],
    *,
    law: Callable[[NeuronSet], Deletion] = Deletion.zero,
) -> dict[float, Deletion]:
    """A law for each number of neurons, by the number that there really are.

    Args:
        strengths: the numbers.
        scores: of the model.
        choose: the neurons for a number, or fewer where there are no more.
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
    chosen = [choose(int(strength)) for strength in strengths]
    return {float(len(neurons)): law(neurons) for neurons in chosen}
