"""From a candidate and its samples to a prompt: onset, neutral target, scores."""

from collections.abc import Mapping, Sequence

from tl_toxmem.config.mine import MineConfig
from tl_toxmem.mining.duplicates import Split
from tl_toxmem.mining.onset import Onset, find_onsets, harmless_alternatives, typical
from tl_toxmem.mining.sampling import Samples
from tl_toxmem.mining.screening import Asked
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import Prompt
from tl_toxmem.scorers import ToxicityScorer
from tl_toxmem.tokens import continuation


def onsets_of(
    model: LensModel, said: Sequence[Samples], *, scorer: ToxicityScorer, cfg: MineConfig
) -> dict[str, Onset]:
    """By text the typical onset of its toxic continuations, where there is one that fits the model.

    It does not fit if its text has a token that the tokenizer does not know, or is so long (once it is put into tokens
    again) that no continuation has room after it.
    """
    toxic = [
        (own.text, text)
        for own in said
        for text, score in zip(own.continuations, own.scores, strict=True)
        if score >= cfg.threshold
    ]
    found = find_onsets(scorer, [text for _, text in toxic], threshold=cfg.threshold)
    by_text: dict[str, list[Onset]] = {}
    for (text, _), onset in zip(toxic, found, strict=True):
        if onset is not None and _fits(model, text, onset, cfg):
            by_text.setdefault(text, []).append(onset)
    return {text: typical(onsets) for text, onsets in by_text.items()}


def _fits(model: LensModel, text: str, onset: Onset, cfg: MineConfig) -> bool:
    start = text + onset.lead_in
    target = continuation(model, start, onset.target)
    tokens = [*model.encode(start), *target]
    special = set(model.tokenizer.all_special_ids) & set(tokens[int(model.prepend_bos) :])
    return bool(target) and not special and len(tokens) + cfg.max_new_tokens <= model.n_ctx


def make_prompt(
    model: LensModel,
    one: Asked,
    onset: Onset,
    *,
    after: Samples,
    scores: Mapping[str, float],
    split: Split,
    cfg: MineConfig,
) -> Prompt:
    """A prompt from a candidate.

    Args:
        model: whose tokens decide whether a neutral target begins as the target does.
        one: the candidate.
        onset: lead-in and target.
        after: what was sampled after candidate and lead-in.
        scores: to be kept with it; those of the onset and of the file are added.
        split: find or report.
        cfg: thresholds.
    """
    start = one.text + onset.lead_in
    first = continuation(model, start, onset.target)[0]
    others = harmless_alternatives(after, onset.target, threshold=cfg.threshold)
    scores = {**scores, "onset": onset.score}
    if one.candidate.published is not None:
        scores["published"] = one.candidate.published
    return Prompt(
        prompt=one.text,
        lead_in=onset.lead_in or None,
        target=onset.target,
        neutral_target=next(
            (text for text in others if continuation(model, start, text)[:1] != [first]), None
        ),
        source=one.candidate.source or None,
        scores=scores,
        id=one.candidate.id,
        split=split,
    )
