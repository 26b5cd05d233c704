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
from tl_toxmem.weights import WeightFiles

KIND = "deletion"
_LOW_RANK, _ORIGINAL, _ROWS = "low_rank.", "original.", "original_neurons."
_PARTS = ("U", "V", "constant")


@dataclass(frozen=True)
class Original:
    """Values as they were in the unedited model: of `neurons`, one row each, or of the whole tensor for None."""

    neurons: Tensor | None
    values: Tensor


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
    try:
        pairs = [(int(layer), int(neuron)) for layer, neuron in tensors["neurons"].tolist()]
        if pairs != sorted(set(pairs)):  # the numbers are in their order
            raise ToxmemError("damaged: its neurons are not sorted and unique")
        layers = {int(n.split(".")[1]) for n in tensors if n.startswith(_LOW_RANK)}
        added = {
            layer: LowRank(**{part: tensors[f"{_LOW_RANK}{layer}.{part}"] for part in _PARTS})
            for layer in layers
        }
        return Deletion(
            NeuronSet(tuple(pairs), meta["n_layers"], meta["d_mlp"]),
            tensors["gain"],
            tensors["shift"],
            meta["law"],
            meta["provenance"],
            pre_gain=tensors["pre_gain"],
            added=added,
            base=None if meta["base"] is None else Base.from_json(meta["base"]),
        )
    except KeyError as error:
        raise ToxmemError(f"{path} is damaged: it lacks {error}") from None
    except ToxmemError as error:
        raise ToxmemError(f"{path}: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ToxmemError(f"{path} is damaged: {error}") from None


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
    tensors, _ = read_tensors(path, KIND)
    names = [n.removeprefix(_ORIGINAL) for n in tensors if n.startswith(_ORIGINAL)]
    return {n: Original(tensors.get(_ROWS + n), tensors[_ORIGINAL + n]) for n in names}
