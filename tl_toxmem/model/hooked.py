"""HookedTransformer (TransformerLens 3.9) as a host, without a second copy of the weights.

The modules are built on the meta device, and their parameters are then assigned as views of the Hugging Face
tensors. So loading costs no memory beyond the mapped file, the Hugging Face object stays clean and can be
saved, and editing its tensors edits the hooked model.
"""

import warnings
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tl_toxmem.errors import ToxmemError


class HookedHost:
    """Forward, resume and decode on a HookedTransformer with raw weights."""

    kind: Literal["hooked", "bridge"] = "hooked"

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.n_layers: int = raw.cfg.n_layers
        self.points: dict[str, Any] = dict(raw.hook_dict)

    @classmethod
    def from_hf(cls, hf: PreTrainedModel) -> "HookedHost":
        """Wrap a Hugging Face GPT-2 without copying a weight.

        Raises:
            ToxmemError: if the installed TransformerLens has no HookedTransformer (4.0 and later).
        """
        try:
            from transformer_lens import HookedTransformer
            from transformer_lens.config import HookedTransformerConfig
            from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
        except ImportError:
            raise ToxmemError(
                'this TransformerLens has no HookedTransformer: pip install "tl-toxmem[hooked]", '
                "or use the host 'bridge'"
            ) from None
        c: Any = hf.config
        embedding: Any = hf.get_input_embeddings().weight
        cfg = HookedTransformerConfig(
            d_model=c.n_embd,
            d_head=c.n_embd // c.n_head,
            n_heads=c.n_head,
            d_mlp=c.n_inner or 4 * c.n_embd,
            n_layers=c.n_layer,
            n_ctx=c.n_positions,
            eps=c.layer_norm_epsilon,
            d_vocab=c.vocab_size,
            act_fn=c.activation_function,
            scale_attn_by_inverse_layer_idx=c.scale_attn_by_inverse_layer_idx,
            normalization_type="LN",
            original_architecture="GPT2LMHeadModel",
            model_name="gpt2",
            init_weights=False,
            device=str(embedding.device),
            dtype=embedding.dtype,
        )
        state = convert_gpt2_weights(hf, cfg)
        state["unembed.b_U"] = torch.zeros(
            c.vocab_size, dtype=embedding.dtype, device=embedding.device
        )
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            raw = HookedTransformer(cfg, None, move_to_device=False)
        _fill_buffers(raw, embedding.device)
        loaded = raw.load_state_dict(state, strict=False, assign=True)
        missing = [k for k in loaded.missing_keys if not k.endswith((".mask", ".IGNORE"))]
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

    def step(
        self, new: Int[Tensor, "batch new"], mask: Int[Tensor, "batch pos"], cache: Any
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Decode `new` tokens after those in `cache`: logits of the last one, and the cache grown."""
        from transformer_lens import TransformerLensKeyValueCache

        if cache is None:
            cfg = self.raw.cfg
            cache = TransformerLensKeyValueCache.init_cache(cfg, cfg.device, new.shape[0])
        # HookedTransformer wants the mask of the new tokens only; the cache knows the older ones.
        resid = self.raw(
            new,
            attention_mask=mask[:, -new.shape[1] :],
            past_kv_cache=cache,
            stop_at_layer=self.n_layers,
        )
        return self.unembed(resid, 1)[:, -1], cache


def _fill_buffers(raw: Any, device: torch.device) -> None:
    """Give the buffers that no checkpoint carries real storage in place of the meta device's."""
    for block in raw.blocks:
        block.attn.mask = torch.empty((0, 0), dtype=torch.bool, device=device)
        block.attn.IGNORE = torch.tensor(-torch.inf, device=device)
