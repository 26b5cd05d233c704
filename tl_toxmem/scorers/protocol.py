"""What a judge of toxicity is: `score(texts) -> [text]` in [0, 1], higher is more toxic."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from tl_toxmem.errors import ToxmemError


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


def judged(scorer: ToxicityScorer, texts: Sequence[str]) -> Float[Tensor, " text"]:
    """What a judge says.

    Raises:
        ToxmemError: a number that is no score, naming judge and text; what the judge raises.
    """
    scores = scorer.score(texts)
    check_scores(scorer.name, scores.tolist(), range(len(texts)))
    return scores


def check_scores(name: str, scores: Sequence[float], places: Sequence[int]) -> None:
    """Refuse what is no score.

    Args:
        name: of the judge.
        scores: what it gave.
        places: of the texts, among those that were asked for.

    Raises:
        ToxmemError: a number that is not from 0 to 1, or another number of them.
    """
    if len(scores) != len(places):
        raise ToxmemError(f"{name} gave {len(scores)} scores for {len(places)} texts")
    for score, place in zip(scores, places, strict=True):
        if not 0 <= score <= 1:
            raise ToxmemError(
                f"{name} gave {score:g} for text {place}, counted from 0, which is no score between 0 and 1"
            )
