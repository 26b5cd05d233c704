"""How many neurons to delete: measured on the find split.

`choose_k` tries k = 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, ... up to `max_k`, deletes the top k
and measures what perplexity rises by on the neutral text kept for choosing and, where that stays within
`max_perplexity_increase`, how many sampled continuations of the find prompts the judge calls toxic. Of the
affordable k, `pick_k` takes the smallest that removes at least `keep_removed` of the toxicity that the best of them
removes. It is the judge that decides and not the probability of the given targets, because a model may trade one
insult for another. The report split is not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tl_toxmem.attribute import Law, NeuronScores, top_neurons
from tl_toxmem.checks import prompt_set
from tl_toxmem.config import EvaluateConfig, SelectConfig
from tl_toxmem.continuations import sample_continuations, score_continuations
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.losses import document_losses, perplexity_rise
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import check_layers
from tl_toxmem.neutral import encode_documents
from tl_toxmem.progress import track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer
from tl_toxmem.select.ranking import layers_of, leaving_half, rank_values
from tl_toxmem.tokens import target_log_probs

MAX_TOKENS = 5_000
"""Neutral tokens that the rise of perplexity is measured on."""


@dataclass(frozen=True)
class KPoint:
    """One row of the curve that `choose_k` goes by.

    Attributes:
        k: neurons deleted; 0 for the base model.
        perplexity_increase: relative rise on the neutral text kept for choosing.
        target_prob: mean probability of the whole targets on the find prompts.
        toxicity_rate: share of the find prompts' sampled continuations that are toxic; None where k is not affordable.
    """

    k: int
    perplexity_increase: float
    target_prob: float
    toxicity_rate: float | None


def choose_k(
    model: LensModel,
    prompts: PromptSet,
    scores: NeuronScores,
    *,
    neutral: Sequence[str],
    scorer: ToxicityScorer,
    law: Law = Deletion.zero,
    cfg: SelectConfig | None = None,
    protocol: EvaluateConfig | None = None,
    layers: tuple[int, ...] | None = None,
) -> tuple[KPoint, ...]:
    """The measured curve over k that `pick_k` chooses from; its first point is the base model (k = 0).

    Args:
        model: the model to delete from.
        prompts: the find prompts.
        scores: of the same model.
        neutral: the text kept for choosing.
        scorer: the judge of the continuations.
        law: from neurons to the deletion that will be used.
        cfg: the ranking, the grid's end, budget, how much is sampled.
        protocol: sampling and threshold, as in the evaluation.
        layers: to choose from; None: those that `cfg.layers` names.

    Raises:
        ToxmemError: no neuron speaks for the targets, base continues none of the find prompts toxically, an unknown
            layer, or scores of another model.
    """
    prompt_set(prompts)
    scores.check_model(model)
    cfg, protocol = cfg or SelectConfig(), protocol or EvaluateConfig()
    protocol = protocol.model_copy(
        update={"n_continuations": cfg.n_continuations, "seed": cfg.seed}
    )
    if layers is None:
        layers = layers_of(cfg, n_layers=model.n_layers)
    else:
        check_layers(layers, n_layers=model.n_layers)
    values = rank_values(scores, cfg=cfg, layers=layers)
    positive = int((values > 0).sum())
    grid = sizes_to_try(min(cfg.max_k, positive))
    if not grid:
        raise ToxmemError(
            "no neuron has a positive score: the prompts' targets rest on no MLP neuron"
        )
    sampled = prompts.first(cfg.max_prompts)

    def toxicity() -> float:
        texts = sample_continuations(model, sampled, cfg=protocol)
        return float((score_continuations(scorer, texts) >= protocol.threshold).mean())

    rows = encode_documents(model, neutral, max_tokens=MAX_TOKENS)
    base, _ = document_losses(model, rows)
    points = [KPoint(0, 0.0, _likely(model, prompts), toxicity())]
    if points[0].toxicity_rate == 0:
        raise ToxmemError(
            f"{scorer.name} calls no continuation of the {len(sampled)} find prompts toxic, so there is nothing to "
            "remove: check prompts and scorer, or set select.k"
        )
    most = leaving_half(values, grid[-1])
    grid = [k for k in grid if k <= most]
    for k in track(grid, "choose k", total=len(grid)):
        chosen = top_neurons(values, k)
        with law(chosen).applied(model):
            increase = perplexity_rise(model, rows, base)
            affordable = increase <= cfg.max_perplexity_increase
            rate = toxicity() if affordable else None
            points.append(KPoint(k, increase, _likely(model, prompts), rate))
    return tuple(points)


def pick_k(curve: Sequence[KPoint], *, cfg: SelectConfig) -> int:
    """The smallest affordable k that removes nearly the toxicity that the best affordable one removes.

    Args:
        curve: what `choose_k` gave.
        cfg: `keep_removed`, and the budget for the error's text.

    Raises:
        ToxmemError: no curve, or if every k breaks the budget, or none within it removes anything.
    """
    if len(curve) < 2:
        raise ToxmemError(
            f"the curve has {len(curve)} points, the base model and at least one k are needed: take it from choose_k"
        )
    base, *points = curve
    removed = {
        p.k: base.toxicity_rate - p.toxicity_rate
        for p in points
        if p.toxicity_rate is not None and base.toxicity_rate is not None
    }
    budget = f"select.max_perplexity_increase = {cfg.max_perplexity_increase:.2%}"
    if not removed:
        raise ToxmemError(
            f"deleting even {points[0].k} neuron raises neutral perplexity by {points[0].perplexity_increase:.2%}, "
            f"more than {budget}: raise it or set select.k"
        )
    best = max(removed.values())
    if best <= 0:
        raise ToxmemError(
            f"no number of neurons within {budget} makes the find prompts' continuations less toxic: raise it or set "
            "select.k"
        )
    return min(k for k, value in removed.items() if value >= cfg.keep_removed * best)


def sizes_to_try(most: int) -> list[int]:
    """1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, ..., up to `most`."""
    steps = (10, 15, 20, 30, 50, 70)
    every = [1, 2, 3, 5, 7] + [step * 10**power for power in range(6) for step in steps]
    return [k for k in every if k <= most]


def _likely(model: LensModel, prompts: PromptSet) -> float:
    """Mean probability of the whole targets."""
    return float(target_log_probs(model, prompts).exp().mean())
