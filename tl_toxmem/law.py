"""The deletion law of one layer, and its hooks (see `deletion.py` for the law itself)."""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.model import Hook, HookFn

_FEW = 100
"""In 16 bits, where the whole activation would have to be widened, fewer than one in so many neurons are picked out."""


@dataclass(frozen=True)
class LowRank:
    """What one layer's output gains: `(a U) V + constant`, float64.

    Attributes:
        U: [d_mlp, rank].
        V: [rank, d_model].
        constant: [d_model]; zero unless a shift came before or the law is `Deletion.constant`.
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
        if law.low_rank.V.shape[0]:
            read, add = _low_rank_hooks(law.low_rank)
            hooks += [("mlp_post", layer, read), ("mlp_out", layer, add)]
        else:
            hooks.append(("mlp_out", layer, _constant(law.low_rank.constant)))
    if not (torch.equal(law.gain, ones) and torch.equal(law.shift, zeros)):
        hooks.append(("mlp_post", layer, _affine(law.neurons, law.gain, law.shift)))
    return hooks


def _wide(dtype: torch.dtype) -> torch.dtype:
    """bfloat16 and float16 are computed wide and rounded once."""
    return torch.promote_types(dtype, torch.float32)


def _affine(index: Tensor, gain: Tensor, shift: Tensor) -> HookFn:
    shifts = bool((shift != 0).any())

    @cache
    def full(width: int, device: torch.device, wide: torch.dtype) -> tuple[Tensor, Tensor]:
        """Gain and shift of every neuron of the layer."""
        gains = torch.ones(width, dtype=torch.float64).index_put((index,), gain)
        added = torch.zeros(width, dtype=torch.float64).index_put((index,), shift)
        return gains.to(device, wide), added.to(device, wide)

    def hook(activation: Tensor) -> Tensor:
        wide = _wide(activation.dtype)
        if wide == activation.dtype or len(index) * _FEW > activation.shape[-1]:
            gains, added = full(activation.shape[-1], activation.device, wide)
            edited = activation.to(wide) * gains
            return (edited + added if shifts else edited).to(activation.dtype)
        at = index.to(activation.device)
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


def _constant(vector: Tensor) -> HookFn:
    def add(output: Tensor) -> Tensor:
        wide = _wide(output.dtype)
        return (output.to(wide) + vector.to(output.device, wide)).to(output.dtype)

    return add
