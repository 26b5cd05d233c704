"""Precisions: their names, and whether a device computes in them."""

import torch

from tl_toxmem.errors import ToxmemError

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ROUNDING = {torch.float64: 1e-7, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of the largest logit: sums in another order, as with other threads, differ by less, an edit that matters by more."""


def precision_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A precision, also by its name; what is no precision is refused.

    Raises:
        ToxmemError: another word.
    """
    if not isinstance(dtype, str):
        return dtype
    names = {precision_name(known): known for known in DTYPES}
    if dtype not in names:
        raise ToxmemError(f"dtype {dtype!r} is not supported: choose from {', '.join(names)}")
    return names[dtype]


def check_device(device: str, dtype: torch.dtype) -> torch.device:
    """The device by its name.

    Raises:
        ToxmemError: unknown, not on this machine, a precision that is not supported, or one that it cannot do.
    """
    if dtype not in DTYPES:
        names = ", ".join(precision_name(known) for known in DTYPES)
        raise ToxmemError(f"dtype {precision_name(dtype)} is not supported: choose from {names}")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ToxmemError(
            f"device {device!r} cannot be used here ({reason}): try 'cpu' or 'cuda:0'"
        ) from None
    reason = _cannot_compute(place, dtype)
    if reason:
        able = ", ".join(
            precision_name(known) for known in DTYPES if not _cannot_compute(place, known)
        )
        raise ToxmemError(
            f"device {device!r} cannot compute in {precision_name(dtype)} ({reason}): choose from {able}"
        )
    return place


def can_compute(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device does matrix products in a precision (Apple's does none in float64)."""
    return not _cannot_compute(device, dtype)


def _cannot_compute(device: torch.device, dtype: torch.dtype) -> str:
    """Why not, by trying; empty if it can."""
    try:
        one = torch.ones(2, 2, dtype=dtype, device=device)
        (one @ one).cpu()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return str(error).strip().splitlines()[0]
    return ""
