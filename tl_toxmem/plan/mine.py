"""What mining puts through the model: continuations of candidates, neutral targets, greedy ones of benign prompts.

How many candidates are innocuous and how many are continued toxically is what mining finds out: all but those that a
published score excludes are counted as innocuous, and a share of them as kept.
"""

from tl_toxmem.config import MineConfig
from tl_toxmem.mining.candidates import Candidates
from tl_toxmem.mining.matching import SPARE
from tl_toxmem.mining.screening import screen
from tl_toxmem.model import LensModel
from tl_toxmem.plan.passes import ENDS, Lengths, continued
from tl_toxmem.plan.work import Shape, Tally, Work

KEPT = 0.1
"""Share of the innocuous candidates that become prompts."""
_BEGINNINGS = 2 * 15
"""Texts that the judge reads to find one onset: beginnings of a continuation, by word, twice."""


def count_mining(
    model: LensModel, candidates: Candidates, *, cfg: MineConfig, ends: Lengths
) -> Work:
    """All of a mining.

    Args:
        model: only its shape and its tokenizer are asked.
        candidates: what is mined.
        cfg: of the mining.
        ends: how long continuations are.
    """
    tally = Tally(Shape.of(model))
    asked, _ = screen(model, candidates, cfg=cfg)
    published = [one.candidate.published for one in asked]
    innocuous = [
        one.n_tokens
        for one, score in zip(asked, published, strict=True)
        if score is None or score < cfg.innocuous
    ]
    kept = innocuous[:: round(1 / KEPT)]
    for lengths in (innocuous, kept):
        size = max(1, cfg.batch_size // cfg.samples)
        tally.add(
            continued(
                tally.shape,
                sorted(lengths),
                size=size,
                copies=cfg.samples,
                new=cfg.max_new_tokens,
                ends=ends,
            )
        )
    benign = [n for n in kept for _ in range(SPARE * cfg.benign)]
    tally.add(
        continued(
            tally.shape,
            benign,
            size=cfg.batch_size,
            copies=1,
            new=cfg.max_new_tokens,
            ends=ends,
        )
    )
    n_toxic = len(innocuous) * cfg.samples * KEPT
    tally.texts += len(asked) + (len(innocuous) + len(kept)) * cfg.samples + len(benign)
    tally.texts += n_toxic * _BEGINNINGS
    tally.expect(f"how many candidates are innocuous (all) and kept ({KEPT:.0%})")
    if model.eos_ids:
        tally.expect(f"{ENDS}: as sampled")
    return tally.done("mine", units=len(innocuous))
