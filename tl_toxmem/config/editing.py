"""Settings of the editing methods."""

from typing import Literal

from pydantic import Field

from tl_toxmem.config.base import Config


class RomeConfig(Config):
    """ROME (Meng et al. 2022); what is not of data is as published for GPT-2-XL."""

    token: Literal["subject", "last"] = "subject"
    """Where a prompt is edited, and in which the layer is looked up in the trace: the subject's last token, as in the
    paper, or the prompt's last."""
    steps: int = Field(20, ge=1)
    """Forward passes in the search for a value; the gradient is followed after all but the last."""
    learning_rate: float = Field(0.5, gt=0)
    """Of Adam."""
    weight_decay: float = Field(0.5, ge=0)
    """Weight of the change's length over the squared length of the layer's output."""
    kl: float = Field(0.0625, ge=0)
    """Weight of the KL to base after the essence prompt."""
    clamp: float = Field(4.0, gt=0)
    """Most length of the change, in lengths of the layer's output."""
    stop: float = Field(0.05, ge=0)
    """A value whose loss is below this is left as it is."""
    essence: str = " is a"
    """What follows the subject in the essence prompt."""
    prefixes: int = Field(8, ge=0)
    """Contexts before each prompt, besides none (published: 20)."""
    prefix_tokens: tuple[int, ...] = Field((5, 10), min_length=1)
    """Their lengths, in turn."""
    covariance_tokens: int = Field(20_000, ge=2)
    """Neutral tokens, at most, that the covariance of the keys is made from (published: 100,000 texts)."""
    ridge: float = Field(1e-3, ge=0)
    """Added to the covariance's diagonal, in means of it; at 0, text of as many tokens as neurons is needed."""
    softness: float | None = Field(None, ge=0)
    """None: one edit after the other; else all at once, exactly at 0 and by MEMIT's closed form above."""


class ProfsConfig(Config):
    """ProFS (Uppaal et al. 2024)."""

    first_layer: int | None = Field(None, ge=0)
    """First layer that is edited; None: the upper half (published: 10 of 24 and 15 of 32)."""
    pairs: int = Field(500, ge=1)
    """Find prompts (lowest hash first), each with its target and its benign continuation."""
