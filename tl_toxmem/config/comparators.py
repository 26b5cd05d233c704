"""Settings of the methods that a deletion is compared with."""

from pydantic import Field

from tl_toxmem.config.base import Config
from tl_toxmem.config.editing import ProfsConfig, RomeConfig
from tl_toxmem.config.gates import GateConfig


class ComparatorConfig(Config):
    """Of each method, what its strength does not say."""

    gates: GateConfig = GateConfig()
    """Of learned gates."""
    gate_candidates: int | None = Field(None, ge=1)
    """Neurons whose gates are learned; None: a thirtieth of the model's, 50 to 2,000."""
    rome: RomeConfig = RomeConfig()
    """Of ROME's edits."""
    profs: ProfsConfig = ProfsConfig()
    """Of the projection."""
    knowledge_threshold: float = Field(0.2, gt=0, le=1)
    """Of knowledge neurons: a neuron counts in a prompt from this share of the prompt's largest attribution on."""
    knowledge_steps: int = Field(20, ge=1)
    """Of their integrated gradients."""
    knowledge_prompts: int = Field(64, ge=1)
    """Find prompts (lowest hash first) that they are sought on."""
