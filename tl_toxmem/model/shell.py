"""A fresh Hugging Face model around the tensors of another: no weight is copied, and the other is left as it is."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tl_toxmem.errors import ToxmemError


def shell(
    model: PreTrainedModel, *, state: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> PreTrainedModel:
    """A model of the same class and configuration, in eval mode, whose parameters share memory with `state`.

    Args:
        model: gives class and configuration; its modules may be wrapped by a Bridge.
        state: parameters and persistent buffers under the names of a plain model.
        buffers: those that no checkpoint carries (rotary frequencies, causal masks) too.

    Raises:
        ToxmemError: a head of its own where the configuration says that it is the embeddings.
    """
    config = copy.deepcopy(model.config)
    # Set by the Bridge's loader and by set_attn_implementation; no part of the checkpoint. transformers chooses anew.
    config.output_attentions = False
    config._attn_implementation = None
    kind: Any = type(model)
    with torch.device("meta"):
        fresh: Any = kind(config)
    # Detached: parameters of their own, so that switching gradients off here leaves the other's flags alone.
    fresh.load_state_dict(
        {name: state[name].detach() for name in fresh.state_dict()}, assign=True, strict=True
    )
    fresh.tie_weights()
    for name, value in fresh.state_dict().items():
        if value.data_ptr() != state[name].data_ptr():
            raise ToxmemError(
                f"{name} is a tensor of its own, though the model's configuration ties it to the embeddings: set "
                "config.tie_word_embeddings = False"
            )
    if getattr(model, "generation_config", None) is not None:
        fresh.generation_config = copy.deepcopy(model.generation_config)
    for name, value in list(fresh.named_buffers()):
        if value.is_meta:
            parent, _, leaf = name.rpartition(".")
            fresh.get_submodule(parent).register_buffer(leaf, buffers[name], persistent=False)
    fresh.requires_grad_(False)
    result: PreTrainedModel = fresh.eval()
    return result
