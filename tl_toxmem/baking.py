"""The deletion law in Hugging Face weights.

`(s a + t) W + b = a (s W) + (b + t W)`: rows of the output matrix are scaled, the bias takes what the shift
says, computed from the rows as they were. Originals of everything overwritten are kept, so that undoing puts
the very same bits back and never inverts arithmetic.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.sites import architecture


@dataclass(frozen=True)
class Undo:
    """What baking overwrote: (parameter, rows or None for all of it, original values)."""

    kept: tuple[tuple[Tensor, Tensor | None, Tensor], ...]

    @torch.no_grad()
    def restore(self) -> None:
        """Put every original back, bit for bit."""
        for parameter, rows, original in self.kept:
            if rows is None:
                parameter.copy_(original)
            else:
                parameter[rows] = original


@torch.no_grad()
def bake(hf_model: PreTrainedModel, deletion: Deletion) -> Undo:
    """Edit the weights in place.

    Args:
        hf_model: raw weights of a supported architecture; not one that a Bridge has wrapped.
        deletion: made for a model of this shape.

    Returns:
        What `Undo.restore` needs to give back the original bits.

    Raises:
        ToxmemError: another shape, a shift where the MLP has no bias, or a result that is not finite; the
            model is unchanged then.
    """
    arch = architecture(hf_model.config.model_type, where="the model to bake")
    n_layers = int(hf_model.config.num_hidden_layers)
    weights = [
        _rows(hf_model, arch.w_out.format(layer=layer), arch.rows_are_neurons)
        for layer in range(n_layers)
    ]
    deletion.check_fits(n_layers, weights[0].shape[0])
    kept: list[tuple[Tensor, Tensor | None, Tensor]] = []
    for layer, (neurons, gain, shift) in deletion.by_layer().items():
        w_out = weights[layer]
        at = neurons.to(w_out.device)
        before = w_out[at].clone()
        # Computed wide and rounded once to the checkpoint's own precision.
        wide = torch.promote_types(w_out.dtype, torch.float32)
        rows = (before.to(wide) * gain.to(w_out.device, wide)[:, None]).to(w_out.dtype)
        kept.append((w_out, at, before))
        w_out[at] = rows
        finite = bool(rows.isfinite().all())
        if bool(shift.any()):
            bias = _bias(hf_model, arch.b_out.format(layer=layer))
            if bias is None:
                Undo(tuple(kept)).restore()
                raise ToxmemError(
                    f"law {deletion.law!r} shifts activations, and {arch.model_type}'s MLP has no output bias to "
                    "hold that: use the law zero or scale, or a checkpoint with mlp_bias = true"
                )
            added = shift.to(w_out.device, torch.float64) @ before.double()
            kept.append((bias, None, bias.clone()))
            bias.copy_((bias.double() + added).to(bias.dtype))
            finite = finite and bool(bias.isfinite().all())
        if not finite:
            Undo(tuple(kept)).restore()
            raise ToxmemError(
                f"baking layer {layer} gives values that are not finite: check the deletion"
            )
    return Undo(tuple(kept))


def _bias(hf_model: Any, name: str) -> Tensor | None:
    """The live output bias; gated models as a rule have none."""
    found = dict(hf_model.named_parameters()).get(name)
    return None if found is None else found.data


def _rows(hf_model: Any, name: str, rows_are_neurons: bool) -> Tensor:
    """The live output matrix as [d_mlp, d_model]; a view, so writing to it edits the model."""
    weight: Tensor = hf_model.get_parameter(name).data
    return weight if rows_are_neurons else weight.T
