"""Keys and values of one generation, in room ahead: a step copies what is new and leaves what is older where it is.

TransformerLens and transformers put old and new together into a new tensor in every layer at every step.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_AHEAD = 64


class _Room:
    """One tensor [batch, head, pos, d_head] that grows along `pos`."""

    def __init__(self) -> None:
        self._room: Tensor | None = None
        self._n = 0

    def grown(self, new: Float[Tensor, "batch head new d_head"]) -> Tensor:
        """All so far, and `new` after it."""
        old, self._n = self._n, self._n + new.shape[2]
        if self._room is None or self._n > self._room.shape[2]:
            room = new.new_empty(*new.shape[:2], self._n + _AHEAD, new.shape[3])
            if self._room is not None:
                room[:, :, :old] = self._room[:, :, :old]
            self._room = room
        self._room[:, :, old : self._n] = new
        return self._room[:, :, : self._n]


class _HookedLayer:
    """One layer as HookedTransformer asks for it, [batch, pos, head, d_head]."""

    def __init__(self, empty: Float[Tensor, "batch zero head d_head"]) -> None:
        self.past_keys, self.past_values = empty, empty
        self._rooms = _Room(), _Room()

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, with these."""
        new = keys.transpose(1, 2), values.transpose(1, 2)
        grown = [room.grown(x) for room, x in zip(self._rooms, new, strict=True)]
        self.past_keys, self.past_values = (x.transpose(1, 2) for x in grown)
        return self.past_keys, self.past_values


class HookedCache:
    """In place of TransformerLens's `TransformerLensKeyValueCache`."""

    def __init__(self, cfg: Any, batch: int) -> None:
        heads = cfg.n_key_value_heads or cfg.n_heads
        empty = torch.empty(batch, 0, heads, cfg.d_head, dtype=cfg.dtype, device=cfg.device)
        self._layers = [_HookedLayer(empty) for _ in range(cfg.n_layers)]
        self.mask: Int[Tensor, "batch pos"] | None = None

    def __getitem__(self, layer: int) -> _HookedLayer:
        return self._layers[layer]

    def append_attention_mask(self, new: Tensor) -> Tensor:  # noqa: ARG002 - the whole is known
        """The mask of all tokens, those of this step included."""
        assert self.mask is not None
        return self.mask


class _BridgeLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """In place of transformers' layer of a cache."""

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002 - transformers passes more to other kinds
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """All keys and values, with these."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._rooms = _Room(), _Room()
        self.keys, self.values = (
            room.grown(x) for room, x in zip(self._rooms, (key_states, value_states), strict=True)
        )
        return self.keys, self.values


def bridge_cache() -> Cache:
    """For models that look back at all tokens in every layer."""
    return Cache(layer_class_to_replicate=_BridgeLayer)
