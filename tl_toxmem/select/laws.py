"""From the law that a selection was made with to deletions: of the selected neurons, and of its controls."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from tl_toxmem.attribute import Law, NeuronScores
from tl_toxmem.config import DeleteConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.neurons import NeuronSet


def configured_law(cfg: DeleteConfig) -> dict[str, Any]:
    """The law of the configuration, as a selection keeps it."""
    return {"law": cfg.law, "factor": cfg.factor} if cfg.law in _WITH_FACTOR else {"law": cfg.law}


_WITH_FACTOR = ("scale", "input_gain")
_LAWS = ("zero", "mean", *_WITH_FACTOR, "gates")


def check_law(values: Mapping[str, Any], n: int) -> None:
    """Refuse what a selection of `n` neurons cannot have kept as its law.

    Raises:
        ToxmemError: a law that is none of ours, or without its numbers.
    """
    name = values.get("law")
    if name not in _LAWS:
        raise ToxmemError(f"unknown law {name!r}: choose from {', '.join(_LAWS)}")
    if name in _WITH_FACTOR and not _is_number(values.get("factor")):
        raise ToxmemError(f"the law {name!r} has no number as its factor")
    scales = values.get("scales") if name == "gates" else [1.0] * n
    if not isinstance(scales, list | tuple) or not all(map(_is_number, scales)) or len(scales) != n:
        raise ToxmemError(f"the law {name!r} has no {n} numbers as its scales")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def law_of(values: Mapping[str, Any], scores: NeuronScores, *, of: NeuronSet) -> Law:
    """From neurons to a deletion.

    Args:
        values: what the selection keeps: `law`, and `factor` or `scales`.
        scores: with mean activations, for the law `mean`.
        of: the selection itself, to which learned scales belong.

    Raises:
        ToxmemError: a law that is none of ours, or without its numbers (see `check_law`); later, learned scales for
            other neurons of another number.
    """
    name = values.get("law")
    check_law(values, len(of))
    if name == "zero":
        return Deletion.zero
    if name == "mean":
        return lambda neurons: Deletion.mean(neurons, scores.mean_activation)
    if name == "input_gain":
        return lambda neurons: Deletion.input_gain(neurons, values["factor"])
    if name == "scale":
        return lambda neurons: Deletion.scale(neurons, values["factor"])
    return lambda neurons: _gated(neurons, dict(zip(of, values["scales"], strict=True)))


def _gated(neurons: NeuronSet, scales: Mapping[tuple[int, int], float]) -> Deletion:
    """Learned scales: of selected neurons their own; a control as large takes all of them, in its own order."""
    if set(neurons) <= set(scales):
        found = [scales[neuron] for neuron in neurons]
    elif len(neurons) == len(scales):
        found = list(scales.values())
    else:
        raise ToxmemError(
            f"{len(scales)} gates were learned, which is no law for {len(neurons)} other neurons"
        )
    return Deletion.scale(neurons, torch.tensor(found, dtype=torch.float64))
