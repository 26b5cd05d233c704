"""What a judge of toxicity is: `score(texts) -> [text]` in [0, 1], higher is more toxic."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class ToxicityScorer(Protocol):
    """A judge."""

    name: str

    def score(self, texts: Sequence[str]) -> Float[Tensor, " text"]:
        """Toxicity of each text in [0, 1]; float32 on the CPU, always [n]."""
        ...

    def provenance(self) -> dict[str, str]:
        """What judged: scorer, label, package versions, SHA-256 of the weights once they are on this machine."""
        ...
