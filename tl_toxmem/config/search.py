"""Settings of the search."""

from typing import Literal

from pydantic import Field

from tl_toxmem.config.base import Config, Seed

SearchedLaw = Literal["zero", "mean", "scale", "gates"]


class SearchConfig(Config):
    """Which neurons, which law and how strong, sought together (needs the extra `search`)."""

    trials: int = Field(0, ge=0)
    """Deletions that are tried; 0: no search, the selection and the law are those configured."""
    laws: tuple[SearchedLaw, ...] = Field(("zero", "mean", "scale", "gates"), min_length=1)
    """Laws to choose from."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """A deletion is affordable if its rise of perplexity is within the budget with this probability (by bootstrap over
    the documents kept for choosing), since the budget is to hold on other text."""
    max_tokens: int = Field(10_000, ge=2)
    """Neutral tokens that the rise is measured on."""
    seed: Seed = 0
