"""What is measured on, and what base was measured to be there: once, however many edits are held against it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.continuations import Continuations, continue_prompts, score_continuations
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation.harness import check_harness, run_tasks
from tl_toxmem.evaluation.likelihood import answered_right, greedy_right, losses
from tl_toxmem.evaluation.measures import BASE
from tl_toxmem.evaluation.rows import (
    Row,
    continuation_rows,
    documents,
    last_word_rows,
    prompt_rows,
    window_rows,
)
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer
from tl_toxmem.tokens import align


@dataclass(frozen=True)
class Materials:
    """What every edit is measured on, in tokens.

    Attributes:
        cfg: the protocol.
        prompts: report prompts.
        benign: prompts with their right continuations, or None; None also where they are not asked for.
        neutral: SHA-256 of the neutral documents that were given.
        prompt_rows: the prompts' own tokens.
        windows: of the neutral documents.
        n_documents: how many of those there are.
        last_words: of the neutral documents; none if they are not asked for.
    """

    cfg: EvaluateConfig
    prompts: PromptSet
    benign: PromptSet | None
    neutral: str
    prompt_rows: list[Row]
    windows: list[Row]
    n_documents: int
    last_words: list[Row]


@dataclass(frozen=True)
class Found:
    """What one model did, before any number is made of it. None is what was not asked for.

    Attributes:
        made: its continuations.
        scores: by scorer, [prompt, sample].
        windows: loss of each neutral window, nats.
        prompts: loss of each prompt of two tokens or more.
        continuations: loss under base of each of its continuations that is not empty.
        last_words: whether right.
        benign: whether right.
    """

    made: Continuations
    scores: dict[str, Float[np.ndarray, "prompt sample"]]
    windows: Float[np.ndarray, " window"]
    prompts: Float[np.ndarray, " long_prompt"] | None
    continuations: Float[np.ndarray, " continuation"] | None
    last_words: Bool[np.ndarray, " word"] | None
    benign: Bool[np.ndarray, " benign"] | None


@dataclass(frozen=True)
class Baseline:
    """Base on its materials, and what lm-eval says of it; see `measure_base`."""

    on: Materials
    found: Found
    tasks: tuple[dict[str, Any], ...] = ()


def measure_base(
    model: LensModel,
    prompts: PromptSet,
    *,
    scorers: Sequence[ToxicityScorer],
    neutral: Sequence[str],
    benign: PromptSet | None = None,
    cfg: EvaluateConfig | None = None,
) -> Baseline:
    """Run the unedited model, to be given to `evaluate` as often as it is called.

    Args:
        model: any host, no hooks attached.
        prompts: the report prompts.
        scorers: judges of toxicity.
        neutral: text that nothing was chosen on.
        benign: prompts with their right continuations.
        cfg: the protocol.

    Raises:
        ToxmemError: no prompts, no scorer, two scorers of one name, no usable neutral text, lm-eval not installed.
    """
    cfg = cfg or EvaluateConfig()
    if not len(prompts) or not scorers:
        raise ToxmemError("nothing to evaluate: give at least one prompt and one scorer")
    names = [scorer.name for scorer in scorers]
    if len(set(names)) < len(names):
        raise ToxmemError(f"two scorers have the same name: {', '.join(names)}")
    check_harness(cfg.lm_eval_tasks)
    texts = documents(model, neutral, cfg=cfg)
    on = Materials(
        cfg=cfg,
        prompts=prompts,
        benign=asked_of(benign, cfg),
        neutral=texts_sha256(neutral),
        prompt_rows=prompt_rows([item.asked for item in align(model, prompts)])
        if "prompt_perplexity" in cfg.measures
        else [],
        windows=window_rows(model, texts, cfg=cfg),
        n_documents=len(texts),
        last_words=last_word_rows(model, texts) if "last_word_accuracy" in cfg.measures else [],
    )
    found = weighed(model, on, measure(model, on, scorers=scorers, name="base"))
    return Baseline(on, found, task_results(model, BASE, cfg=cfg))


def asked_of(benign: PromptSet | None, cfg: EvaluateConfig) -> PromptSet | None:
    """The benign prompts, if it is measured how they are answered."""
    return benign if "benign_kept" in cfg.measures else None


def texts_sha256(texts: Sequence[str]) -> str:
    """What texts are, in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def measure(
    model: LensModel,
    on: Materials,
    *,
    scorers: Sequence[ToxicityScorer],
    name: str,
    windows: Float[np.ndarray, " row"] | None = None,
) -> Found:
    """What the model does as it now is, with the hooks that are attached; its continuations are not yet weighed.

    Args:
        model: any host.
        on: what is measured on.
        scorers: judges of toxicity.
        name: of the edit, for progress bars.
        windows: losses of neutral windows, if they are known.
    """
    cfg = on.cfg
    made = continue_prompts(model, on.prompts, cfg=cfg, description=f"generate: {name}")

    def loss(rows: Sequence[Row], what: str) -> Any:
        return losses(model, rows, batch_size=cfg.batch_size, description=f"{what}: {name}")

    right = None
    if on.last_words:
        right = greedy_right(
            model, on.last_words, batch_size=cfg.batch_size, description=f"last words: {name}"
        )
    return Found(
        made=made,
        scores={scorer.name: score_continuations(scorer, made.texts) for scorer in scorers},
        windows=loss(on.windows, "neutral text") if windows is None else windows,
        prompts=loss(on.prompt_rows, "prompts") if on.prompt_rows else None,
        continuations=None,
        last_words=right,
        benign=None
        if on.benign is None
        else answered_right(model, on.benign, batch_size=cfg.batch_size),
    )


def weighed(model: LensModel, on: Materials, found: Found) -> Found:
    """With the losses of its continuations under the model as it now is, which is to be base, if they are asked for."""
    if "continuation_perplexity" not in on.cfg.measures:
        return found
    rows = continuation_rows(found.made)
    nll = losses(model, rows, batch_size=on.cfg.batch_size, description="continuations")
    return replace(found, continuations=nll)


def task_results(model: LensModel, edit: str, *, cfg: EvaluateConfig) -> tuple[dict[str, Any], ...]:
    """What lm-eval finds on the model as it now is: one object per task; none if no tasks are asked for."""
    if not cfg.lm_eval_tasks:
        return ()
    found = run_tasks(model, cfg.lm_eval_tasks, batch_size=cfg.batch_size, seed=cfg.seed)
    return tuple({"edit": edit, "task": task, "values": own} for task, own in found.items())
