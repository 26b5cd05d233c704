"""Base once, then every deletion on the same prompts with the same random numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation.baseline import (
    Baseline,
    Found,
    asked_of,
    measure,
    measure_base,
    task_results,
    texts_sha256,
    weighed,
)
from tl_toxmem.evaluation.estimates import Divergence, estimates
from tl_toxmem.evaluation.likelihood import divergences
from tl_toxmem.evaluation.measures import BASE
from tl_toxmem.evaluation.record import EditResult, Evaluation, Example
from tl_toxmem.evaluation.rows import continuation_rows, window_of
from tl_toxmem.model import LensModel
from tl_toxmem.progress import track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer, judge_agreement

_FEW = 10
"""Prompts: a bootstrap over fewer gives intervals that are too narrow."""


def evaluate(
    model: LensModel,
    prompts: PromptSet,
    *,
    scorers: Sequence[ToxicityScorer],
    deletions: Mapping[str, Deletion],
    neutral: Sequence[str],
    benign: PromptSet | None = None,
    cfg: EvaluateConfig | None = None,
    baseline: Baseline | None = None,
) -> Evaluation:
    """Measure base and every deletion.

    Args:
        model: any host.
        prompts: the report prompts.
        scorers: judges of toxicity; the first is the one that examples are shown with.
        deletions: by the name of their row; `none` (the base model) is always measured.
        neutral: text that nothing was chosen on.
        benign: prompts with their right continuations.
        cfg: the protocol: sampling, threshold, lengths, measures, seed.
        baseline: what `measure_base` found with the same arguments, so that base need not be run again.

    Raises:
        ToxmemError: no prompts, no scorer, no usable neutral text, or a baseline of something else.
    """
    cfg = cfg or EvaluateConfig()
    if BASE in deletions:
        raise ToxmemError(f"a deletion cannot be called {BASE!r}: that is the base model")
    if baseline is None:
        baseline = measure_base(
            model, prompts, scorers=scorers, neutral=neutral, benign=benign, cfg=cfg
        )
    _check(baseline, prompts, scorers, neutral, asked_of(benign, cfg), cfg)
    tasks = [*baseline.tasks]
    diverged = _divergences(model, baseline, deletions)
    found = {BASE: baseline.found}
    for name, deletion in track(deletions.items(), "edits", total=len(deletions)):
        known = diverged[name][0]
        with deletion.applied(model):
            own = measure(model, baseline.on, scorers=scorers, name=name, windows=known)
            tasks += task_results(model, name, cfg=cfg)
        found[name] = weighed(model, baseline.on, own)
    rows = []
    for name, own in found.items():
        neurons = deletions[name].neurons if name in deletions else None
        for scorer in scorers:
            values: dict[str, Any] = dict(
                estimates(baseline, own, diverged[name][1], scorer=scorer.name)
            )
            rows.append(
                EditResult(
                    edit=name,
                    n_neurons=0 if neurons is None else len(neurons),
                    layers=() if neurons is None else tuple(neurons.by_layer()),
                    scorer=scorer.name,
                    seed=cfg.seed,
                    **values,
                )
            )
    protocol = _protocol(model, baseline, scorers)
    examples = _examples(baseline, found, scorers[0].name)
    agreement = tuple(
        {"edit": name, **one}
        for name, own in found.items()
        for one in _agreements(own, [scorer.name for scorer in scorers], cfg)
    )
    shifts = _shifts(found, [scorer.name for scorer in scorers], cfg.threshold)
    return Evaluation(tuple(rows), protocol, examples, agreement, tuple(tasks), shifts)


def _agreements(found: Found, names: Sequence[str], cfg: EvaluateConfig) -> list[dict[str, Any]]:
    """Of the first judge with each other one, on one edit's continuations."""
    first, *others = names
    return [
        judge_agreement(
            found.scores[first],
            found.scores[other],
            threshold=cfg.threshold,
            names=(first, other),
            seed=cfg.seed,
            texts=found.made.texts,
            n_examples=cfg.n_examples,
        ).to_json()
        for other in others
    ]


def _check(
    baseline: Baseline,
    prompts: PromptSet,
    scorers: Sequence[ToxicityScorer],
    neutral: Sequence[str],
    benign: PromptSet | None,
    cfg: EvaluateConfig,
) -> None:
    """Whether the baseline is one of this evaluation."""
    problem = None
    if baseline.on.cfg != cfg:
        problem = "another protocol"
    elif [p.hash for p in baseline.on.prompts] != [p.hash for p in prompts]:
        problem = "other prompts"
    elif not {scorer.name for scorer in scorers} <= set(baseline.found.scores):
        problem = "other scorers"
    elif baseline.on.neutral != texts_sha256(neutral):
        problem = "other neutral text"
    elif baseline.on.benign != benign:
        problem = "other benign prompts"
    if problem:
        raise ToxmemError(
            f"the baseline is of {problem}: make it by measure_base with what evaluate gets"
        )


def _divergences(
    model: LensModel, baseline: Baseline, deletions: Mapping[str, Deletion]
) -> dict[str, tuple[Any, Divergence]]:
    """By edit: losses of neutral windows where they are known by this, and KL from base."""
    on, wanted = baseline.on, baseline.on.cfg.measures
    size = on.cfg.batch_size
    made = continuation_rows(baseline.found.made)
    windows, kl, kl_made = {}, {}, {}
    if "kl_neutral" in wanted:
        found = divergences(
            model, on.windows, deletions, batch_size=size, description="neutral text"
        )
        windows = {name: both[0] for name, both in found.items()}
        kl = {BASE: np.zeros(len(on.windows)), **{name: both[1] for name, both in found.items()}}
    if "kl_continuations" in wanted:
        found = divergences(model, made, deletions, batch_size=size, description="KL")
        kl_made = {BASE: np.zeros(len(made)), **{name: both[1] for name, both in found.items()}}
    return {
        name: (windows.get(name), Divergence(kl.get(name), kl_made.get(name)))
        for name in (BASE, *deletions)
    }


def _protocol(
    model: LensModel, baseline: Baseline, scorers: Sequence[ToxicityScorer]
) -> dict[str, Any]:
    on, cfg = baseline.on, baseline.on.cfg
    window, stride = window_of(model, cfg)
    right = baseline.found.benign
    return {
        **cfg.model_dump(mode="json"),
        "description": cfg.describe() + _warning(len(on.prompts)),
        "n_prompts": len(on.prompts),
        "n_benign": 0 if on.benign is None else len(on.benign),
        "n_benign_right": 0 if right is None else int(right.sum()),
        "neutral_tokens": sum(row.n for row in on.windows),
        "neutral_documents": on.n_documents,
        "vocabulary": model.d_vocab,
        "neutral_windows": f"windows of {window} tokens every {stride}, detokenised: {cfg.detokenise}",
        "scored_text": "continuation only",
        "intervals": "95 % percentile bootstrap, clustered by prompt or document",
        "scorers": [scorer.provenance() for scorer in scorers],
    }


def _warning(n_prompts: int) -> str:
    """What has to be said along with intervals over few prompts."""
    if n_prompts >= _FEW:
        return ""
    return f"; ONLY {n_prompts} PROMPT{'S' if n_prompts > 1 else ''}: intervals mean little below {_FEW}"


def _examples(baseline: Baseline, found: Mapping[str, Found], scorer: str) -> tuple[Example, ...]:
    """Before and after the first deletion: the first prompts by hash (so not hand-picked), first sample each, and the
    samples, one of a prompt, whose score rose most.
    """
    after = next((own for name, own in found.items() if name != BASE), None)
    if after is None:
        return ()
    prompts, base, n = baseline.on.prompts, baseline.found, baseline.on.cfg.n_examples
    risen = np.asarray(after.scores[scorer]) - np.asarray(base.scores[scorer])
    most = risen.argmax(1)
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].hash)
    worst = sorted(order, key=lambda i: -risen[i, most[i]])

    def example(i: int, sample: int, picked: Literal["hash", "worse"]) -> Example:
        return Example(
            prompt=prompts[i].prompt,
            before=base.made.texts[i][sample],
            after=after.made.texts[i][sample],
            score_before=float(base.scores[scorer][i][sample]),
            score_after=float(after.scores[scorer][i][sample]),
            picked=picked,
        )

    worse = [example(i, int(most[i]), "worse") for i in worst[:n] if risen[i, most[i]] > 0]
    return (*(example(i, 0, "hash") for i in order[:n]), *worse)


def _shifts(
    found: Mapping[str, Found], scorers: Sequence[str], threshold: float
) -> tuple[dict[str, Any], ...]:
    """Of how many prompts fewer, as many or more continuations are toxic than of base."""
    rows = []
    for name, own in found.items():
        for scorer in scorers:
            before, after = (
                (np.asarray(one.scores[scorer]) >= threshold).sum(1) for one in (found[BASE], own)
            )
            counts = {
                "fewer": int((after < before).sum()),
                "same": int((after == before).sum()),
                "more": int((after > before).sum()),
            }
            if name != BASE:
                rows.append({"edit": name, "scorer": scorer, **counts})
    return tuple(rows)
