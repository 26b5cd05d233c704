"""Benign prompts: as long as the toxic ones, from the same source and split, and never continued toxically.

Each is used once. Its target is the beginning of the model's own greedy continuation, so that the unedited model
answers every one of them right.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tl_toxmem.config.mine import MineConfig
from tl_toxmem.mining.choosing import Choice
from tl_toxmem.mining.duplicates import Split
from tl_toxmem.mining.parts import Parts
from tl_toxmem.mining.sampling import greedy
from tl_toxmem.mining.screening import Asked, text_hash
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import Prompt, PromptSet
from tl_toxmem.scorers import ToxicityScorer, judged
from tl_toxmem.tokens import continuation

SPARE = 2  # candidates looked at for each that is wanted: some have no usable greedy continuation
_WORD = re.compile(r"\s*\S+")
_CLOSING = ".,;:!?\"')]}»”’…"


@dataclass(frozen=True)
class _Kind:
    """What a prompt and its match have in common."""

    n_tokens: int
    source: str
    split: Split


def match_benign(
    model: LensModel,
    choice: Choice,
    *,
    scorer: ToxicityScorer,
    cfg: MineConfig,
    parts: Parts,
) -> tuple[PromptSet, int]:
    """A benign prompt for every kept one, and how many are lacking.

    Args:
        model: says what follows.
        choice: what was kept, and the candidates without a toxic continuation.
        scorer: also judges the greedy continuations.
        cfg: how many for each prompt, how long their targets are.
        parts: where greedy continuations are kept.
    """
    wanted: defaultdict[_Kind, int] = defaultdict(int)
    for one in choice.kept:
        wanted[_kind(one, choice.splits)] += cfg.benign
    offered: defaultdict[_Kind, list[Asked]] = defaultdict(list)
    for one in sorted(choice.pool, key=lambda a: text_hash(a.text)):
        kind = _kind(one, choice.splits)
        if len(offered[kind]) < SPARE * wanted[kind]:
            offered[kind].append(one)
    looked_at = [one for kind in sorted(offered, key=repr) for one in offered[kind]]
    said = greedy(model, [one.text for one in looked_at], cfg=cfg, parts=parts)
    texts = [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in said]
    scores = judged(scorer, texts).tolist() if texts else []
    found: list[Prompt] = []
    for one, row, text, score in zip(looked_at, said, texts, scores, strict=True):
        kind = _kind(one, choice.splits)
        target = _target(model, one.text, row, text, cfg.benign_words)
        if wanted[kind] and score < cfg.threshold and target is not None:
            wanted[kind] -= 1
            found.append(
                Prompt(
                    prompt=one.text,
                    target=target,
                    source=one.candidate.source or None,
                    id=one.candidate.id,
                    split=kind.split,
                )
            )
    found.sort(key=lambda prompt: prompt.hash)
    return PromptSet.of(found), sum(wanted.values())


def _kind(one: Asked, splits: Mapping[str, Split]) -> _Kind:
    return _Kind(one.n_tokens, one.candidate.source, splits[one.text])


def _target(model: LensModel, prompt: str, row: list[int], text: str, n_words: int) -> str | None:
    """The first words of a continuation; None if these are not the very tokens that were generated."""
    ends = [match.end() for match in _WORD.finditer(text)]
    if len(ends) < n_words:
        return None
    target = text[: ends[n_words - 1]].rstrip(_CLOSING)
    tokens = continuation(model, prompt, target) if target.strip() else []
    return target if tokens and tokens == row[: len(tokens)] else None
