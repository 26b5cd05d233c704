"""The robustness card: does the layer profile survive other noise, windows, metrics and corruptions?

A profile is the mean effect by layer at one token: the subject's last or the prompt's last, whichever has the larger
effects in the trace as configured. Each variant's profile is compared with that of the
trace as configured by Spearman's rank correlation, with a 95 % interval over prompts. Noise and replacement are known
to localise differently, and windows to blur (Zhang and Nanda 2024); a claim about layers should survive them.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tl_toxmem.config import TraceConfig
from tl_toxmem.corrupt import counterfactual_tokens
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import align
from tl_toxmem.trace.agreement import Profile, Robustness, rank_agreement
from tl_toxmem.trace.causal import causal_trace
from tl_toxmem.trace.cells import resolve_window
from tl_toxmem.trace.record import Trace
from tl_toxmem.trace.statistics import PLACES, Place

SITES = ("mlp_out", "attn_out")
_SIGMAS = (1.0, 3.0, 5.0)
_MOST_PROMPTS = 64
"""Of lowest hash: a card needs no more, and has about six traces."""


def can_replace(model: LensModel, prompts: PromptSet) -> bool:
    """Whether every prompt has a counterfactual.

    Raises:
        ToxmemError: they have, but one does not fit its prompt.
    """
    if not all(prompt.counterfactual for prompt in prompts):
        return False
    for item in align(model, prompts):
        counterfactual_tokens(model, item)
    return True


def check_robustness(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: TraceConfig | None = None,
    resume: str | Path | None = None,
) -> Robustness:
    """Trace the prompts again at one token, under every variant that they allow.

    Args:
        model: any host.
        prompts: as for `causal_trace`, at most 64; replacement is tried if every one has a counterfactual.
        cfg: the trace that is to be checked.
        resume: as for `causal_trace`.

    Raises:
        ToxmemError: as `causal_trace`.
    """
    cfg = cfg or TraceConfig()
    base = checked_at_ends(cfg)
    prompts = checked_prompts(prompts, cfg)
    replaced = can_replace(model, prompts)
    window = resolve_window(cfg, n_layers=model.n_layers)

    def traced(**changes: Any) -> Trace:
        changed = base.model_copy(update={"window": window, **changes})
        return causal_trace(model, prompts, cfg=changed, resume=resume)

    profiles = []
    reference = traced()
    place: Place = max(PLACES, key=lambda place: float(reference.at(place).mean(0).abs().max()))
    base = base.model_copy(update={"positions": place})
    as_it_is = [("as configured", _described(base, window), reference)]
    as_it_is += [
        ("metric", metric, reference.in_metric(metric))
        for metric in reference.metrics
        if metric != base.metric
    ]
    others = (
        (varied, name, traced(**changes))
        for varied, name, changes in variants_of(base, window, model.n_layers, replaced=replaced)
    )
    for varied, name, trace in chain(as_it_is, others):
        for s, site in enumerate(SITES):
            own, other = reference.at(place)[:, s], trace.at(place)[:, s]
            mean = tuple(float(v) for v in other.mean(0))
            profiles.append(
                Profile(varied, name, site, mean, rank_agreement(own, other, seed=cfg.seed))
            )
    return Robustness(place, tuple(profiles))


def checked_prompts(prompts: PromptSet, cfg: TraceConfig) -> PromptSet:
    """Those that the card is made of."""
    return prompts.first(min(cfg.max_prompts or _MOST_PROMPTS, _MOST_PROMPTS))


def checked_at_ends(cfg: TraceConfig) -> TraceConfig:
    """The trace that the others are compared with; the variants are of one of its two tokens only."""
    return cfg.model_copy(
        update={
            "sites": SITES,
            "positions": "ends",
            "severed": (),
            "parts": False,
            "single_layers": False,
            "screen": "none",
            "max_prompts": None,
        }
    )


def variants_of(
    base: TraceConfig, window: int, n_layers: int, *, replaced: bool
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is varied, to what, and the settings of the trace that this takes."""
    for width in sorted({1, max(1, window // 2), min(n_layers, 2 * window)} - {window}):
        yield "window", f"{width} layer{'s' if width > 1 else ''}", {"window": width}
    if base.corruption == "noise":
        for sigma in _SIGMAS:
            if base.noise_level is not None or sigma != base.noise_sigma:
                yield "noise", f"{sigma:g} sigma", {"noise_sigma": sigma, "noise_level": None}
    else:
        yield "corruption", "noise", {"corruption": "noise"}
    if base.corruption != "mean":
        yield "corruption", "mean embedding", {"corruption": "mean"}
    if base.corruption != "replace" and replaced:
        yield "corruption", "replacement", {"corruption": "replace"}


def _described(cfg: TraceConfig, window: int) -> str:
    kind = {"replace": "replacement", "mean": "mean embedding"}.get(cfg.corruption, "noise")
    if cfg.corruption == "noise":
        kind = f"{cfg.noise_level:.3g}" if cfg.noise_level else f"{cfg.noise_sigma:g} sigma"
    return f"{kind}, {window} layer{'s' if window > 1 else ''}, {cfg.metric}"
