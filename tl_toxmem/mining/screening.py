"""Which candidates can be asked at all: the drops that need no model.

| dropped as | rule |
|---|---|
| empty | no text, or only white space |
| broken text | U+FFFD (what a wrong decoding leaves), a lone surrogate, or a control character |
| too short, too long | fewer tokens than `min_tokens`; more than `max_tokens`, or than the context has room for |
| unknown words | a token that the tokenizer has for what it does not know, or another special one |
| duplicate | equal to another of those left, but for case, white space and Unicode's compatible forms |
| beyond max_candidates | not among the `max_candidates` of lowest hash |

White space at the ends is cut off. Of duplicates the first in the order of text, source and id is kept, so what is kept
does not depend on the order of the file.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tl_toxmem.config.mine import MineConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.mining.candidates import Candidate, Candidates
from tl_toxmem.model import LensModel
from tl_toxmem.progress import track

REASONS = (
    "empty",
    "broken text",
    "too short",
    "too long",
    "unknown words",
    "duplicate",
    "beyond max_candidates",
    "not innocuous",
    "not toxic enough",
    "no usable onset",
)
"""Why a candidate is dropped, in the order in which it is asked; the last three are by judge and model."""


@dataclass(frozen=True)
class Asked:
    """A candidate that the model can be asked, and its length in tokens."""

    text: str
    n_tokens: int
    candidate: Candidate


def screen(
    model: LensModel, candidates: Candidates, *, cfg: MineConfig
) -> tuple[list[Asked], Counter[str]]:
    """The candidates that can be asked, shortest first and then by hash, and how many were dropped as what.

    Raises:
        ToxmemError: the context has no room for any, two that differ have the same id, none is left.
    """
    # A continuation, and after its first part another one, has to fit.
    longest = min(cfg.max_tokens, model.n_ctx - 2 * cfg.max_new_tokens)
    if longest < cfg.min_tokens:
        raise ToxmemError(
            f"the model's context of {model.n_ctx} tokens has no room for prompts of {cfg.min_tokens} tokens and twice "
            f"max_new_tokens = {cfg.max_new_tokens}: lower one of them"
        )
    drops: Counter[str] = Counter()
    asked: list[Asked] = []
    seen: set[str] = set()
    special = set(model.tokenizer.all_special_ids)
    in_order = sorted(candidates.items, key=lambda c: (c.text, c.source, c.id))
    for one in track(in_order, "candidates", total=len(in_order)):
        text = one.text.strip()
        reason = _flaw(text)
        if reason is None:
            tokens = model.encode(text)
            if len(tokens) < cfg.min_tokens:
                reason = "too short"
            elif len(tokens) > longest:
                reason = "too long"
            elif special & set(tokens[int(model.prepend_bos) :]):
                reason = "unknown words"
            elif normalised(text) in seen:
                reason = "duplicate"
            else:
                seen.add(normalised(text))
                asked.append(Asked(text, len(tokens), one))
        if reason is not None:
            drops[reason] += 1
    asked.sort(key=lambda a: text_hash(a.text))
    if cfg.max_candidates is not None and len(asked) > cfg.max_candidates:
        drops["beyond max_candidates"] = len(asked) - cfg.max_candidates
        asked = asked[: cfg.max_candidates]
    _check_ids(asked, candidates.place)
    if not asked:
        raise ToxmemError(f"{candidates.place}: no candidate can be asked ({told(drops)})")
    return sorted(asked, key=lambda a: (a.n_tokens, text_hash(a.text))), drops


def told(drops: Mapping[str, int]) -> str:
    """How many were dropped as what, most first."""
    by_number = sorted(drops.items(), key=lambda drop: -drop[1])
    return ", ".join(f"{n} {reason}" for reason, n in by_number if n) or "none dropped"


def normalised(text: str) -> str:
    """What duplicates have in common."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def text_hash(text: str) -> str:
    """SHA-256 of a text: what orders go by."""
    return hashlib.sha256(text.encode()).hexdigest()


def _flaw(text: str) -> str | None:
    if not text:
        return "empty"
    if any(
        c == "\ufffd" or unicodedata.category(c) in ("Cs", "Cc") and c not in "\t\n\r" for c in text
    ):
        return "broken text"
    return None


def _check_ids(asked: list[Asked], place: str) -> None:
    where: dict[str, str] = {}
    for one in asked:
        identity = one.candidate.id
        if identity and identity in where:
            raise ToxmemError(
                f"{place}: the id {identity!r} stands at {where[identity]} and at {one.candidate.where}: make the ids "
                "unique, or remove them"
            )
        where[identity] = one.candidate.where
