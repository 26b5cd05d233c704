"""Settings of the export."""

from pydantic import Field

from tl_toxmem.config.base import Config


class ExportConfig(Config):
    """Baking, saving and checking the checkpoint."""

    bound: float = Field(1e-5, gt=0)
    """Largest allowed log-probability gap between the hooked model and the reloaded folder, in nats."""
    min_effect: float = Field(1e-4, gt=0)
    """Smallest log-probability change against base that counts as an edit with an effect, in nats."""
    n_prompts: int = Field(32, ge=1)
    """Report prompts that the checkpoint is checked on."""
    max_new_tokens: int = Field(10, ge=1)
    """Greedy tokens that must be identical."""
