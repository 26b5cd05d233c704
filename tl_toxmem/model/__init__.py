"""One surface over TransformerLens's hosts: loading, hooks, forward, resume, gradients, generation."""

from tl_toxmem.model.generate import Sampling
from tl_toxmem.model.lens import LensModel, MLPWeights
from tl_toxmem.model.load import (
    Source,
    demo_folder,
    find_source,
    load_hf,
    plain_log_probs,
)
from tl_toxmem.model.running import Hook, HookFn

__all__ = [
    "Hook",
    "HookFn",
    "LensModel",
    "MLPWeights",
    "Sampling",
    "Source",
    "demo_folder",
    "find_source",
    "load_hf",
    "plain_log_probs",
]
