"""Settings of the prompts."""

from pydantic import Field

from tl_toxmem.config.base import Config, Seed


class PromptsConfig(Config):
    """Which prompts find, and which report."""

    report_share: float = Field(0.5, gt=0, lt=1)
    """Share of the prompts kept for reporting, where the file does not say (by hash of the prompt)."""
    max_find: int | None = Field(None, ge=2)
    """Use at most so many find prompts (lowest hash first)."""
    max_report: int | None = Field(None, ge=2)
    """Use at most so many report prompts (lowest hash first)."""
    seed: Seed = 0
