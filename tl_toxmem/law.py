"""The deletion law of one layer, and its hooks (see `deletion.py` for the law itself)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.model import Hook, HookFn


@dataclass(frozen=True)
class LowRank:
    """What one layer's output gains: `(a U) V + constant`, float64.

    Attributes:
        U: [d_mlp, rank].
        V: [rank, d_model].
        constant: [d_model]; not zero only where a shift came before.
    """

    U: Float[Tensor, "d_mlp rank"]
    V: Float[Tensor, "rank d_model"]
    constant: Float[Tensor, " d_model"]


@dataclass(frozen=True)
class LayerLaw:
    """A deletion in one layer: which neurons, and g, s, t in their order; float64."""

    neurons: Int[Tensor, " neuron"]
    pre_gain: Float[Tensor, " neuron"]
    gain: Float[Tensor, " neuron"]
    shift: Float[Tensor, " neuron"]
    low_rank: LowRank | None


def layer_hooks(layer: int, law: LayerLaw) -> list[Hook]:
    """The law as hooks for `LensModel.hooks`."""
    hooks: list[Hook] = []
    ones, zeros = torch.ones_like(law.gain), torch.zeros_like(law.gain)
    if not torch.equal(law.pre_gain, ones):
        hooks.append(("mlp_pre", layer, _affine(law.neurons, law.pre_gain, zeros)))
    if law.low_rank is not None:
        read, add = _low_rank_hooks(law.low_rank)
        hooks += [("mlp_post", layer, read), ("mlp_out", layer, add)]
    if not (torch.equal(law.gain, ones) and torch.equal(law.shift, zeros)):
        hooks.append(("mlp_post", layer, _affine(law.neurons, law.gain, law.shift)))
    return hooks


def _wide(dtype: torch.dtype) -> torch.dtype:
    """bfloat16 and float16 are computed wide and rounded once."""
    return torch.promote_types(dtype, torch.float32)


def _affine(index: Tensor, gain: Tensor, shift: Tensor) -> HookFn:
    def hook(activation: Tensor) -> Tensor:
        at, wide = index.to(activation.device), _wide(activation.dtype)
        chosen = activation[..., at].to(wide) * gain.to(activation.device, wide)
        edited = activation.clone()
        edited[..., at] = (chosen + shift.to(activation.device, wide)).to(activation.dtype)
        return edited

    return hook


def _low_rank_hooks(update: LowRank) -> tuple[HookFn, HookFn]:
    """One hook that reads the activations, one that adds to the output what they make of it."""
    coordinates: list[Tensor] = []

    def read(activation: Tensor) -> None:
        wide = _wide(activation.dtype)
        coordinates[:] = [activation.to(wide) @ update.U.to(activation.device, wide)]

    def add(output: Tensor) -> Tensor:
        wide = _wide(output.dtype)
        V, constant = (x.to(output.device, wide) for x in (update.V, update.constant))
        return (output.to(wide) + coordinates.pop() @ V + constant).to(output.dtype)

    return read, add
