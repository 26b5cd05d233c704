"""What the methods of a comparison are made from, where the user does not give it."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import torch

from tl_toxmem.attribute import Labelled, NeuronScores
from tl_toxmem.comparators import Material, labelled_from
from tl_toxmem.comparison.methods import parts_needed
from tl_toxmem.config import CompareConfig, EvaluateConfig
from tl_toxmem.continuations import sample_continuations, score_continuations
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import Prompt, PromptSet
from tl_toxmem.scorers import ToxicityScorer
from tl_toxmem.tokens import align, target_log_probs
from tl_toxmem.trace import Place, Trace

_LEAST_WORDS = 3


def make_material(
    model: LensModel,
    prompts: PromptSet,
    scores: NeuronScores,
    *,
    neutral: Sequence[str],
    scorer: ToxicityScorer,
    trace: Trace | None = None,
    benign: PromptSet | None = None,
    labelled: Sequence[Labelled] | None = None,
    cfg: CompareConfig | None = None,
    protocol: EvaluateConfig | None = None,
    seed: int = 0,
) -> Material:
    """Everything of the find split that the methods of `cfg` need.

    Args:
        model: continues the prompts that bring no `neutral_target`.
        prompts: find prompts.
        scores: of our attribution.
        neutral: the text kept for choosing.
        scorer: says which sampled continuation is the least toxic.
        trace: for the layer where editing begins.
        benign: benign find prompts.
        labelled: toxic and other texts; None: the prompts with their targets, and the benign ones with theirs.
        cfg: which methods, how many continuations are sampled, which token ROME edits.
        protocol: how.
        seed: of sampling and of what methods draw.

    Raises:
        ToxmemError: see `traced_layer`.
    """
    cfg, protocol = cfg or CompareConfig(), protocol or EvaluateConfig()
    protocol = sampled_alternatives(cfg, protocol, seed=seed)
    needed, alternatives, layer = parts_needed(cfg), {}, None
    if "alternatives" in needed:
        alternatives = benign_alternatives(
            model, prompts, scorer=scorer, protocol=protocol, benign=benign
        )
    if "traced_layer" in needed and trace is not None:
        layer = traced_layer(trace, token=cfg.comparators.rome.token)
    if labelled is None and benign is not None:
        labelled = labelled_from(prompts, benign)
    return Material(
        prompts=prompts,
        neutral=neutral,
        scores=scores,
        alternatives=alternatives,
        labelled=labelled,
        traced_layer=layer,
        seed=seed,
    )


def sampled_alternatives(
    cfg: CompareConfig, protocol: EvaluateConfig, *, seed: int
) -> EvaluateConfig:
    """However the evaluation is made, alternatives are some samples of whole prompts."""
    own = {"n_continuations": cfg.alternatives, "greedy": False, "max_prompt_tokens": 0}
    return protocol.model_copy(update={**own, "seed": seed})


def benign_alternatives(
    model: LensModel,
    prompts: PromptSet,
    *,
    scorer: ToxicityScorer,
    protocol: EvaluateConfig,
    benign: PromptSet | None = None,
) -> dict[str, str]:
    """By prompt id what an edit should say instead: something that is not toxic, and that the model might say.

    It is the prompt's `neutral_target`; or the least toxic sampled continuation, if that is below the threshold, cut
    to as many words as the target has, at least three; or, of a few benign prompts' targets, the one that the model
    finds likeliest after the prompt. A prompt for which there is none of these is left out.
    """
    found = {p.id: p.neutral_target for p in prompts if p.neutral_target is not None}
    without = PromptSet.of(p.from_start() for p in prompts if p.id not in found)
    if len(without):
        texts = sample_continuations(model, without, cfg=protocol, description="alternatives")
        scores = score_continuations(scorer, texts)
        for prompt, own, values in zip(without, texts, scores, strict=True):
            ranked = sorted(zip(values.tolist(), own, strict=True))
            fit = [t for x, t in ranked if x < protocol.threshold and any(map(str.isalpha, t))]
            if fit:
                found[prompt.id] = _cut(fit[0], prompt)
    without = PromptSet.of(p for p in without if p.id not in found)
    if len(without) and benign is not None:
        found |= _likeliest(model, without, benign.first(protocol.n_continuations))
    return found


def _likeliest(model: LensModel, prompts: PromptSet, benign: PromptSet) -> dict[str, str]:
    """For each prompt the benign target of the highest log-probability per token."""
    targets = sorted({p.target for p in benign})
    pairs = PromptSet.of(
        p.model_copy(update={"target": target, "id": f"{p.id}\x1f{target}"})
        for p in prompts
        for target in targets
    )
    lengths = torch.tensor([len(item.target) for item in align(model, pairs)])
    best = (target_log_probs(model, pairs) / lengths).view(len(prompts), -1).argmax(1)
    return {p.id: targets[i] for p, i in zip(prompts, best.tolist(), strict=True)}


def _cut(text: str, prompt: Prompt) -> str:
    """The first words of a continuation, spaced as the model spaced them."""
    n = max(_LEAST_WORDS, len(prompt.target.split()))
    found = re.match(rf"(\s*\S+){{1,{n}}}", text)
    return found[0] if found else text


def traced_layer(trace: Trace, *, token: Literal["subject", "last"] = "subject") -> int:
    """The layer whose MLP output mediates most at the token that ROME edits.

    Args:
        trace: of find prompts.
        token: the last corrupted token, which is the subject's, and of prompts without a subject the last; or the last.

    Raises:
        ToxmemError: a trace without MLP outputs, or without those of that token.
    """
    place: Place = "last" if token == "last" else "last_subject"
    site = next((site for site in ("mlp_out", "mlp_out_single") if site in trace.sites), None)
    found = trace.by_layer(place=place)
    own = found[found["site"] == site]
    values = [
        (value, layer)
        for value, layer in zip(own["value"].tolist(), own["layer"].tolist(), strict=True)
        if math.isfinite(value)
    ]
    if not values:
        where = "prompt's last" if token == "last" else "subject's last"
        lacking = "trace.positions to 'all' or 'ends'"
        if site is None:
            lacking = "mlp_out among trace.sites"
        raise ToxmemError(
            f"rome edits the layer whose MLP mediates most at the {where} token, which was not traced: set {lacking}, "
            "or name other methods in compare.methods"
        )
    return int(max(values)[1])
