"""Keys and values: of one generation, in room ahead, and of a run that others go on from.

A step of a generation copies what is new and leaves what is older where it is; TransformerLens and transformers put old
and new together into a new tensor in every layer at every step.
"""

from dataclasses import dataclass
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

    def take(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row head pos d_head"]:
        """All so far of these rows only."""
        assert self._room is not None
        room = self._room.new_empty(len(rows), *self._room.shape[1:])
        room[:, :, : self._n] = self._room[rows, :, : self._n]
        self._room = room
        return room[:, :, : self._n]


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

    def take(self, rows: Int[Tensor, " row"]) -> None:
        """Go on with these rows."""
        self.past_keys, self.past_values = (room.take(rows).transpose(1, 2) for room in self._rooms)


def _nothing(cfg: Any, batch: int) -> Float[Tensor, "batch zero head d_head"]:
    heads = cfg.n_key_value_heads or cfg.n_heads
    return torch.empty(batch, 0, heads, cfg.d_head, dtype=cfg.dtype, device=cfg.device)


class HookedCache:
    """In place of TransformerLens's `TransformerLensKeyValueCache`."""

    def __init__(self, cfg: Any, batch: int) -> None:
        empty = _nothing(cfg, batch)
        self._layers = [_HookedLayer(empty) for _ in range(cfg.n_layers)]
        self.mask: Int[Tensor, "batch pos"] | None = None

    def __getitem__(self, layer: int) -> _HookedLayer:
        return self._layers[layer]

    def take(self, rows: Int[Tensor, " row"]) -> None:
        """Go on with these rows."""
        for layer in self._layers:
            layer.take(rows)

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

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows."""
        self.keys, self.values = (room.take(indices) for room in self._rooms)


def bridge_cache() -> Cache:
    """For models that look back at all tokens in every layer."""
    return Cache(layer_class_to_replicate=_BridgeLayer)


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of one layer, as the host has them.

    Attributes:
        keys: on HookedTransformer [batch, pos, head, d_head], not rotated; on the Bridge [batch, head, pos, d_head].
        values: likewise.
        along: the dimension of `pos`.
    """

    keys: Tensor
    values: Tensor
    along: int

    def first(self, n: int, rows: Int[Tensor, " row"]) -> "KeyValues":
        """The first `n` positions of these rows, copied."""
        keys, values = (
            x.narrow(self.along, 0, n).index_select(0, rows) for x in (self.keys, self.values)
        )
        return KeyValues(keys, values, self.along)

    @property
    def past_keys(self) -> Tensor:
        """As HookedTransformer asks for them, to know how many positions there are."""
        return self.keys

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """These, and the given ones after them; HookedTransformer's interface."""
        n = keys.shape[0]
        return (
            torch.cat([self.keys[:n], keys], self.along),
            torch.cat([self.values[:n], values], self.along),
        )

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The same, as transformers calls it."""
        return self.append(keys, values)


class _Recorded:
    """One layer of `Recording`."""

    def __init__(self, empty: Tensor) -> None:
        self.past_keys = empty
        self.found: KeyValues | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.found = KeyValues(keys, values, along=1)
        return keys, values


class Recording:
    """In place of TransformerLens's cache for one forward pass: keeps what it is given."""

    def __init__(self, cfg: Any, mask: Int[Tensor, "batch pos"]) -> None:
        empty = _nothing(cfg, mask.shape[0])
        self._layers = [_Recorded(empty) for _ in range(cfg.n_layers)]
        self._mask = mask

    def __getitem__(self, layer: int) -> _Recorded:
        return self._layers[layer]

    def append_attention_mask(self, new: Tensor) -> Tensor:  # noqa: ARG002 - the whole is known
        """The mask of all tokens."""
        return self._mask

    def found(self) -> list[KeyValues]:
        """Keys and values of every layer."""
        return [layer.found for layer in self._layers if layer.found is not None]
