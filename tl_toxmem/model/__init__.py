"""One surface over TransformerLens's hosts: loading, hooks, forward, resume, gradients, generation."""

from tl_toxmem.model.generate import Sampling
from tl_toxmem.model.lens import Hook, HookFn, LensModel
from tl_toxmem.model.load import (
    Source,
    demo_folder,
    find_source,
    load_hf,
    plain_log_probs,
)

__all__ = [
    "Hook",
    "HookFn",
    "LensModel",
    "Sampling",
    "Source",
    "demo_folder",
    "find_source",
    "load_hf",
    "plain_log_probs",
]
