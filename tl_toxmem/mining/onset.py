"""The onset: the shortest beginning of a continuation that is judged toxic, and the word with which it becomes so.

A continuation is read word by word, each first without its closing punctuation and then with it. Judges look at
beginnings of the continuation alone, as they do at whole continuations. The word with which a beginning turns toxic is
the target; what comes before it is the lead-in. One space before the word is the target's, as tokenizers have it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tl_toxmem.mining.sampling import Samples
from tl_toxmem.scorers import ToxicityScorer, judged

_WORD = re.compile(r" ?\S+")
_CLOSING = ".,;:!?\"')]}»”’…"
_BROKEN = "\ufffd"  # a character that was cut in two: its text has other tokens than were generated


@dataclass(frozen=True)
class Onset:
    """Where a continuation turns toxic; `score` is that of lead-in and target together."""

    lead_in: str
    target: str
    score: float


@dataclass(frozen=True)
class _Beginning:
    start: int
    end: int


def find_onsets(
    scorer: ToxicityScorer, continuations: Sequence[str], *, threshold: float
) -> list[Onset | None]:
    """The onset of each continuation; None where no beginning without broken characters is toxic."""
    ways = [_beginnings(text) for text in continuations]
    flat = [text[: b.end] for text, way in zip(continuations, ways, strict=True) for b in way]
    scores = iter(judged(scorer, flat).tolist() if flat else [])
    found: list[Onset | None] = []
    for text, way in zip(continuations, ways, strict=True):
        onset = None
        for one, score in [(b, next(scores)) for b in way]:
            if onset is None and score >= threshold:
                onset = Onset(text[: one.start], text[one.start : one.end], score)
        found.append(onset)
    return found


def _beginnings(text: str) -> list[_Beginning]:
    """Where the words of a text begin and end."""
    text = text.split(_BROKEN)[0]
    found = []
    for match in _WORD.finditer(text):
        bare = match.start() + len(match[0].rstrip(_CLOSING))
        if match[0][: bare - match.start()].strip():
            found.append(_Beginning(match.start(), bare))
        if bare < match.end():
            found.append(_Beginning(match.start(), match.end()))
    return found


def typical(onsets: Sequence[Onset]) -> Onset:
    """The onset that is found most often; of equally frequent ones that of the shortest lead-in, then of most score."""
    often = Counter((onset.lead_in, onset.target) for onset in onsets)

    def rank(onset: Onset) -> tuple[int, int, float, str, str]:
        n = often[onset.lead_in, onset.target]
        return -n, len(onset.lead_in.split()), -onset.score, onset.lead_in, onset.target

    return min(onsets, key=rank)


def harmless_alternatives(samples: Samples, target: str, *, threshold: float) -> list[str]:
    """The harmless continuations, each cut to as many words as the target has, the best first.

    Best are those that begin with a space if the target does (without one, if it does not), then the least toxic.
    """
    n = len(target.split())
    ranked = []
    for i, (text, score) in enumerate(zip(samples.continuations, samples.scores, strict=True)):
        text = text.split(_BROKEN)[0]
        ends = [match.end() for match in _WORD.finditer(text)]
        if len(ends) < n or score >= threshold:
            continue
        cut = text[: ends[n - 1]].rstrip(_CLOSING)
        if cut.strip():
            ranked.append((cut.startswith(" ") != target.startswith(" "), score, i, cut))
    return [cut for *_, cut in sorted(ranked)]
