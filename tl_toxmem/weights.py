"""The tensors of a checkpoint folder, read and overwritten in place, one at a time; no model is ever loaded.

A safetensors file is eight bytes of length, a JSON header with each tensor's precision, shape and place, and the
values. Only values are overwritten, so that an edited file has the very layout of the original.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tl_toxmem.errors import ToxmemError
from tl_toxmem.reading import is_plain_name, parse_json

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
        ToxmemError: no such files, a shard that is missing, a damaged header, or two names for one tensor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = model_files(folder)
        self.sharded = self.files != [folder / SINGLE]
        self._places: dict[str, _Place] = {}
        for file in self.files:
            for name, place in _header(file).items():
                if name in self._places:
                    raise ToxmemError(
                        f"{file} is damaged: {self._places[name].file.name} has {name} too"
                    )
                self._places[name] = place
        for name in self._places:
            if (short := name.partition(".")[2]) in self._places:
                raise ToxmemError(
                    f"{folder} has both {name} and {short}, and only one of them would be read: remove the other"
                )

    @property
    def names(self) -> list[str]:
        """Of all tensors, as the files have them."""
        return list(self._places)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

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
            if file.readinto(content) != place.length:
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


def model_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the shards that the index names, none of them outside of the folder.

    Raises:
        ToxmemError: there are none, one is missing or lies elsewhere, or the index is damaged.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ToxmemError(f"{folder} has no weights: neither {SINGLE} nor {INDEX}")
    try:
        values = parse_json(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ToxmemError(f"{index} is damaged: {error}") from None
    table = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(table, dict) or not table:
        raise ToxmemError(f"{index} is damaged: it has no weight_map")
    names = sorted(set(map(str, table.values())))
    for name in names:
        if not is_plain_name(name):
            raise ToxmemError(f"{index} is damaged: {name!r} is no name of a file in its folder")
        if not name.endswith(".safetensors"):  # transformers would open it as a pickle
            raise ToxmemError(f"{index} is damaged: {name!r} is no .safetensors file")
        if not (folder / name).is_file():
            raise ToxmemError(f"{folder / name} is missing, though {INDEX} names it")
    return [folder / name for name in names]


def _header(file: Path) -> dict[str, _Place]:
    with open(file, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        begin, end = 8 + size, file.stat().st_size
        try:
            if begin > end:
                raise ValueError("its header is cut off")
            entries = parse_json(stream.read(size).decode("utf-8"))
            if not isinstance(entries, dict):
                raise ValueError("its header is no JSON object")
            entries.pop("__metadata__", None)
            places = {name: _place(file, begin, name, entry) for name, entry in entries.items()}
            at = begin
            for name, place in sorted(places.items(), key=lambda p: (p[1].start, p[1].length)):
                if place.start != at:
                    raise ValueError(f"{name} overlaps another tensor, or leaves a gap before it")
                at += place.length
            if at != end:
                raise ValueError(
                    "its last tensor is cut off" if at > end else "it goes on after its last tensor"
                )
        except ValueError as error:
            raise ToxmemError(f"{file} is damaged: {error}") from None
    return places


def _place(file: Path, begin: int, name: str, entry: object) -> _Place:
    """Where a tensor lies, by its entry in the header.

    Raises:
        ValueError: an entry that says no such thing.
    """
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [low, high]} if all(
            type(n) is int and n >= 0 for n in (*shape, low, high)
        ):
            place = _Place(file, dtype, tuple(shape), begin + low, high - low)
        case _:
            raise ValueError(f"{name} has no dtype, shape and data_offsets")
    if place.length < 0 or (dtype in _DTYPES and not _whole(place)):
        raise ValueError(f"{name} has a shape and data_offsets that do not fit each other")
    return place
