"""The deletion law in Hugging Face weights.

    a_i -> s_i a_i + t_i       row i of W times s_i;  b + t W, with the W of before
    y   -> y + (a U) V + c     W + U V;  b + c
    pre_i -> g_i pre_i         column i of W_pre and entry i of b_pre times g_i

Each changed value is computed in float64 on the CPU, whatever the device, and rounded to the checkpoint's own precision
(to 16 bits by way of float32, as torch does). Only what changes is written; originals are kept, so that undoing puts
the very same bits back and never inverts arithmetic.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tl_toxmem.base import Base, tensor_sha256
from tl_toxmem.config import shown_name
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.law import LayerLaw
from tl_toxmem.precision import precision_name
from tl_toxmem.sites import Architecture, architecture

Read = Callable[[str], Tensor | None]
_BLOCK = 1024


@dataclass(frozen=True)
class Change:
    """New values of one tensor: those of `neurons`, one row each, or all of it for None."""

    name: str
    neurons: Tensor | None
    values: Tensor


@dataclass(frozen=True)
class Kept:
    """What a change overwrote in a live parameter."""

    name: str
    parameter: Tensor
    neurons: Tensor | None
    values: Tensor


@dataclass(frozen=True)
class Undo:
    """What baking overwrote."""

    kept: tuple[Kept, ...]

    @torch.no_grad()
    def restore(self) -> None:
        """Put every original back, bit for bit."""
        for kept in self.kept:
            put(kept.parameter, kept.neurons, kept.values)


@torch.no_grad()
def bake(hf_model: PreTrainedModel, deletion: Deletion, *, force: bool = False) -> Undo:
    """Edit the weights in place.

    Args:
        hf_model: raw weights of a supported architecture; not one that a Bridge has wrapped.
        deletion: made for a model of this shape.
        force: bake also into another model than the deletion says that it was made for.

    Returns:
        What `Undo.restore` needs to give back the original bits.

    Raises:
        ToxmemError: another shape or model, a shift where the MLP has no bias, or a result that is not finite; the
            model is unchanged then.
    """
    arch = architecture(hf_model.config.model_type, where="the model to bake")
    parameters = {name: p.data for name, p in hf_model.named_parameters()}
    read = parameters.get
    check_model(deletion, arch, read, n_layers=int(hf_model.config.num_hidden_layers))
    if not force:
        check_base(deletion, arch, read, where="the model to bake", force=False)
    kept: list[Kept] = []
    try:
        for layer, law in deletion.by_layer().items():
            # All of a layer's changes are computed from its tensors as they were.
            for change in list(changes(law, arch, layer, read, called=deletion.law)):
                view = neurons_first(arch, change.name, parameters[change.name])
                kept.append(Kept(change.name, view, change.neurons, take(view, change.neurons)))
                put(view, change.neurons, change.values)
    except BaseException:  # also when interrupted: the model is not ours to leave half edited
        Undo(tuple(kept)).restore()
        raise
    return Undo(tuple(kept))


@contextmanager
def baked(hf_model: PreTrainedModel, deletion: Deletion) -> Iterator[None]:
    """The weights edited for the duration, whatever model the deletion was made for."""
    undo = bake(hf_model, deletion, force=True)
    try:
        yield
    finally:
        undo.restore()


def check_base(
    deletion: Deletion, arch: Architecture, read: Read, *, where: str, force: bool
) -> bool:
    """Refuse another model than the deletion was made for, unless forced; whether it had to be forced.

    Raises:
        ToxmemError: see `Base.check`.
    """
    if deletion.base is None:
        return False
    try:
        deletion.base.check(read, architecture=arch.model_type, where=where)
    except ToxmemError:
        if not force:
            raise
        return True
    return False


def check_model(deletion: Deletion, arch: Architecture, read: Read, *, n_layers: int) -> None:
    """Refuse a model of another shape.

    Raises:
        ToxmemError: see `Deletion.check_fits`.
    """
    w_out = neurons_first(arch, arch.w_out.format(layer=0), present(read, arch.w_out, 0))
    deletion.check_fits(n_layers, *w_out.shape)


def touched(deletion: Deletion, arch: Architecture, read: Read) -> list[str]:
    """The names of the tensors that a deletion changes.

    Raises:
        ToxmemError: a shift where the MLP has no output bias.
    """
    laws = deletion.by_layer().items()
    called = deletion.law
    return [n for layer, law in laws for n in _names(law, arch, layer, read, called=called)]


def base_of(
    deletion: Deletion,
    arch: Architecture,
    read: Read,
    *,
    name: str,
    revision: str | None,
) -> Base:
    """The model at hand as the one that a deletion is for; once forced, always forced."""
    tensors = {}
    for tensor_name in touched(deletion, arch, read):
        tensor = present(read, tensor_name)
        tensors[tensor_name] = (precision_name(tensor.dtype), tensor_sha256(tensor))
    return Base(shown_name(name), revision, arch.model_type, tensors, deletion.forced)


def for_model(
    deletion: Deletion,
    arch: Architecture,
    read: Read,
    *,
    name: str,
    revision: str | None,
    where: str,
    force: bool,
) -> Deletion:
    """The deletion with the model at hand, which messages call `where`, as its base.

    Raises:
        ToxmemError: it was made for another model, and is not forced; or see `touched`.
    """
    old, forced = deletion.base, False
    base = base_of(deletion, arch, read, name=name, revision=revision)
    # Of the model that it was made for every hash is there already; all else is looked at again, to say what differs.
    if old is not None and not (
        old.architecture == base.architecture and old.tensors.items() <= base.tensors.items()
    ):
        forced = check_base(deletion, arch, read, where=where, force=force)
    return replace(deletion, base=replace(base, forced=forced or deletion.forced))


def changes(
    law: LayerLaw, arch: Architecture, layer: int, read: Read, *, called: str
) -> Iterator[Change]:
    """What a law changes in a layer's tensors.

    Raises:
        ToxmemError: a shift where the MLP has no output bias, or a result that is not finite.
    """
    w_name, b_name = arch.w_out.format(layer=layer), arch.b_out.format(layer=layer)
    names = _names(law, arch, layer, read, called=called)
    if w_name in names or b_name in names:
        w_out = neurons_first(arch, w_name, present(read, w_name))
        rows = _output_rows(law)
        if w_name in names:
            yield _change(w_name, rows, _new_rows(law, w_out, rows), called)
        if b_name in names:
            bias = present(read, b_name)
            moved = law.shift != 0
            shifted = w_out[law.neurons[moved].to(w_out.device)].cpu().double()
            after = bias.cpu().double() + law.shift[moved] @ shifted
            if law.low_rank is not None:
                after = after + law.low_rank.constant
            yield _change(b_name, None, after.to(bias.dtype), called)
    moved = law.pre_gain != 1
    for name in (arch.w_pre.format(layer=layer), arch.b_pre.format(layer=layer)):
        if name in names:
            tensor = neurons_first(arch, name, present(read, name))
            at, gain = law.neurons[moved], law.pre_gain[moved]
            before = tensor[at.to(tensor.device)].cpu().double()
            after = gain.reshape(-1, *[1] * (before.ndim - 1)) * before
            yield _change(name, at, after.to(tensor.dtype), called)


def neurons_first(arch: Architecture, name: str, tensor: Tensor) -> Tensor:
    """A view of an MLP matrix with one row per neuron, so that writing to it edits the tensor; biases as they are."""
    is_out = name.endswith(_stem(arch.w_out))
    is_pre = name.endswith(_stem(arch.w_pre))
    across = (is_out and not arch.rows_are_neurons) or (is_pre and arch.rows_are_neurons)
    return tensor.T if across else tensor


def take(tensor: Tensor, neurons: Tensor | None) -> Tensor:
    """A copy of the rows of `neurons` of a tensor with neurons first; of all of it for None."""
    return tensor.clone() if neurons is None else tensor[neurons.to(tensor.device)]


def put(tensor: Tensor, neurons: Tensor | None, values: Tensor) -> None:
    """Write values into a tensor with neurons first; all of it for None."""
    if neurons is None:
        tensor.copy_(values)
    else:
        tensor[neurons.to(tensor.device)] = values.to(tensor.device)


def _stem(pattern: str) -> str:
    return pattern.partition("{layer}")[2]


def _names(law: LayerLaw, arch: Architecture, layer: int, read: Read, *, called: str) -> list[str]:
    """Tensors of a layer that a law changes."""
    names = []
    if len(_output_rows(law)):
        names.append(arch.w_out)
    shifts = bool((law.shift != 0).any())
    if shifts or (law.low_rank is not None and bool((law.low_rank.constant != 0).any())):
        if read(arch.b_out.format(layer=layer)) is None:
            raise ToxmemError(
                f"law {called!r} shifts activations, and {arch.model_type}'s MLP has no output bias to "
                "hold that: use the law zero or scale, or a model whose MLP has one"
            )
        names.append(arch.b_out)
    if bool((law.pre_gain != 1).any()):
        names.append(arch.w_pre)
        if read(arch.b_pre.format(layer=layer)) is not None:  # gated MLPs have none, as a rule
            names.append(arch.b_pre)
    return [name.format(layer=layer) for name in names]


def _output_rows(law: LayerLaw) -> Tensor:
    """Neurons whose row of W changes."""
    changed = law.gain != 1
    if law.low_rank is not None:
        changed = changed | (law.low_rank.U[law.neurons] != 0).any(1)
    return law.neurons[changed]


def present(read: Read, pattern: str, layer: int = 0) -> Tensor:
    """A tensor that must be there.

    Raises:
        ToxmemError: it is not.
    """
    tensor = read(pattern.format(layer=layer))
    if tensor is None:
        raise ToxmemError(f"the checkpoint has no tensor {pattern.format(layer=layer)}")
    return tensor


def _new_rows(law: LayerLaw, w_out: Tensor, rows: Tensor) -> Tensor:
    """What the law makes of these rows of W; in blocks, as a whole matrix of GPT-2-XL in float64 is 82 MB."""
    gain = law.gain[torch.isin(law.neurons, rows)]
    result = torch.empty(len(rows), w_out.shape[1], dtype=w_out.dtype)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        exact = w_out[rows[block].to(w_out.device)].cpu().double().mul_(gain[block, None])
        if law.low_rank is not None:
            exact.addmm_(law.low_rank.U[rows[block]], law.low_rank.V)
        result[block] = exact.to(w_out.dtype)
    return result


def _change(name: str, neurons: Tensor | None, values: Tensor, called: str) -> Change:
    if not bool(values.isfinite().all()):
        raise ToxmemError(
            f"baking {called!r} gives values in {name} that are not finite in {precision_name(values.dtype)}: "
            "check the deletion"
        )
    return Change(name, neurons, values)
