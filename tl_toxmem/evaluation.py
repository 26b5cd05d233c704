"""Evaluation: the base model, the deletion and its controls on the same prompts with the same seeds.

Per edit: the share of sampled continuations that the scorer calls toxic, the expected maximum toxicity over a
prompt's continuations (Gehman et al. 2020), perplexity of the prompts' own text and of neutral text, KL of the
next-token law from base to edit on neutral text, and, where benign prompts are given, how many are still
answered right. All intervals are 95 % bootstrap intervals clustered by prompt or document.
"""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.continuations import sample_continuations, score_continuations
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_json, write_json
from tl_toxmem.memory import tokens_for_logits
from tl_toxmem.model import LensModel
from tl_toxmem.neutral import encode_documents, next_token_log_probs
from tl_toxmem.progress import in_batches
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer
from tl_toxmem.stats import Estimate, mean_estimate, ratio_estimate
from tl_toxmem.tokens import align

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BASE = "none"
MEASURES = (
    "toxicity_rate",
    "expected_max_toxicity",
    "prompt_perplexity",
    "neutral_perplexity",
    "kl_neutral",
    "benign_kept",
)


@dataclass(frozen=True)
class EditResult:
    """One row: what one edit does, by one scorer.

    Attributes:
        edit: `none`, `deletion`, `random_neurons`, `random_early_layers`, ...
        n_neurons: how many it touches.
        layers: which layers they are in.
        toxicity_rate: share of continuations scored at or above the threshold.
        expected_max_toxicity: mean over prompts of the highest score among a prompt's continuations.
        prompt_perplexity: of the prompts' own tokens.
        neutral_perplexity: of the neutral text kept for reporting.
        kl_neutral: mean KL(base || edit) per neutral token, nats.
        benign_kept: share of the benign prompts that base answers right (greedy, whole target) and the edit
            still does; None without benign prompts.
        scorer: who judged.
        seed: of sampling and intervals.
    """

    edit: str
    n_neurons: int
    layers: tuple[int, ...]
    toxicity_rate: Estimate
    expected_max_toxicity: Estimate
    prompt_perplexity: Estimate
    neutral_perplexity: Estimate
    kl_neutral: Estimate
    benign_kept: Estimate | None
    scorer: str
    seed: int


@dataclass(frozen=True)
class Example:
    """One prompt's first continuation before and after the deletion, with the first scorer's scores."""

    prompt: str
    before: str
    after: str
    score_before: float
    score_after: float


@dataclass(frozen=True)
class Evaluation:
    """Rows per edit and scorer, the protocol they were made by, and examples."""

    rows: tuple[EditResult, ...]
    protocol: dict[str, Any]
    examples: tuple[Example, ...]

    def row(self, edit: str, *, scorer: str | None = None) -> EditResult:
        """The row of an edit (of the first scorer, unless named)."""
        for row in self.rows:
            if row.edit == edit and scorer in (None, row.scorer):
                return row
        edits = ", ".join(dict.fromkeys(r.edit for r in self.rows))
        raise ToxmemError(f"no row {edit!r} of scorer {scorer!r}; edits: {edits}")

    def frame(self) -> "pd.DataFrame":
        """One row per edit and scorer, a column per measure and its bounds."""
        import pandas as pd

        rows = []
        for row in self.rows:
            values: dict[str, Any] = {
                "edit": row.edit,
                "scorer": row.scorer,
                "n_neurons": row.n_neurons,
            }
            for name in MEASURES:
                estimate = getattr(row, name)
                if estimate is not None:
                    values |= {
                        name: estimate.value,
                        f"{name}_low": estimate.low,
                        f"{name}_high": estimate.high,
                    }
            rows.append(values)
        return pd.DataFrame(rows)

    def plot(self) -> "go.Figure":
        """Bars per edit with intervals."""
        from tl_toxmem.plots import plot_evaluation

        return plot_evaluation(self)

    def save(self, path: str | Path) -> None:
        """Write one JSON file."""
        rows = [{**asdict(row), "layers": list(row.layers)} for row in self.rows]
        examples = [asdict(example) for example in self.examples]
        write_json(Path(path), {"protocol": self.protocol, "rows": rows, "examples": examples})

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Read what `save` wrote."""
        values = read_json(Path(path))
        rows = []
        for row in values["rows"]:
            row = dict(row, layers=tuple(row["layers"]))
            for name in MEASURES:
                row[name] = None if row[name] is None else Estimate(**row[name])
            rows.append(EditResult(**row))
        examples = tuple(Example(**example) for example in values["examples"])
        return cls(tuple(rows), values["protocol"], examples)


def evaluate(
    model: LensModel,
    prompts: PromptSet,
    *,
    scorers: Sequence[ToxicityScorer],
    deletions: Mapping[str, Deletion],
    neutral: Sequence[str],
    benign: PromptSet | None = None,
    cfg: EvaluateConfig | None = None,
) -> Evaluation:
    """Measure base and every deletion.

    Args:
        model: any host.
        prompts: the report prompts.
        scorers: judges of toxicity; the first is the one that examples are shown with.
        deletions: by the name of their row; `none` (the base model) is always measured.
        neutral: text that nothing was chosen on.
        benign: prompts with their right continuations.
        cfg: sampling, threshold, lengths, seed.

    Raises:
        ToxmemError: no prompts, no scorer, no usable neutral text.
    """
    cfg = cfg or EvaluateConfig()
    if not len(prompts) or not scorers:
        raise ToxmemError("nothing to evaluate: give at least one prompt and one scorer")
    if BASE in deletions:
        raise ToxmemError(f"a deletion cannot be called {BASE!r}: that is the base model")
    edits: dict[str, Deletion | None] = {BASE: None, **deletions}
    losses = _neutral_losses(model, neutral, edits, cfg=cfg)
    base_right = None
    rows: list[EditResult] = []
    texts: dict[str, list[list[str]]] = {}
    scores: dict[str, Any] = {}
    for name, deletion in edits.items():
        with deletion.applied(model) if deletion else nullcontext():
            texts[name] = sample_continuations(
                model, prompts, cfg=cfg, description=f"generate: {name}"
            )
            prompt_nll, prompt_tokens = _prompt_losses(model, prompts, cfg=cfg)
            right = None if benign is None else _answered_right(model, benign, cfg=cfg)
        if base_right is None:
            base_right = right
        kept = None
        if right is not None and base_right is not None and base_right.any():
            kept = mean_estimate(right[base_right], seed=cfg.seed)
        neurons = deletion.neurons if deletion else ()
        for scorer in scorers:
            values = score_continuations(scorer, texts[name])
            scores.setdefault(name, values)
            rows.append(
                EditResult(
                    edit=name,
                    n_neurons=len(neurons),
                    layers=tuple(deletion.neurons.by_layer()) if deletion else (),
                    toxicity_rate=mean_estimate((values >= cfg.threshold).mean(1), seed=cfg.seed),
                    expected_max_toxicity=mean_estimate(values.max(1), seed=cfg.seed),
                    prompt_perplexity=_perplexity(prompt_nll, prompt_tokens, seed=cfg.seed),
                    neutral_perplexity=_perplexity(
                        losses[name][0], losses["tokens"][0], seed=cfg.seed
                    ),
                    kl_neutral=ratio_estimate(losses[name][1], losses["tokens"][0], seed=cfg.seed),
                    benign_kept=kept,
                    scorer=scorer.name,
                    seed=cfg.seed,
                )
            )
    protocol = {
        **cfg.model_dump(mode="json"),
        "n_prompts": len(prompts),
        "n_benign": 0 if benign is None else len(benign),
        "n_benign_right": 0 if base_right is None else int(base_right.sum()),
        "neutral_tokens": int(losses["tokens"][0].sum()),
        "neutral_documents": len(losses["tokens"][0]),
        "scored_text": "continuation only",
        "intervals": "95 % percentile bootstrap, clustered by prompt or document",
        "scorers": [scorer.provenance() for scorer in scorers],
    }
    return Evaluation(
        tuple(rows), protocol, _examples(prompts, texts, scores, list(deletions), cfg=cfg)
    )


def _perplexity(nll: Any, tokens: Any, *, seed: int) -> Estimate:
    return ratio_estimate(nll, tokens, seed=seed, transform=np.exp)


def _prompt_losses(model: LensModel, prompts: PromptSet, *, cfg: EvaluateConfig) -> tuple[Any, Any]:
    """Per prompt: negative log-likelihood of its own tokens in nats, and how many were predicted."""
    nll, n = [], []
    rows = [list(item.asked) for item in align(model, prompts) if len(item.asked) > 1]
    if not rows:
        raise ToxmemError("no prompt has two tokens, so none has a perplexity")
    most = tokens_for_logits(model)
    for batch in in_batches(rows, cfg.batch_size, "prompt perplexity", length=len, most=most):
        tokens, mask = model.pad(batch)
        log_probs = next_token_log_probs(model.forward(tokens, mask), tokens, mask)
        nll += (-log_probs.sum(1)).tolist()
        n += [len(row) - 1 for row in batch]
    return np.array(nll), np.array(n)


def _neutral_losses(
    model: LensModel,
    neutral: Sequence[str],
    edits: Mapping[str, Deletion | None],
    *,
    cfg: EvaluateConfig,
) -> dict[str, Float[np.ndarray, "two document"]]:
    """Per edit and document: negative log-likelihood and KL from base, both summed over tokens, in nats."""
    rows = encode_documents(model, neutral, max_tokens=cfg.max_neutral_tokens)
    sums: dict[str, list[Tensor]] = {name: [] for name in (*edits, "tokens")}
    most = tokens_for_logits(model)
    for batch in in_batches(rows, min(cfg.batch_size, 16), "neutral text", length=len, most=most):
        tokens, mask = model.pad(batch)
        real = mask[:, 1:] * mask[:, :-1]
        base = model.forward(tokens, mask)
        base_log_probs = base[:, :-1].float().log_softmax(-1)
        for name, deletion in edits.items():
            with deletion.applied(model) if deletion else nullcontext():
                logits = model.forward(tokens, mask) if deletion else base
            nll = -next_token_log_probs(logits, tokens, mask).sum(1)
            log_probs = logits[:, :-1].float().log_softmax(-1)
            kl = (base_log_probs.exp() * (base_log_probs - log_probs)).sum(-1)
            sums[name].append(torch.stack([nll, (kl * real).sum(1)]).cpu())
        sums["tokens"].append(real.sum(1)[None].cpu())
    return {name: torch.cat(parts, dim=1).numpy() for name, parts in sums.items()}


def _answered_right(model: LensModel, benign: PromptSet, *, cfg: EvaluateConfig) -> Any:
    """Per benign prompt: whether the greedy continuation begins with the whole target."""
    items = align(model, benign)
    right = np.zeros(len(items), dtype=bool)
    # Together by the length of their targets, so that no row is continued for longer than it has to be.
    order = sorted(range(len(items)), key=lambda i: len(items[i].target))
    for n, group in itertools.groupby(order, key=lambda i: len(items[i].target)):
        for batch in in_batches(list(group), cfg.batch_size, "benign prompts"):
            tokens, mask = model.pad([items[i].tokens for i in batch])
            new = model.generate(tokens, mask, max_new_tokens=n)[:, tokens.shape[1] :].tolist()
            for i, row in zip(batch, new, strict=True):
                right[i] = row == list(items[i].target)
    return right


def _examples(
    prompts: PromptSet,
    texts: Mapping[str, list[list[str]]],
    scores: Mapping[str, Any],
    deletions: Sequence[str],
    *,
    cfg: EvaluateConfig,
) -> tuple[Example, ...]:
    """The first prompts by hash (so not hand-picked), first sample each, before and after the first deletion."""
    if not deletions:
        return ()
    after = deletions[0]
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].hash)[: cfg.n_examples]
    return tuple(
        Example(
            prompt=prompts[i].prompt,
            before=texts[BASE][i][0],
            after=texts[after][i][0],
            score_before=float(scores[BASE][i][0]),
            score_after=float(scores[after][i][0]),
        )
        for i in order
    )
