"""Losses on neutral text by document, so that what an edit costs can be paired with base."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from tl_toxmem.careful import Carefully
from tl_toxmem.engine import spread
from tl_toxmem.memory import tokens_for_logits
from tl_toxmem.model import LensModel
from tl_toxmem.neutral import called, next_token_log_probs
from tl_toxmem.progress import batched

DOCUMENTS = 32
"""In a batch."""


def document_losses(
    model: LensModel, rows: Sequence[list[int]]
) -> tuple[Float[np.ndarray, " document"], Float[np.ndarray, " document"]]:
    """Per document the summed negative log-likelihood in nats, and how many tokens were predicted.

    Args:
        model: any host; hooks that are attached act.
        rows: documents in tokens (see `encode_documents`).
    """
    batches = batched(rows, DOCUMENTS, length=len, most=tokens_for_logits(model))
    careful = Carefully(_losses, what="losses", name=called)
    parts = itertools.chain.from_iterable(spread(model, careful, batches, "neutral text"))
    losses = list(itertools.chain.from_iterable(parts))
    return np.array(losses), np.array([float(len(row) - 1) for row in rows])


def _losses(model: LensModel, batch: Sequence[list[int]]) -> list[float]:
    tokens, mask = model.pad(batch)
    found = next_token_log_probs(model.forward(tokens, mask), tokens, mask)
    losses: list[float] = (-found.double().sum(1)).tolist()
    return losses


def perplexity_rise(
    model: LensModel, rows: Sequence[list[int]], base: Float[np.ndarray, " document"]
) -> float:
    """By which share perplexity is above base's, given base's losses by document; hooks that are attached act."""
    losses, n = document_losses(model, rows)
    return float(np.expm1((losses - base).sum() / n.sum()))


def resampled_rise(
    more: Float[np.ndarray, " document"],
    n_tokens: Float[np.ndarray, " document"],
    draws: Any,
    confidence: float,
) -> tuple[float, float]:
    """The relative rise of perplexity, and its upper limit by bootstrap over documents.

    Args:
        more: losses less base's, nats.
        n_tokens: predicted.
        draws: see `stats.resampled`.
        confidence: with which the rise is below the limit.
    """
    drawn = np.expm1((draws @ more) / (draws @ n_tokens))
    value = float(np.expm1(more.sum() / n_tokens.sum()))
    return value, float(np.quantile(drawn, confidence))
