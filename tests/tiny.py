"""Tiny random models of every architecture: nothing zero or one by accident, weights large enough that edits are felt.

`TINY[model_type]` makes one. Adding an architecture is adding a row here, in `sites.py` and in `hooked_config.py`.
"""

import torch

GATED = ("llama", "qwen2", "mistral")
_SMALL = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}
_GATED = {
    **_SMALL,
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 96,
}


def _gpt2():
    from transformers import GPT2Config

    config = GPT2Config(n_layer=4, n_embd=32, n_head=4, n_positions=96, **_SMALL)
    config.n_ctx = config.n_positions  # the published GPT-2 configurations carry both
    return config


def _gpt_neo():
    from transformers import GPTNeoConfig

    return GPTNeoConfig(
        num_layers=4,
        hidden_size=32,
        num_heads=4,
        max_position_embeddings=96,
        window_size=5,
        attention_types=[[["global", "local"], 2]],
        **_SMALL,
    )


def _gpt_neox():
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(**_GATED, rotary_pct=0.25)


def _llama():
    from transformers import LlamaConfig

    rope = {"rope_type": "default", "rope_theta": 100_000.0}
    return LlamaConfig(
        **_GATED, num_key_value_heads=2, rope_parameters=rope, tie_word_embeddings=True
    )


def _qwen2():
    from transformers import Qwen2Config

    return Qwen2Config(**_GATED, num_key_value_heads=2)


def _mistral():
    from transformers import MistralConfig

    return MistralConfig(**_GATED, num_key_value_heads=2, sliding_window=5)


TINY = {
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "qwen2": _qwen2,
    "mistral": _mistral,
}


def random_model(arch: str, *, seed: int = 0):
    """A model with random weights, biases and norms."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(TINY[arch]()).float().eval()
    for name, parameter in model.named_parameters():
        is_norm = ".ln_" in name or "norm" in name
        parameter.data.normal_(1.0 if is_norm and name.endswith("weight") else 0.0, 0.2)
    return model
