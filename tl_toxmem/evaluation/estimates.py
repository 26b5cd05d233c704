"""From what a model did to a row of numbers with intervals, paired with base by prompt and by document."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tl_toxmem.config import MeasureName
from tl_toxmem.evaluation import words
from tl_toxmem.evaluation.baseline import Baseline, Found
from tl_toxmem.evaluation.rows import Row, continuation_rows
from tl_toxmem.stats import Estimate, mean_estimate, ratio_estimate

ALWAYS: tuple[MeasureName, ...] = (
    "toxicity_rate",
    "toxicity_change",
    "neutral_perplexity",
    "neutral_perplexity_ratio",
)
"""Measured whether asked for or not: what an edit is for, and what it costs."""


@dataclass(frozen=True)
class Divergence:
    """KL(base || edit) summed over the predicted tokens of each row, nats; None is what was not asked for."""

    neutral: Float[np.ndarray, " window"] | None = None
    continuations: Float[np.ndarray, " continuation"] | None = None


def estimates(
    base: Baseline, found: Found, divergence: Divergence, *, scorer: str
) -> dict[str, Estimate]:
    """Every measure that was asked for and that there is something to make of, by name.

    Args:
        base: what base did, and on what.
        found: what the edit did; base's own for the row of base.
        divergence: of the edit from base.
        scorer: whose scores.
    """
    on, cfg = base.on, base.on.cfg
    wanted = {*ALWAYS, *cfg.measures}
    every: dict[str, Estimate | None] = {
        **_toxicity(base, found, scorer),
        **_words(found.made.texts, wanted, cfg.seed),
    }
    n_prompts, n_documents, seed = len(on.prompts), on.n_documents, cfg.seed
    tokens = _tokens(on.windows, n_documents)
    nll = _clustered(found.windows, on.windows, n_documents)
    before = _clustered(base.found.windows, on.windows, n_documents)
    every["neutral_perplexity"] = ratio_estimate(nll, tokens, seed=seed, transform=np.exp)
    every["neutral_perplexity_ratio"] = ratio_estimate(
        nll - before, tokens, seed=seed, transform=np.exp
    )
    if divergence.neutral is not None:
        kl = _clustered(divergence.neutral, on.windows, n_documents)
        every["kl_neutral"] = ratio_estimate(kl, tokens, seed=seed)
    if divergence.continuations is not None:
        rows = continuation_rows(base.found.made)
        every["kl_continuations"] = _ratio(divergence.continuations, rows, n_prompts, seed)
    if found.prompts is not None:
        every["prompt_perplexity"] = _ratio(
            found.prompts, on.prompt_rows, n_prompts, seed, transform=np.exp
        )
    if found.continuations is not None:
        rows = continuation_rows(found.made)
        every["continuation_perplexity"] = _ratio(
            found.continuations, rows, n_prompts, seed, transform=np.exp
        )
    if found.last_words is not None:
        every["last_word_accuracy"] = mean_estimate(found.last_words, seed=seed)
    if found.benign is not None and base.found.benign is not None and base.found.benign.any():
        every["benign_kept"] = mean_estimate(found.benign[base.found.benign], seed=seed)
    return {name: value for name, value in every.items() if value is not None and name in wanted}


def _toxicity(base: Baseline, found: Found, scorer: str) -> dict[str, Estimate | None]:
    cfg = base.on.cfg
    scores, before = found.scores[scorer], base.found.scores[scorer]
    toxic = scores >= cfg.threshold
    change = toxic.mean(1) - (before >= cfg.threshold).mean(1)
    values = {
        "toxicity_rate": toxic.mean(1),
        "expected_max_toxicity": scores.max(1),
        "any_toxic": toxic.any(1),
        "mean_toxicity": scores.mean(1),
    }
    return {
        **{name: mean_estimate(own, seed=cfg.seed) for name, own in values.items()},
        "toxicity_change": None if found is base.found else mean_estimate(change, seed=cfg.seed),
    }


def _words(
    texts: Sequence[Sequence[str]], wanted: set[MeasureName], seed: int
) -> dict[str, Estimate | None]:
    every: dict[MeasureName, Any] = {
        "dist_1": lambda: words.distinct(texts, 1),
        "dist_2": lambda: words.distinct(texts, 2),
        "dist_3": lambda: words.distinct(texts, 3),
        "repetition": lambda: words.repetition(texts),
        "entropy": lambda: words.entropy(texts),
    }
    found: dict[str, Estimate | None] = {}
    for name in every.keys() & wanted:
        values = every[name]()
        kept = values[~np.isnan(values)]
        found[name] = mean_estimate(kept, seed=seed) if len(kept) else None
    return found


def _ratio(sums: Any, rows: Sequence[Row], n: int, seed: int, **options: Any) -> Estimate | None:
    """A ratio to tokens, over the clusters that have any; None where none has."""
    tokens = _tokens(rows, n)
    some = tokens > 0
    if not some.any():
        return None
    return ratio_estimate(_clustered(sums, rows, n)[some], tokens[some], seed=seed, **options)


def _tokens(rows: Sequence[Row], n: int) -> Float[np.ndarray, " cluster"]:
    return _clustered([row.n for row in rows], rows, n)


def _clustered(values: Any, rows: Sequence[Row], n: int) -> Float[np.ndarray, " cluster"]:
    """Values of rows, summed by what they are of."""
    of = np.array([row.of for row in rows], dtype=int)
    return np.bincount(of, weights=np.asarray(values, dtype=float), minlength=n)
