"""TransformerBridge (TransformerLens 3.9 and 4.x) with raw weights as a host.

Attention masks are made here, four-dimensional, and positions are passed: then padding, rotary embeddings and
resuming are the same in every architecture. transformers leaves a mask of that shape as it is.

The Bridge wraps the modules of a Hugging Face model in place; that object can no longer be saved, so
`clean_hf` builds a fresh one around the same tensors.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.cache_utils import Cache, DynamicLayer

from tl_toxmem.errors import ToxmemError
from tl_toxmem.model.cache import KeyValues, bridge_cache
from tl_toxmem.model.load import positions_of
from tl_toxmem.model.shell import shell
from tl_toxmem.sites import architecture


class BridgeHost:
    """Forward, resume and decode on a TransformerBridge."""

    kind: Literal["hooked", "bridge"] = "bridge"

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.n_layers: int = raw.cfg.n_layers
        # A property that is rebuilt at each access on 3.9: keep it.
        self.points: dict[str, Any] = dict(raw.hook_dict)
        wrapped = raw.original_model
        self._arch = architecture(wrapped.config.model_type, where="the Bridge's model")
        rotary = self._arch.rotary
        self._rotary = None if rotary is None else wrapped.get_submodule(rotary)
        self._window = _window(wrapped.config)
        self._dtype: torch.dtype = next(raw.parameters()).dtype
        # transformers' blocks call the cache of earlier positions one or the other.
        takes = inspect.signature(raw.blocks[0].original_component.forward).parameters
        self._past = "layer_past" if "layer_past" in takes else "past_key_values"

    @classmethod
    def from_hf(cls, hf: PreTrainedModel) -> "BridgeHost":
        """Wrap a Hugging Face model; `hf` itself must not be used afterwards."""
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        hf.set_attn_implementation("eager")
        _fuse_nonlinearities(hf)
        # It makes linear layers of full size only to put other weights into them.
        with torch.device("meta"):
            raw = build_bridge_from_module(
                hf, type(hf).__name__, hf_config=hf.config, tokenizer=None
            )
        raw.requires_grad_(False)
        return cls(raw.eval())

    def forward(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], keep: int | None
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Logits of the last `keep` positions (all for None)."""
        logits: Tensor = self.raw(
            tokens,
            attention_mask=self._mask4(mask, tokens.shape[1]),
            position_ids=positions_of(mask),
            logits_to_keep=keep or 0,
        )
        return logits

    def forward_cached(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], keep: int | None
    ) -> tuple[Float[Tensor, "batch kept d_vocab"], list[KeyValues]]:
        """`forward`, and the keys and values of every layer."""
        # Of all positions, also where attention looks back at a window of them: the mask says what is seen.
        logits, cache = self.raw(
            tokens,
            attention_mask=self._mask4(mask, tokens.shape[1]),
            position_ids=positions_of(mask),
            use_cache=True,
            past_key_values=Cache(layer_class_to_replicate=DynamicLayer),
            return_type="logits_and_cache",
            logits_to_keep=keep or 0,
        )
        return logits, [KeyValues(layer.keys, layer.values, along=2) for layer in cache.layers]

    def suffix(self, mask: Int[Tensor, "batch pos"], n_new: int) -> "BridgeSuffix":
        """To run blocks on the last `n_new` positions only; see `BridgeSuffix`."""
        rotation = None
        if self._rotary is not None:
            rotation = self._rotary(mask.to(self._dtype), positions_of(mask)[:, -n_new:])
        return BridgeSuffix(self.raw, self._mask4(mask, n_new), rotation, self._past)

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
        suffix = self.suffix(mask, resid.shape[1])
        for at in range(layer, self.n_layers):
            resid = suffix.block(at, resid, None)
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
        wanted = self._arch.w_out.format(layer=layer)
        vectors: Tensor = next(
            parameter.data
            for name, parameter in self.raw.original_model.named_parameters()
            if _plain(name) == wanted
        )
        return vectors if self._arch.rows_are_neurons else vectors.T

    def step(
        self, new: Int[Tensor, "batch new"], mask: Int[Tensor, "batch pos"], cache: Any
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Decode `new` tokens after those in `cache`: logits of the last one, and the cache grown."""
        if cache is None and self._window is None:
            cache = bridge_cache()
        past = {} if cache is None else {"past_key_values": cache}
        mask4 = self._mask4(mask, new.shape[1])
        if self._window is not None:  # the cache forgets what no later token looks back at
            n_past = min(mask.shape[1] - new.shape[1], self._window - 1)
            mask4 = mask4[..., -(n_past + new.shape[1]) :]
        logits, cache = self.raw(
            new,
            attention_mask=mask4,
            position_ids=positions_of(mask)[:, -new.shape[1] :],
            use_cache=True,
            return_type="logits_and_cache",
            logits_to_keep=1,
            **past,
        )
        return logits[:, -1], cache

    def take(self, cache: Any, rows: Int[Tensor, " row"]) -> Any:
        """The cache of these rows, in this order, each as often as it is named."""
        cache.batch_select_indices(rows)
        return cache

    def _mask4(
        self, mask: Int[Tensor, "batch pos"], n_new: int
    ) -> Float[Tensor, "batch 1 new pos"]:
        """The additive attention mask of the last `n_new` tokens: causal, within the window, blind to padding."""
        pos = mask.shape[1]
        causal = torch.ones(pos, pos, dtype=torch.bool, device=mask.device).tril()
        if self._window is not None:
            causal &= ~causal.tril(-self._window)
        seen = causal[None, None, -n_new:] & mask[:, None, None, :].bool()
        # transformers takes some softmaxes in float32, where float64's lowest number is minus infinity and a row
        # that sees nothing (padding) would become NaN.
        dtype = torch.float32 if self._dtype == torch.float64 else self._dtype
        lowest = torch.finfo(dtype).min
        return torch.zeros(seen.shape, dtype=self._dtype, device=mask.device).masked_fill(
            ~seen, lowest
        )

    def clean_hf(self) -> PreTrainedModel:
        """A Hugging Face model around the very same tensors, fit to be edited and saved."""
        wrapped = self.raw.original_model
        state = {_plain(key): v for key, v in wrapped.state_dict(keep_vars=True).items()}
        buffers = {_plain(name): value for name, value in wrapped.named_buffers()}
        return shell(wrapped, state=state, buffers=buffers)


@dataclass(frozen=True)
class BridgeSuffix:
    """Single blocks on the last positions of rows, after keys and values of the earlier ones."""

    raw: Any
    mask4: Float[Tensor, "batch 1 new pos"]
    rotation: tuple[Tensor, Tensor] | None
    past: str

    def block(
        self, layer: int, resid: Float[Tensor, "row new d_model"], past: KeyValues | None
    ) -> Float[Tensor, "row new d_model"]:
        """What leaves block `layer`.

        Args:
            layer: which.
            resid: what enters it, of the first `row` rows of the mask.
            past: of the positions before them, of at least as many rows; None where there are none.
        """
        n = len(resid)
        options: dict[str, Any] = {} if past is None else {self.past: past}
        if self.rotation is not None:
            options["position_embeddings"] = tuple(x[:n] for x in self.rotation)
        out = self.raw.blocks[layer](resid, attention_mask=self.mask4[:n], **options)
        resid_post: Tensor = out[0] if isinstance(out, tuple) else out
        return resid_post


def _fuse_nonlinearities(hf: PreTrainedModel) -> None:
    """GPT-2's GELU in one pass in place of five; the same function."""
    for module in list(hf.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def _plain(key: str) -> str:
    """A name inside the wrapped model as the checkpoint has it."""
    return key.replace("._original_component", "")


def _window(config: Any) -> int | None:
    """Tokens that attention looks back at, in every layer; None for all of them.

    GPT-Neo's local layers are no matter of the mask: they bring their own.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    window: int | None = getattr(config, "sliding_window", None)
    if config.model_type not in ("mistral", "qwen2") or window is None:
        return None
    if kinds == {"full_attention"}:
        return None
    if len(kinds) > 1:
        raise ToxmemError(
            "layers with sliding and with full attention in one model are not supported"
        )
    return window
