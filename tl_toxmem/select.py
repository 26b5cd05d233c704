"""Selection: which neurons to delete, and how many.

By default neurons are ranked by what deleting them takes from the targets per cost, `removal / (cost + cost_floor
x mean cost)`, so that a neuron the model needs for neutral text is left alone even if it also speaks for the target.

How many: `choose_k` tries k = 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, ... up to `max_k`, deletes the top k
and measures on the find prompts what is removed of the targets' mean probability, and on the neutral text
kept for choosing what perplexity rises by. Of the k that stay within `max_perplexity_increase`, it takes the
smallest that removes at least `keep_removed` of what the best of them removes. The report split is not seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute import NeuronScores, top_neurons
from tl_toxmem.config import SelectConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet, check_layers
from tl_toxmem.neutral import encode_documents, next_token_log_probs
from tl_toxmem.progress import in_batches, track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import align, target_batch, target_log_prob

Law = Callable[[NeuronSet], Deletion]
_BATCH = 32
_MAX_TOKENS = 5_000


@dataclass(frozen=True)
class KPoint:
    """One row of the curve that `choose_k` goes by.

    Attributes:
        k: neurons deleted.
        target_prob: mean probability of the whole targets on the find prompts.
        removed: share of the base's `target_prob` that is gone.
        perplexity_increase: relative rise on the neutral text kept for choosing.
    """

    k: int
    target_prob: float
    removed: float
    perplexity_increase: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def rank_values(scores: NeuronScores, *, cfg: SelectConfig) -> Float[Tensor, "layer d_mlp"]:
    """What neurons are ranked by (`cfg.method`), minus infinity outside `cfg.layers`.

    Raises:
        ToxmemError: an unknown layer, or scores without cost.
    """
    if cfg.method == "removal_per_cost":
        values = scores.per_cost(floor=cfg.cost_floor)
    else:
        values = scores.removal if cfg.method == "removal" else scores.scores
    if cfg.layers is None:
        return values
    check_layers(cfg.layers, n_layers=values.shape[0])
    allowed = torch.zeros(values.shape[0], 1, dtype=torch.bool)
    allowed[list(cfg.layers)] = True
    return values.masked_fill(~allowed, -torch.inf)


def select_neurons(scores: NeuronScores, *, cfg: SelectConfig) -> NeuronSet:
    """The `cfg.k` neurons that rank highest by `cfg.method`.

    Raises:
        ToxmemError: no k (use `choose_k` first), an unknown layer, more neurons than the layers have.
    """
    if cfg.k is None:
        raise ToxmemError("select_neurons needs cfg.k: set it, or take it from choose_k")
    values = rank_values(scores, cfg=cfg)
    available = int(values.isfinite().sum())
    if cfg.k > available:
        raise ToxmemError(f"select.k is {cfg.k}, but there are {available} neurons to choose from")
    return top_neurons(values, cfg.k)


def choose_k(
    model: LensModel,
    prompts: PromptSet,
    scores: NeuronScores,
    *,
    neutral: Sequence[str],
    law: Law = Deletion.zero,
    cfg: SelectConfig | None = None,
) -> tuple[KPoint, ...]:
    """The measured curve over k that `pick_k` chooses from.

    Args:
        model: the model to delete from.
        prompts: the find prompts.
        scores: of the same model.
        neutral: the text kept for choosing.
        law: from neurons to the deletion that will be used.
        cfg: the grid's end, layers, budget.
    """
    cfg = cfg or SelectConfig()
    values = rank_values(scores, cfg=cfg)
    positive = int((values > 0).sum())
    grid = [k for k in _grid() if k <= min(cfg.max_k, positive)]
    if not grid:
        raise ToxmemError(
            "no neuron has a positive score: the prompts' targets rest on no MLP neuron"
        )
    base_prob, base_loss = _measure(model, prompts, neutral)
    if base_prob == 0:
        raise ToxmemError(
            "the model gives the find prompts' targets no probability at all: check them"
        )
    points = []
    for k in track(grid, "choose k", total=len(grid)):
        with law(top_neurons(values, k)).applied(model):
            prob, loss = _measure(model, prompts, neutral)
        increase = float(torch.tensor(loss - base_loss).exp()) - 1
        points.append(KPoint(k, prob, 1 - prob / base_prob, increase))
    return tuple(points)


def pick_k(curve: Sequence[KPoint], *, cfg: SelectConfig) -> int:
    """The smallest affordable k that removes nearly what the best affordable one removes.

    Raises:
        ToxmemError: if every k breaks the budget, or none within it removes anything.
    """
    affordable = [p for p in curve if p.perplexity_increase <= cfg.max_perplexity_increase]
    if not affordable:
        raise ToxmemError(
            f"deleting even {curve[0].k} neuron raises neutral perplexity by {curve[0].perplexity_increase:.2%}, "
            f"more than select.max_perplexity_increase = {cfg.max_perplexity_increase:.2%}: raise it or set select.k"
        )
    best = max(p.removed for p in affordable)
    if best <= 0:
        raise ToxmemError(
            "deleting neurons does not lower the targets' probability on the find prompts within the budget of "
            f"{cfg.max_perplexity_increase:.2%} perplexity: raise select.max_perplexity_increase or set select.k"
        )
    return min(p.k for p in affordable if p.removed >= cfg.keep_removed * best)


def _grid() -> list[int]:
    """1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, ..."""
    steps = (10, 15, 20, 30, 50, 70)
    return [1, 2, 3, 5, 7] + [step * 10**power for power in range(6) for step in steps]


def _measure(model: LensModel, prompts: PromptSet, neutral: Sequence[str]) -> tuple[float, float]:
    """Mean probability of the whole targets, and mean neutral loss per token in nats."""
    items = align(model, prompts)
    total = 0.0
    for batch in in_batches(items, _BATCH, "find prompts"):
        tokens, mask, keep = target_batch(model, batch)
        total += float(target_log_prob(model.forward(tokens, mask, keep=keep), batch).exp().sum())
    loss, n = 0.0, 0
    rows = encode_documents(model, neutral, max_tokens=_MAX_TOKENS)
    for documents in in_batches(rows, _BATCH, "neutral text"):
        tokens, mask = model.pad(documents)
        loss -= float(next_token_log_probs(model.forward(tokens, mask), tokens, mask).sum())
        n += int((mask[:, 1:] * mask[:, :-1]).sum())
    return total / len(items), loss / n
