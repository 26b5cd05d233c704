"""The tensors of a checkpoint folder, read and overwritten in place, one at a time; no model is ever loaded.

A safetensors file is eight bytes of length, a JSON header with each tensor's precision, shape and place, and the
values. Only values are overwritten, so that an edited file has the very layout of the original.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tl_toxmem.errors import ToxmemError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PIECE = 2**24
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class _Place:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


class WeightFiles:
    """The safetensors files that make up one model.

    Args:
        folder: with `model.safetensors`, or `model.safetensors.index.json` and the shards it names.

    Raises:
        ToxmemError: no such files, a shard that is missing, or a damaged header.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _model_files(folder)
        self.sharded = self.files != [folder / SINGLE]
        self._places = {name: place for file in self.files for name, place in _header(file).items()}

    @property
    def names(self) -> list[str]:
        """Of all tensors, as the files have them."""
        return list(self._places)

    def _find(self, name: str) -> _Place | None:
        """By the name that plain transformers uses; published GPT-2 files leave out the first part of it."""
        return self._places.get(name) or self._places.get(name.partition(".")[2])

    def read(self, name: str) -> Tensor | None:
        """A copy of a tensor, or None where the checkpoint has none of that name.

        Raises:
            ToxmemError: a precision that is no floating point of 16 to 64 bits (quantised weights).
        """
        place = self._find(name)
        if place is None:
            return None
        if place.dtype not in _DTYPES:
            raise ToxmemError(
                f"{place.file}: {name} is in {place.dtype}; only {', '.join(_DTYPES)} can be edited"
            )
        dtype, content = _DTYPES[place.dtype], bytearray(place.length)
        with open(place.file, "rb", buffering=0) as file:
            file.seek(place.start)
            if file.readinto(content) != place.length or not _whole(place):
                raise ToxmemError(f"{place.file} is damaged: it ends within {name}")
        return torch.frombuffer(content, dtype=dtype).reshape(place.shape)

    def precision(self, name: str) -> torch.dtype | None:
        """Of a tensor, by the header alone; None where there is no such tensor, or none that can be edited."""
        place = self._find(name)
        return None if place is None else _DTYPES.get(place.dtype)

    def same_values(self, name: str, other: "WeightFiles") -> bool:
        """Whether a tensor is there in both, bit for bit; compared in pieces, as an embedding may be large."""
        ours, theirs = self._find(name), other._find(name)
        if ours is None or theirs is None:
            return False
        if (ours.dtype, ours.shape, ours.length) != (theirs.dtype, theirs.shape, theirs.length):
            return False
        with open(ours.file, "rb") as first, open(theirs.file, "rb") as second:
            first.seek(ours.start)
            second.seek(theirs.start)
            left = ours.length
            while left:
                piece = min(left, _PIECE)
                if first.read(piece) != second.read(piece):
                    return False
                left -= piece
        return True

    def write(self, name: str, tensor: Tensor) -> None:
        """Overwrite a tensor that `read` gave."""
        place = self._find(name)
        assert place is not None and tensor.shape == place.shape
        assert tensor.dtype == _DTYPES[place.dtype]
        with open(place.file, "r+b") as file:
            file.seek(place.start)
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _whole(place: _Place) -> bool:
    return place.length == math.prod(place.shape) * _DTYPES[place.dtype].itemsize


def _model_files(folder: Path) -> list[Path]:
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ToxmemError(f"{folder} has no weights: neither {SINGLE} nor {INDEX}")
    try:
        names = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError):
        raise ToxmemError(f"{index} is damaged: it has no weight_map") from None
    files = [folder / name for name in names]
    for file in files:
        if file.parent != folder or not file.is_file():
            raise ToxmemError(f"{file} is missing, though {INDEX} names it")
    return files


def _header(file: Path) -> dict[str, _Place]:
    with open(file, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        begin, end = 8 + size, file.stat().st_size
        try:
            if begin > end:
                raise ValueError("its header is cut off")
            entries = json.loads(stream.read(size))
            entries.pop("__metadata__", None)
            places = {}
            for name, entry in entries.items():
                low, high = (int(x) for x in entry["data_offsets"])
                if not 0 <= low <= high <= end - begin:
                    raise ValueError(f"{name} is cut off")
                shape = tuple(int(n) for n in entry["shape"])
                places[name] = _Place(file, str(entry["dtype"]), shape, begin + low, high - low)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ToxmemError(f"{file} is damaged: {error}") from None
    return places
