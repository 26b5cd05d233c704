"""Settings of the learned gates."""

from pydantic import Field

from tl_toxmem.config.base import Config


class GateConfig(Config):
    """Scales of neurons learned by gradient."""

    steps: int = Field(60, ge=1)
    """Steps for each budget; a larger budget goes on from the smaller one's gates."""
    learning_rate: float = Field(0.1, gt=0)
    """Of Adam; a gate runs from 1 to 0, so about ten steps of one sign close it."""
    sparsity: float = Field(0.1, ge=0, lt=1)
    """A gate stays at 1 unless what it says for the targets per cost reaches this share of the candidates' largest."""
    margin: float = Field(5.0, gt=0)
    """A target is pressed down until it is this many nats less likely than before, and then left alone."""
    max_prompts: int = Field(64, ge=1)
    """Find prompts (lowest hash first) that the gates are learned on."""
    batch_size: int = Field(16, ge=1)
    """Prompts per step."""
    step_tokens: int = Field(1024, ge=2)
    """Neutral tokens per step."""
    check_tokens: int = Field(8192, ge=2)
    """Neutral tokens that the budget is checked on at the end, and that are not learned from; at most half of all."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """The rise is within the budget with this probability (by bootstrap over pieces of that text), since the budget is
    to hold on other text."""
    cost_floor: float = Field(0.1, gt=0)
    """As in the selection: added to a neuron's cost, in mean costs."""
