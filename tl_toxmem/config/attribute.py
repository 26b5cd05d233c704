"""Settings of the attribution."""

from typing import Literal

from pydantic import Field

from tl_toxmem.config.base import Config, Seed

Attribution = Literal[
    "gradient",
    "attribution_patching",
    "grad_drop",
    "integrated_gradients",
    "knowledge_neurons",
    "direct_effect",
    "contrast",
    "experts",
    "probe",
    "ablation",
]
BY_TEXTS: tuple[Attribution, ...] = ("experts", "probe")
"""Methods that score neurons by labelled texts, and so over no prompts."""


class AttributeConfig(Config):
    """Neuron attribution."""

    method: Attribution = "gradient"
    """How neurons are scored; `contrast` needs benign prompts, `experts` and `probe` need labelled text."""
    noise_sigma: float = Field(3.0, gt=0)
    """Of attribution patching, as in the trace."""
    n_noise: int = Field(10, ge=1)
    """Noise draws whose mean activation is the corrupted one."""
    steps: int | None = Field(None, ge=1)
    """Of the path integrals; None: as many as completeness asks for (knowledge_neurons: 20)."""
    completeness: float = Field(0.05, gt=0)
    """Share of a layer's whole difference that integrated gradients may miss, prompt by prompt."""
    verify_top: int = Field(50, ge=0)
    """How many neurons, the highest, are checked by really ablating them."""
    verify_random: int = Field(200, ge=0)
    """How many of the others, at random, are ablated to see what was missed."""
    verify_prompts: int = Field(32, ge=1)
    """Find prompts (lowest hash first) that ablations are measured on."""
    verify_law: Literal["zero", "mean"] = "zero"
    """What ablating sets an activation to: zero, or its mean on neutral text."""
    batch_size: int = Field(16, ge=1)
    """Prompts per batch."""
    max_cost_tokens: int = Field(20_000, ge=1)
    """Neutral tokens that the cost of removing a neuron is estimated on."""
    seed: Seed = 0
