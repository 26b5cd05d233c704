"""TransformerBridge (TransformerLens 3.9 and 4.x) with raw weights as a host.

The Bridge wraps the modules of a Hugging Face model in place; that object can no longer be saved, so
`clean_hf` builds a fresh one around the same tensors.
"""

import copy
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel


class BridgeHost:
    """Forward, resume and decode on a TransformerBridge."""

    kind: Literal["hooked", "bridge"] = "bridge"

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.n_layers: int = raw.cfg.n_layers
        # A property that is rebuilt at each access on 3.9: keep it.
        self.points: dict[str, Any] = dict(raw.hook_dict)

    @classmethod
    def from_hf(cls, hf: PreTrainedModel) -> "BridgeHost":
        """Wrap a Hugging Face model; `hf` itself must not be used afterwards."""
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        hf.set_attn_implementation("eager")
        raw = build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config, tokenizer=None)
        raw.requires_grad_(False)
        return cls(raw.eval())

    def forward(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], keep: int | None
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Logits of the last `keep` positions (all for None)."""
        logits: Tensor = self.raw(tokens, attention_mask=mask, logits_to_keep=keep or 0)
        return logits

    def resume(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        layer: int,
        mask: Int[Tensor, "batch pos"],
        keep: int | None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Logits from the residual stream entering block `layer`; the blocks below do not run.

        The Bridge's own `start_at_layer` is missing on 3.9 and runs every block on 4.x.
        """
        mask4 = _causal_mask(mask, resid.dtype)
        for block in self.raw.blocks[layer:]:
            out = block(resid, attention_mask=mask4)
            resid = out[0] if isinstance(out, tuple) else out
        kept = resid if keep is None else resid[:, -keep:]
        logits: Tensor = self.raw.unembed(self.raw.ln_final(kept))
        return logits

    def step(
        self, new: Int[Tensor, "batch new"], mask: Int[Tensor, "batch pos"], cache: Any
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Decode `new` tokens after those in `cache`: logits of the last one, and the cache grown."""
        past = {} if cache is None else {"past_key_values": cache}
        logits, cache = self.raw(
            new,
            attention_mask=mask,  # the Bridge wants the mask of all tokens
            use_cache=True,
            return_type="logits_and_cache",
            logits_to_keep=1,
            **past,
        )
        return logits[:, -1], cache

    def clean_hf(self) -> PreTrainedModel:
        """A Hugging Face model around the very same tensors, fit to be edited and saved."""
        wrapped = self.raw.original_model
        state = {
            key.replace("._original_component", ""): value
            for key, value in wrapped.state_dict(keep_vars=True).items()
        }
        config = copy.deepcopy(wrapped.config)
        config.output_attentions = (
            False  # the Bridge's own loader sets it; it is not the checkpoint's
        )
        with torch.device("meta"):
            clean: Any = type(wrapped)(config)
        clean.load_state_dict(
            {key: state[key] for key in clean.state_dict()}, assign=True, strict=True
        )
        clean.tie_weights()
        model: PreTrainedModel = clean.eval()
        return model


def _causal_mask(
    mask: Int[Tensor, "batch pos"], dtype: torch.dtype
) -> Float[Tensor, "batch 1 pos pos"]:
    """The additive attention mask: causal, and blind to padding."""
    pos = mask.shape[1]
    causal = torch.ones(pos, pos, dtype=torch.bool, device=mask.device).tril()
    seen = causal[None, None] & mask[:, None, None, :].bool()
    blank = torch.zeros(seen.shape, dtype=dtype, device=mask.device)
    return blank.masked_fill(~seen, torch.finfo(dtype).min)
