"""Parts of unfinished work, kept to go on from, each with a hash of what is in it: what does not fit is made anew."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_json, read_tensors, write_json, write_tensors
from tl_toxmem.notice import notice


def write_part(path: Path, values: Mapping[str, Any]) -> None:
    """Write a part as JSON."""
    write_json(path, {"sha256": digest_of(values), **values})


def read_part(path: Path) -> dict[str, Any] | None:
    """What `write_part` wrote; None, saying so, where it is damaged or of another version."""
    try:
        values = read_json(path)
    except ToxmemError as error:
        _say(str(error))
        return None
    recorded = values.pop("sha256", None)
    del values["format_version"]
    if recorded != digest_of(values):
        _say(f"{path} is damaged (SHA-256)")
        return None
    return values


def write_tensor_part(path: Path, kind: str, tensors: Mapping[str, Tensor]) -> None:
    """Write a part as safetensors."""
    write_tensors(path, kind, tensors, {"sha256": _of_tensors(tensors)})


def read_tensor_part(path: Path, kind: str) -> dict[str, Tensor] | None:
    """What `write_tensor_part` wrote; None, saying so, where it is damaged or of another version."""
    try:
        tensors, header = read_tensors(path, kind)
    except ToxmemError as error:
        _say(str(error))
        return None
    if header.get("sha256") != _of_tensors(tensors):
        _say(f"{path} is damaged (SHA-256)")
        return None
    return tensors


def _say(reason: str) -> None:
    notice(f"{reason}: this part is made anew")


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _of_tensors(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
