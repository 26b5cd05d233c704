"""Which model a deletion was made for, by the SHA-256 of every tensor that it touches."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tl_toxmem.errors import ToxmemError
from tl_toxmem.precision import precision_name


@dataclass(frozen=True)
class Base:
    """The unedited model.

    Attributes:
        name: of the hub, or the last name of its folder.
        revision: its commit on the hub, if it came from there.
        architecture: `model_type` of its configuration.
        tensors: precision and SHA-256 of each tensor that the deletion changes, as the checkpoint stores it, by the
            name that plain transformers gives it.
        forced: whether the deletion was made for another model, and its use on this one forced.
    """

    name: str
    revision: str | None
    architecture: str
    tensors: Mapping[str, tuple[str, str]]
    forced: bool = False

    def __post_init__(self) -> None:
        for precision, _ in self.tensors.values():
            if not isinstance(getattr(torch, precision, None), torch.dtype):
                raise ToxmemError(f"{precision!r} is no precision")

    def check(
        self,
        read: Callable[[str], Tensor | None],
        *,
        architecture: str,
        where: str,
        advice: str = "force it (--force) only if you mean to edit another model",
    ) -> None:
        """Refuse another model than this one.

        Args:
            read: gives a tensor by its name, or None if there is none.
            architecture: `model_type` of the model at hand.
            where: what to call it.
            advice: what to do if it is another model.

        Raises:
            ToxmemError: another architecture, a tensor that is missing or another, or a model that was loaded in
                less precision than its checkpoint has, which cannot be checked.
        """
        if architecture != self.architecture:
            raise ToxmemError(
                f"this deletion was made for {self.name}, a {self.architecture} model; {where} is {architecture}"
            )
        for name, (precision, expected) in self.tensors.items():
            tensor = read(name)
            stored: torch.dtype = getattr(torch, precision)
            if tensor is not None and tensor.dtype != stored:
                if torch.promote_types(tensor.dtype, stored) != tensor.dtype:
                    raise ToxmemError(
                        f"{where} is in {precision_name(tensor.dtype)}, less than the {precision} that this deletion "
                        f"was made for, so that it cannot be told whether it is the same model: use it in {precision} "
                        "or force it (--force)"
                    )
                narrow = tensor.to(stored)
                # The same model loaded wider has nothing to lose by this.
                tensor = narrow if torch.equal(narrow.to(tensor.dtype), tensor) else tensor
            if tensor is None or tensor.dtype != stored or tensor_sha256(tensor) != expected:
                problem = "is missing" if tensor is None else "is another"
                raise ToxmemError(
                    f"{where} is not the model that this deletion was made for ({self.name}): {name} {problem} "
                    f"(SHA-256); {advice}"
                )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file's header."""
        return asdict(self)


def same_base(first: Base | None, second: Base | None) -> Base | None:
    """The model that two deletions were made for; one that does not say may be for any, and stays unchecked.

    Raises:
        ToxmemError: they were made for different models.
    """
    if first is None or second is None:
        return first or second
    both = first.tensors.keys() & second.tensors.keys()
    differ = [name for name in both if first.tensors[name] != second.tensors[name]]
    if differ or first.architecture != second.architecture:
        raise ToxmemError(
            f"cannot compose deletions made for different models ({first.name} and {second.name})"
        )
    tensors = {**second.tensors, **first.tensors}
    forced = first.forced or second.forced
    return Base(first.name, first.revision, first.architecture, tensors, forced)


def tensor_sha256(tensor: Tensor) -> str:
    """SHA-256 of the values as they are stored: row-major, little-endian, in the tensor's own precision."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same bit for bit, NaN and the sign of zero included."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    first, second = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
    return torch.equal(first, second)
