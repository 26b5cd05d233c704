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
