"""Hugging Face configurations in HookedTransformer's terms, one row per architecture (TransformerLens 3.9).

TransformerLens derives these from a name or a folder, by guessing from words in the path, and caps some context
lengths; here they come from the loaded model's own configuration. A row that is wrong cannot go unnoticed: every
loaded model is compared with plain transformers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tl_toxmem.errors import ToxmemError

Convert = Callable[[PreTrainedModel, Any], dict[str, Tensor]]


def hooked_config(hf: PreTrainedModel) -> Any:
    """The `HookedTransformerConfig` of a Hugging Face model.

    Raises:
        ToxmemError: position scaling or attention that HookedTransformer does not have.
    """
    from transformer_lens.config import HookedTransformerConfig

    c: Any = hf.config
    embedding: Any = hf.get_input_embeddings().weight
    own, _ = _ROWS[c.model_type]
    values = {
        "d_model": c.hidden_size,
        "n_heads": c.num_attention_heads,
        "d_head": c.hidden_size // c.num_attention_heads,
        "n_layers": c.num_hidden_layers,
        "n_ctx": c.max_position_embeddings,
        "d_vocab": int(embedding.shape[0]),
        "original_architecture": type(hf).__name__,
        "model_name": c.model_type,
        "init_weights": False,
        "device": str(embedding.device),
        "dtype": embedding.dtype,
    }
    return HookedTransformerConfig(**{**values, **own(c)})


def hooked_weights(hf: PreTrainedModel, cfg: Any) -> dict[str, Tensor]:
    """The parameters under HookedTransformer's names: views of the Hugging Face tensors, and zeros for biases."""
    from transformer_lens.pretrained import weight_conversions

    _, converter = _ROWS[cfg.model_name]
    convert: Convert = getattr(weight_conversions, converter)
    state = convert(hf, cfg)
    state.setdefault("unembed.b_U", torch.zeros(cfg.d_vocab, dtype=cfg.dtype))
    # Some converters make the zeros on the CPU and in float32, whatever the model's place and precision.
    return {name: value.to(device=cfg.device, dtype=cfg.dtype) for name, value in state.items()}


def _fused(name: str) -> str:
    """The same nonlinearity in one pass where there is one: five passes of GPT-2's take a sixth of a batch's time."""
    return "gelu_pytorch_tanh" if name == "gelu_new" else name


def _gpt2(c: Any) -> dict[str, Any]:
    return {
        "d_mlp": c.n_inner or 4 * c.n_embd,
        "eps": c.layer_norm_epsilon,
        "act_fn": _fused(c.activation_function),
        "use_attn_scale": c.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": c.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _gpt_neo(c: Any) -> dict[str, Any]:
    return {
        "d_mlp": c.intermediate_size or 4 * c.hidden_size,
        "eps": c.layer_norm_epsilon,
        "act_fn": _fused(c.activation_function),
        "attn_types": c.attention_layers,
        "use_local_attn": True,
        "window_size": c.window_size,
        "use_attn_scale": False,
        "normalization_type": "LN",
    }


def _gpt_neox(c: Any) -> dict[str, Any]:
    rope = _rope(c)
    share = rope.get("partial_rotary_factor", getattr(c, "rotary_pct", 1.0))
    return {
        "d_mlp": c.intermediate_size,
        "eps": c.layer_norm_eps,
        "act_fn": _fused(c.hidden_act),
        "parallel_attn_mlp": c.use_parallel_residual,
        "positional_embedding_type": "rotary",
        "rotary_dim": int(share * (c.hidden_size // c.num_attention_heads)),
        "rotary_base": rope["rope_theta"],
        "rotary_adjacent_pairs": False,
        "normalization_type": "LN",
    }


def _gated(c: Any) -> dict[str, Any]:
    if getattr(c, "mlp_bias", False):
        raise ToxmemError(
            "HookedTransformer's gated MLP has no biases, and this model's has: use the host 'bridge'"
        )
    rope = _rope(c)
    d_head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    scaling = {}
    if rope["rope_type"] == "llama3":
        scaling = {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_by_parts_factor": rope["factor"],
        }
    return {
        "d_head": d_head,
        "d_mlp": c.intermediate_size,
        "eps": c.rms_norm_eps,
        "act_fn": _fused(c.hidden_act),
        "n_key_value_heads": c.num_key_value_heads,
        "positional_embedding_type": "rotary",
        "rotary_dim": d_head,
        "rotary_base": rope["rope_theta"],
        "rotary_adjacent_pairs": False,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        **scaling,
    }


def _llama(c: Any) -> dict[str, Any]:
    # This converter names the weights as ungrouped where there are as many key-value heads as heads.
    grouped = c.num_key_value_heads != c.num_attention_heads
    return {**_gated(c), "n_key_value_heads": c.num_key_value_heads if grouped else None}


def _mistral(c: Any) -> dict[str, Any]:
    if c.sliding_window is None:
        return _gated(c)
    local = {"use_local_attn": True, "window_size": c.sliding_window}
    return {**_gated(c), **local, "attn_types": ["local"] * c.num_hidden_layers}


def _rope(c: Any) -> dict[str, Any]:
    rope: dict[str, Any] = dict(c.rope_parameters)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "llama3"):
        raise ToxmemError(
            f"rotary positions of type {kind!r} are not known to HookedTransformer here: use the host 'bridge'"
        )
    return {**rope, "rope_type": kind}


_ROWS: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "gpt2": (_gpt2, "convert_gpt2_weights"),
    "gpt_neo": (_gpt_neo, "convert_neo_weights"),
    "gpt_neox": (_gpt_neox, "convert_neox_weights"),
    "llama": (_llama, "convert_llama_weights"),
    "qwen2": (_gated, "convert_qwen2_weights"),
    "mistral": (_mistral, "convert_mistral_weights"),
}
