"""Which candidates become prompts, by their samples, and which may be matched with them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tl_toxmem.config.mine import MineConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.mining.duplicates import Split, clusters, split_together
from tl_toxmem.mining.onset import Onset
from tl_toxmem.mining.prompting import onsets_of
from tl_toxmem.mining.sampling import Samples
from tl_toxmem.mining.screening import Asked, told
from tl_toxmem.model import LensModel
from tl_toxmem.scorers import ToxicityScorer

SPLITS: tuple[Split, Split] = ("find", "report")
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        kept: candidates that are continued toxically often enough, and have an onset.
        pool: candidates that never were.
        onsets: of those kept, by text.
        splits: of both, by text.
        share: of toxic continuations, by text, of all that were asked.
        n_enough: how many were continued toxically often enough.
        n_near: how many of those kept have a near-duplicate among them.
    """

    kept: Sequence[Asked]
    pool: Sequence[Asked]
    onsets: Mapping[str, Onset]
    splits: Mapping[str, Split]
    share: Mapping[str, float]
    n_enough: int
    n_near: int

    def n_split(self) -> dict[str, int]:
        """How many prompts each split has."""
        return {side: sum(self.splits[one.text] == side for one in self.kept) for side in SPLITS}

    def rates(self) -> dict[str, float]:
        """Share of toxic continuations, of all that were asked and of those kept."""
        kept = [self.share[one.text] for one in self.kept]
        asked = list(self.share.values())
        return {"asked": sum(asked) / len(asked), "kept": sum(kept) / len(kept)}

    def kept_by_share(self, *others: float) -> dict[str, int]:
        """How many prompts are continued toxically in at least such shares."""
        shares = sorted({*_SHARES, *others})
        return {f"{s:g}": sum(value >= s for value in self.share.values()) for s in shares}


def choose(
    model: LensModel,
    innocuous: Sequence[Asked],
    said: Sequence[Samples],
    *,
    scorer: ToxicityScorer,
    cfg: MineConfig,
    drops: Mapping[str, int],
) -> Choice:
    """Choose by the samples of every innocuous candidate.

    Args:
        model: that said it.
        innocuous: the candidates.
        said: what was sampled after each.
        scorer: judges beginnings of continuations.
        cfg: thresholds and split.
        drops: how many were dropped before as what, to be told if too few are left.

    Raises:
        ToxmemError: nothing is toxic, or a split has too few prompts.
    """
    share = {own.text: own.share(cfg.threshold) for own in said}
    if not any(share.values()):
        raise ToxmemError(
            f"{scorer.name} calls none of the {len(said) * cfg.samples} continuations of {len(said)} prompts toxic "
            f"(from threshold = {cfg.threshold:g}; dropped before: {told(drops)}): give another scorer, a lower "
            "threshold, or more candidates"
        )
    enough = [own for own in said if share[own.text] >= cfg.share]
    onsets = onsets_of(model, enough, scorer=scorer, cfg=cfg)
    kept = [one for one in innocuous if one.text in onsets]
    pool = [one for one in innocuous if share[one.text] == 0]
    texts = [one.text for one in (*kept, *pool)]
    sides = split_together(texts, near=cfg.near, report_share=cfg.report_share, seed=cfg.seed)
    together = clusters([one.text for one in kept], near=cfg.near)
    choice = Choice(
        kept=kept,
        pool=pool,
        onsets=onsets,
        splits=dict(zip(texts, sides, strict=True)),
        share=share,
        n_enough=len(enough),
        n_near=sum(n for n in Counter(together).values() if n > 1),
    )
    here = {
        "not toxic enough": len(said) - len(enough),
        "no usable onset": len(enough) - len(kept),
    }
    _check_splits(choice, cfg, {**drops, **here})
    return choice


def _check_splits(choice: Choice, cfg: MineConfig, drops: Mapping[str, int]) -> None:
    for side, n in choice.n_split().items():
        if n < cfg.least:
            any_toxic = sum(value > 0 for value in choice.share.values())
            raise ToxmemError(
                f"only {n} of the {len(choice.kept)} prompts that were kept fall into the {side} split (least = "
                f"{cfg.least}): of {len(choice.share)} innocuous candidates, {choice.n_enough} are continued toxically "
                f"in a share of {cfg.share:g} of {cfg.samples} samples, {any_toxic} in any (dropped: {told(drops)}); "
                "give more candidates, more --samples, or a lower --share"
            )
