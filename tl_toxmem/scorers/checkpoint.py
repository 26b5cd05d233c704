"""Detoxify's checkpoint files: checked by their hash, opened without running pickle code, filled in whole."""

import pickle  # nosec B403 # for the name of its error alone
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_toxmem.errors import ToxmemError, brief
from tl_toxmem.files import sha256_file

# In checkpoints of older transformers, and no weights of today's classifiers.
UNUSED = ("position_ids", ".pooler.")


def check_checkpoint(path: Path, *, trust_pickle: bool = False) -> str:
    """Refuse a checkpoint whose content is not what its name says, without opening it as a pickle.

    Args:
        path: a file that carries the beginning of its SHA-256, as in `name-bd4cf006.ckpt`.
        trust_pickle: take a file that carries none.

    Returns:
        Its SHA-256.

    Raises:
        ToxmemError: missing, no SHA-256 prefix in the name, or another hash.
    """
    if not path.is_file():
        raise ToxmemError(f"no Detoxify checkpoint at {path}")
    match = re.search(r"-([0-9a-f]{8,64})\.ckpt$", path.name)
    found = sha256_file(path)
    if match is None and not trust_pickle:
        raise ToxmemError(
            f"{path} does not carry its SHA-256 (as in name-bd4cf006.ckpt), so it is not opened: "
            f"if you trust it, rename it to end in -{found[:8]}.ckpt, or give --trust-pickle"
        )
    if match is not None and not found.startswith(match[1]):
        raise ToxmemError(
            f"{path} is damaged or not what it says: its SHA-256 begins {found[:8]}, not {match[1]}; "
            f"get it again"
        )
    return found


def open_checkpoint(path: Path, *, run_code: bool) -> Any:
    """The content of a checkpoint whose hash was checked.

    Args:
        path: the file.
        run_code: whether it may run pickle code, if it is more than tensors and plain values.

    Raises:
        ToxmemError: it is no checkpoint, or would have to run code and may not.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        if run_code and isinstance(error, pickle.UnpicklingError):
            return _run_pickle(path)
        advice = (
            "; if you trust who made it, --trust-pickle lets it run its code"
            if isinstance(error, pickle.UnpicklingError)
            else ""
        )
        raise ToxmemError(
            f"{path} cannot be opened as tensors and plain values: {brief(error)}{advice}"
        ) from None


def _run_pickle(path: Path) -> Any:
    try:
        # The user said --trust-pickle.
        return torch.load(path, map_location="cpu", weights_only=False)  # nosec B614
    except (
        RuntimeError,
        EOFError,
        ValueError,
        ImportError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise ToxmemError(f"{path} cannot be opened as a pickle: {brief(error)}") from None


def fill(model: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put the weights in, all of them: a judge with random weights left would still answer.

    Raises:
        ToxmemError: weights missing, of another shape, or without a place.
    """
    try:
        found = model.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ToxmemError(f"{path} does not fit its configuration: {brief(error)}") from None
    check_keys(found.missing_keys, found.unexpected_keys, where=str(path))


def check_keys(missing: Any, unexpected: Any, *, where: str) -> None:
    """Refuse weights that are missing, or have no place in the model.

    Raises:
        ToxmemError: naming the first of them.
    """
    extra = [key for key in unexpected if not any(part in key for part in UNUSED)]
    for problem, keys in (("lacks", missing), ("has no place for", extra)):
        if keys:
            raise ToxmemError(
                f"{where} does not fit its configuration: it {problem} {', '.join(sorted(keys)[:3])}"
            )
