"""Weights that are not finite, named before anything is run with them."""

from collections.abc import Iterable

import torch
from torch import Tensor

from tl_toxmem.errors import NotFinite
from tl_toxmem.precision import precision_name


def check_weights(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Refuse NaN and infinity; one sum over each tensor, which takes over either, and no copy.

    Raises:
        NotFinite: naming the tensor.
    """
    for name, tensor in tensors:
        if not tensor.is_floating_point():
            continue
        value = tensor.detach()
        wide = torch.promote_types(value.dtype, torch.float32)
        # A sum of finite numbers may overflow.
        if not bool(value.sum(dtype=wide).isfinite()) and not bool(value.isfinite().all()):
            precision = precision_name(value.dtype)
            raise NotFinite(
                f"{where}: the tensor {name} has values that are not finite in {precision}: its file is damaged, or "
                "they overflow (try bfloat16 or float32)"
            )
