"""HookedTransformer (TransformerLens 3.9) as a host, without a second copy of the weights.

The modules are built on the meta device, and their parameters are then assigned as views of the Hugging Face
tensors. So loading costs no memory beyond the mapped file, the Hugging Face object stays clean and can be
saved, and editing its tensors edits the hooked model.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tl_toxmem.errors import ToxmemError
from tl_toxmem.model.cache import HookedCache, KeyValues, Recording
from tl_toxmem.model.hooked_config import hooked_config, hooked_weights


class HookedHost:
    """Forward, resume and decode on a HookedTransformer with raw weights."""

    kind: Literal["hooked", "bridge"] = "hooked"

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.n_layers: int = raw.cfg.n_layers
        self.points: dict[str, Any] = dict(raw.hook_dict)

    @classmethod
    def from_hf(cls, hf: PreTrainedModel) -> "HookedHost":
        """Wrap a Hugging Face model without copying a weight.

        Raises:
            ToxmemError: if the installed TransformerLens has no HookedTransformer (4.0 and later), or the model has
                something that HookedTransformer has not.
        """
        try:
            from transformer_lens import HookedTransformer
        except ImportError:
            raise ToxmemError(
                'this TransformerLens has no HookedTransformer: pip install "tl-toxmem[hooked]", '
                "or use the host 'bridge'"
            ) from None
        cfg = hooked_config(hf)
        state = hooked_weights(hf, cfg)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                raw = HookedTransformer(cfg, None, move_to_device=False)
            except (AssertionError, ValueError, NotImplementedError) as error:
                raise ToxmemError(
                    f"HookedTransformer cannot be made of this {cfg.model_name} ({error}): use the host 'bridge'"
                ) from None
        _fill_buffers(raw)
        loaded = raw.load_state_dict(state, strict=False, assign=True)
        missing = [k for k in loaded.missing_keys if not k.endswith(_BUFFERS)]
        if missing or loaded.unexpected_keys:
            raise RuntimeError(
                f"weight conversion: missing {missing}, left {loaded.unexpected_keys}"
            )
        raw.requires_grad_(False)
        return cls(raw.eval())

    def forward(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], keep: int | None
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Logits of the last `keep` positions (all for None)."""
        resid = self.raw(tokens, attention_mask=mask, stop_at_layer=self.n_layers)
        return self.unembed(resid, keep)

    def forward_cached(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], keep: int | None
    ) -> tuple[Float[Tensor, "batch kept d_vocab"], list[KeyValues]]:
        """`forward`, and the keys and values of every layer."""
        recording = Recording(self.raw.cfg, mask)
        resid = self.raw(
            tokens, attention_mask=mask, past_kv_cache=recording, stop_at_layer=self.n_layers
        )
        return self.unembed(resid, keep), recording.found()

    def suffix(self, mask: Int[Tensor, "batch pos"], n_new: int) -> "HookedSuffix":  # noqa: ARG002
        """To run blocks on the last `n_new` positions only; see `HookedSuffix`."""
        return HookedSuffix(self.raw, mask)

    def resume(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        layer: int,
        mask: Int[Tensor, "batch pos"],
        keep: int | None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Logits from the residual stream entering block `layer`; the blocks below do not run."""
        if layer < self.n_layers:
            resid = self.raw(
                resid, start_at_layer=layer, attention_mask=mask, stop_at_layer=self.n_layers
            )
        return self.unembed(resid, keep)

    def unembed(
        self, resid: Float[Tensor, "batch pos d_model"], keep: int | None
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Final LayerNorm and unembedding of the last `keep` positions."""
        kept = resid if keep is None else resid[:, -keep:]
        logits: Tensor = self.raw.unembed(self.raw.ln_final(kept))
        return logits

    def value_vectors(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        """What each neuron of a layer writes; a view."""
        vectors: Tensor = self.raw.blocks[layer].mlp.W_out.data
        return vectors

    def step(
        self, new: Int[Tensor, "batch new"], mask: Int[Tensor, "batch pos"], cache: Any
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Decode `new` tokens after those in `cache`: logits of the last one, and the cache grown."""
        if cache is None:
            w_o = [_as_read(block.attn.W_O.data) for block in self.raw.blocks]
            cache = _Decoding(HookedCache(self.raw.cfg, new.shape[0]), w_o)
        cache.past.mask = mask
        with cache.w_o_of(self.raw):
            resid = self.raw(
                new,
                attention_mask=mask[:, -new.shape[1] :],
                past_kv_cache=cache.past,
                stop_at_layer=self.n_layers,
            )
        return self.unembed(resid, 1)[:, -1], cache

    def take(self, cache: Any, rows: Int[Tensor, " row"]) -> Any:
        """The cache of these rows, in this order, each as often as it is named."""
        cache.past.take(rows)
        return cache


@dataclass(frozen=True)
class HookedSuffix:
    """Single blocks on the last positions of rows, after keys and values of the earlier ones."""

    raw: Any
    mask: Int[Tensor, "batch pos"]

    def block(
        self, layer: int, resid: Float[Tensor, "row new d_model"], past: KeyValues
    ) -> Float[Tensor, "row new d_model"]:
        """What leaves block `layer`.

        Args:
            layer: which.
            resid: what enters it, of the first `row` rows of the mask.
            past: of the positions before them, of at least as many rows.
        """
        # No mask where nothing is padded: rotations are then looked up once for all rows.
        mask = self.mask[: len(resid)]
        out: Tensor = self.raw.blocks[layer](
            resid, past_kv_cache_entry=past, attention_mask=None if bool(mask.all()) else mask
        )
        return out


@dataclass
class _Decoding:
    """What one generation keeps between its steps: keys and values, and each layer's W_O as attention reads it.

    HookedTransformer copies W_O into that order in every layer at every step, which takes a fifth of a step of
    GPT-2-XL, whose weights lie in the other order. Copied once here, for the time of one generation.
    """

    past: HookedCache
    w_o: list[Tensor]

    @contextmanager
    def w_o_of(self, raw: Any) -> Iterator[None]:
        """Give the model these W_O, and its own back at the end."""
        parameters = [block.attn.W_O for block in raw.blocks]
        own = [parameter.data for parameter in parameters]
        try:
            for parameter, value in zip(parameters, self.w_o, strict=True):
                parameter.data = value
            yield
        finally:
            for parameter, value in zip(parameters, own, strict=True):
                parameter.data = value


def _as_read(w_o: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head d_head d_model"]:
    """The same values, with all that is added up into one output side by side; no copy where they are already."""
    return w_o.permute(2, 0, 1).contiguous().permute(1, 2, 0)


_BUFFERS = (".mask", ".IGNORE", ".rotary_sin", ".rotary_cos")


def _fill_buffers(raw: Any) -> None:
    """Give the buffers that no checkpoint carries real storage in place of the meta device's."""
    cfg, device = raw.cfg, raw.cfg.device
    for block in raw.blocks:
        attn = block.attn
        attn.mask = torch.empty((0, 0), dtype=torch.bool, device=device)
        attn.IGNORE = torch.tensor(-torch.inf, device=device)
        if cfg.positional_embedding_type == "rotary":
            size = min(cfg.n_ctx, attn.ROTARY_INITIAL_CACHE_SIZE)
            sin, cos = attn.calculate_sin_cos_rotary(
                cfg.rotary_dim, size, base=cfg.rotary_base, dtype=cfg.dtype
            )
            attn.rotary_sin, attn.rotary_cos = sin.to(device), cos.to(device)
