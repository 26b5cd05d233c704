"""What readers of files share: JSON that is no trap, and plain values as the record that they are to make."""

import json
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from tl_toxmem.config.base import describe_validation
from tl_toxmem.errors import ToxmemError

T = TypeVar("T")
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_MOST_DIGITS = 300
"""Of a whole number; no count, seed or size has more, and beyond some thousands Python itself refuses."""


def parse_json(text: str, *, broken: bool = False) -> Any:
    """The values of a JSON text, each key of an object once.

    Args:
        text: of a file, or of a line.
        broken: leave halves of surrogate pairs, which escapes may give, to the caller.

    Raises:
        ValueError: no JSON, or such as no writer means: a key twice, a number of hundreds of digits, brackets within
            brackets by the thousand, text that cannot be written again.
    """
    try:
        values = json.loads(text, object_pairs_hook=_each_once, parse_int=_whole)
        if not broken and _ESCAPED.search(text):
            json.dumps(values, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, by an escape such as \\ud83d alone") from None
    return values


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} twice")
    return values


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def record(kind: type[T], values: Any, where: object) -> T:
    """Plain values as a record of some kind, tuples for lists and inner records for objects.

    Args:
        kind: a dataclass.
        values: what JSON gave.
        where: the file, to be named.

    Raises:
        ToxmemError: fields that are missing, unknown or of another type, naming the first.
    """
    hashable: Any = kind  # to mypy a class is not
    try:
        made: T = _adapter(hashable).validate_python(values)
    except ValidationError as error:
        raise ToxmemError(f"{where} is damaged: {describe_validation(error)}") from None
    return made


@cache
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)


_LONGEST_NAME = 255
"""Bytes that file systems allow."""


def is_plain_name(name: str) -> bool:
    """Whether a name from a file is one of a file beside it: no path, no way out of the folder."""
    if name in ("", ".", "..") or set(name) & set("/\\\0:") or not name.isprintable():
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME


def check_tensors(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    where: object,
    *,
    whole: Collection[str] = (),
    truth: Collection[str] = (),
) -> None:
    """Refuse tensors that are not those of a record.

    Args:
        tensors: of a file.
        shapes: by name, of those that there must be.
        where: the file, to be named.
        whole: names of those of whole numbers (int64); the others are floating point of 16 to 64 bits.
        truth: names of those that are true or false.

    Raises:
        ToxmemError: one is missing, or of another shape or precision.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            raise ToxmemError(f"{where} is damaged: it lacks {name!r}")
        found = tensors[name]
        kinds = (torch.int64,) if name in whole else (torch.bool,) if name in truth else _FLOATING
        if tuple(found.shape) != shape or found.dtype not in kinds:
            raise ToxmemError(
                f"{where} is damaged: {name} is {list(found.shape)} in {str(found.dtype).removeprefix('torch.')}, not "
                f"{list(shape)} in {' or '.join(str(k).removeprefix('torch.') for k in kinds)}"
            )
