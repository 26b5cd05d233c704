"""The delta file: a deletion, the model it was made for, and, where it was applied, what it overwrote.

One safetensors file with a JSON header; docs/formats.md has every field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_toxmem.baking import Read, base_of, check_base
from tl_toxmem.base import Base
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_tensors, write_tensors
from tl_toxmem.law import LowRank
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.reading import check_tensors, record
from tl_toxmem.weights import WeightFiles

KIND = "deletion"
_LOW_RANK, _ORIGINAL, _ROWS = "low_rank.", "original.", "original_neurons."
_PARTS = ("U", "V", "constant")


@dataclass(frozen=True)
class Original:
    """Values as they were in the unedited model: of `neurons`, one row each, or of the whole tensor for None."""

    neurons: Tensor | None
    values: Tensor


@dataclass(frozen=True)
class _Words:
    """The fields of a delta file that are no tensors."""

    law: str
    n_layers: int
    d_mlp: int
    base: Base | None
    provenance: dict[str, Any]


def save_deletion(
    deletion: Deletion, path: Path, *, originals: Mapping[str, Original] | None = None
) -> None:
    """Write a deletion, with what it overwrote under the names of the tensors if that is known."""
    tensors: dict[str, Any] = {
        "neurons": torch.tensor(deletion.neurons.neurons, dtype=torch.long).reshape(-1, 2),
        "gain": deletion.gain,
        "shift": deletion.shift,
        "pre_gain": deletion.pre_gain,
    }
    for layer, update in deletion.added.items():
        tensors |= {f"{_LOW_RANK}{layer}.{part}": getattr(update, part) for part in _PARTS}
    for name, original in (originals or {}).items():
        tensors[_ORIGINAL + name] = original.values
        if original.neurons is not None:
            tensors[_ROWS + name] = original.neurons
    header = {
        "law": deletion.law,
        "n_layers": deletion.neurons.n_layers,
        "d_mlp": deletion.neurons.d_mlp,
        "base": deletion.base.to_json() if deletion.base else None,
        "provenance": deletion.provenance,
    }
    write_tensors(path, KIND, tensors, header)


def load_deletion(path: Path) -> Deletion:
    """Read the deletion of a delta file.

    Raises:
        ToxmemError: missing, damaged, of another kind or version, or with values that make no law.
    """
    tensors, meta = read_tensors(path, KIND)
    words = record(_Words, meta, path)
    n = len(tensors["neurons"]) if "neurons" in tensors and tensors["neurons"].ndim else 0
    shapes = {"neurons": (n, 2), **{name: (n,) for name in ("gain", "shift", "pre_gain")}}
    check_tensors(tensors, shapes, path, whole=("neurons",))
    pairs = [(layer, neuron) for layer, neuron in tensors["neurons"].tolist()]
    if pairs != sorted(set(pairs)):  # the numbers are in their order
        raise ToxmemError(f"{path} is damaged: its neurons are not sorted and unique")
    added = _added(tensors, words.d_mlp, path)
    try:
        return Deletion(
            NeuronSet(tuple(pairs), words.n_layers, words.d_mlp),
            tensors["gain"],
            tensors["shift"],
            words.law,
            words.provenance,
            pre_gain=tensors["pre_gain"],
            added=added,
            base=words.base,
        )
    except ToxmemError as error:
        raise ToxmemError(f"{path}: {error}") from None


def _added(tensors: Mapping[str, Tensor], d_mlp: int, path: Path) -> dict[int, LowRank]:
    """The low-rank parts by layer."""
    added = {}
    for name in (n for n in tensors if n.startswith(_LOW_RANK)):
        layer, _, part = name.removeprefix(_LOW_RANK).partition(".")
        if not layer.isdecimal() or str(int(layer)) != layer or part not in _PARTS:
            raise ToxmemError(f"{path} is damaged: {name!r} is no part of a law")
        name_of = {p: f"{_LOW_RANK}{layer}.{p}" for p in _PARTS}
        V = tensors.get(name_of["V"])
        rank, d_model = V.shape if V is not None and V.ndim == 2 else (0, 0)
        shapes = {"V": (rank, d_model), "U": (d_mlp, rank), "constant": (d_model,)}
        check_tensors(tensors, {name_of[p]: shape for p, shape in shapes.items()}, path)
        added[int(layer)] = LowRank(**{p: tensors[name_of[p]] for p in _PARTS})
    return added


def bind(deletion: Deletion, model: LensModel) -> Deletion:
    """The deletion with `model` as its base."""
    deletion.check_fits(model.n_layers, model.d_mlp, model.d_model)
    source = model.source
    revision = source.revision if source else None
    read = stored_tensors(model)
    base = base_of(deletion, model.arch, read, name=model.name, revision=revision)
    return replace(deletion, base=base)


def check_loaded(deletion: Deletion, model: LensModel, *, force: bool) -> None:
    """Refuse another model than the deletion was made for, unless forced."""
    deletion.check_fits(model.n_layers, model.d_mlp, model.d_model)
    check_base(deletion, model.arch, stored_tensors(model), where=model.name, force=force)


def stored_tensors(model: LensModel) -> Read:
    """The weights as their checkpoint stores them, or, of a model that came from none, as they are in memory."""
    if model.source is not None:
        return WeightFiles(model.source.folder).read
    return {name: p.data for name, p in model.clean_hf().named_parameters()}.get


def load_originals(path: Path) -> dict[str, Original]:
    """What the deletion of a delta file overwrote, by the names of the tensors; empty if it was not kept.

    Raises:
        ToxmemError: as `load_deletion`.
    """
    tensors, meta = read_tensors(path, KIND)
    d_mlp = record(_Words, meta, path).d_mlp
    found = {}
    for name in (n.removeprefix(_ORIGINAL) for n in tensors if n.startswith(_ORIGINAL)):
        rows, values = tensors.get(_ROWS + name), tensors[_ORIGINAL + name]
        if rows is not None:
            check_tensors({"rows": rows}, {"rows": values.shape[:1]}, path, whole=("rows",))
            if bool(((rows < 0) | (rows >= d_mlp)).any()):
                raise ToxmemError(
                    f"{path} is damaged: it keeps neurons that the model does not have"
                )
        found[name] = Original(rows, values)
    return found
