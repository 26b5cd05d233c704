"""Causal tracing (Meng et al. 2022).

Three runs per prompt: clean; corrupted; and, for each cell (panel, layer, token), corrupted with that state restored to
its clean value. The indirect effect of a cell is restored - corrupted: positive where the state mediates the target.
Outputs of MLP and attention are restored in a window of layers `[layer - w//2, layer - w//2 + w)` clipped to the
stack, and beside it in each layer alone.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.careful import Careful
from tl_toxmem.config import TraceConfig
from tl_toxmem.corrupt import level_of, n_draws
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.progress import Advance, meter
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import align
from tl_toxmem.trace.cells import PART_SITES, PARTS, panels_of, window_of
from tl_toxmem.trace.group import Group
from tl_toxmem.trace.metrics import SIGN, neutral_tokens
from tl_toxmem.trace.plan import LOWER, Plan, batch_bytes, plan, state_bytes
from tl_toxmem.trace.record import Trace
from tl_toxmem.trace.results import Kept, PromptResult
from tl_toxmem.trace.screen import gradient_estimates, highest, neighbours, run_estimates
from tl_toxmem.trace.sweep import run_cells

_MOST_PROMPTS = 16
_MOST_OPERATIONS = 4e12
"""Of prompts that are traced together, half a minute or so: a killed trace loses what its group had done."""


def causal_trace(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: TraceConfig | None = None,
    resume: str | Path | None = None,
) -> Trace:
    """Trace every prompt at every site, layer and token.

    Args:
        model: any host; processed weights are fine.
        prompts: with their subjects; `cfg.max_prompts` of them are traced.
        cfg: sites, corruption, metrics, memory, seed.
        resume: a folder that keeps each prompt's result as soon as it is there, so that the same call goes on at the
            prompt where it was stopped.

    Raises:
        ToxmemError: before anything is run: no prompts, one that does not fit the model, the corruption or the metric,
            a window larger than the model, or too little memory for one cell.
    """
    cfg = cfg or TraceConfig()
    plans = plan_trace(model, prompts, cfg=cfg)
    level = level_of(model, [one.item for one in plans], cfg=cfg)
    kept = None if resume is None else Kept(Path(resume), model, cfg=cfg, level=level)
    found: dict[str, PromptResult] = {}
    for one in plans:
        result = kept.get(one.item) if kept else None
        if result is not None:
            found[one.item.prompt.id] = result
    # Prompts that are traced together are traced anew together, so that a stopped trace ends in the same bits.
    groups = [
        group
        for group in groups_of(model, plans, cfg=cfg)
        if any(one.item.prompt.id not in found for one in group)
    ]
    todo = list(itertools.chain(*groups))
    with meter("trace", sum(one.expected_cost(model, cfg) for one in todo)) as advance:
        traced = model.engine.map(model, _Tracing(cfg, level), groups, advance)
        for group, own in zip(groups, traced, strict=True):
            for one, result in zip(group, own, strict=True):
                found[one.item.prompt.id] = result
                if kept:
                    kept.add(one.item, result)
    results = [found[one.item.prompt.id] for one in plans]
    return _assemble(model, plans, results, cfg=cfg, level=level)


def plan_trace(model: LensModel, prompts: PromptSet, *, cfg: TraceConfig) -> list[Plan]:
    """What a trace would run, prompt by prompt; raises as `causal_trace` does."""
    panels = panels_of(cfg, n_layers=model.n_layers)
    items = align(model, prompts.first(cfg.max_prompts))
    if not items:
        raise ToxmemError("nothing to trace: the prompt set is empty")
    if cfg.screen == "bfloat16":
        _check_lower(model)
    if "logit_diff" in cfg.measured:
        neutral_tokens(model, items)
    return [plan(model, item, panels, cfg=cfg) for item in items]


def _check_lower(model: LensModel) -> None:
    """Whether a copy in bfloat16 would be the same model, and gain anything."""
    if model.dtype.itemsize <= torch.bfloat16.itemsize:
        raise ToxmemError(
            "trace.screen = 'bfloat16' gains nothing: the model is in 16 bits; choose 'none' or 'gradient'"
        )
    if any(point.fwd_hooks for point in model.host.points.values()):
        raise ToxmemError(
            "trace.screen = 'bfloat16' runs a copy of the model, without the hooks that are attached now: choose "
            "'none' or 'gradient', or bake the deletion first"
        )


def groups_of(model: LensModel, plans: Sequence[Plan], *, cfg: TraceConfig) -> Iterator[list[Plan]]:
    """Prompts to be traced together: of similar length, within a share of the memory."""
    operations = 24.0 * model.d_model**2  # of a token in a layer
    group: list[Plan] = []
    for one in sorted(plans, key=lambda p: p.length):
        more = [*group, one]
        budget, states = cfg.max_memory * 1e9, state_bytes(model, more, cfg)
        fits = states <= budget / 3 and states + batch_bytes(model, more, cfg) <= budget
        small = sum(p.cost(model, cfg) for p in more) * operations <= _MOST_OPERATIONS
        if group and not (fits and small and len(more) <= _MOST_PROMPTS):
            yield group
            more = [one]
        group = more
    if group:
        yield group


@dataclass
class _Tracing:
    """The work on a group; a copy of the model in bfloat16 is made once, where it is done."""

    cfg: TraceConfig
    level: float
    lower: LensModel | None = None
    careful: Careful[Plan, list[PromptResult]] | None = None
    advance: Advance = float

    def __call__(
        self, model: LensModel, group: Sequence[Plan], advance: Advance
    ) -> list[PromptResult]:
        if self.cfg.screen == "bfloat16" and self.lower is None:
            self.lower = model.in_precision(torch.bfloat16)
        self.advance = advance
        if self.careful is None:
            self.careful = Careful(
                lambda some: list(
                    _trace_group(model, self.lower, some, self.cfg, self.level, self.advance)
                ),
                what="values of the clean and corrupted runs",
                model=model,
                name=lambda one: one.item.called(),
                # NaN stands where nothing was asked; the runs are looked at as they end.
                check=lambda _: True,
            )
        return list(itertools.chain(*self.careful(group)))


def _trace_group(
    model: LensModel,
    lower: LensModel | None,
    group: Sequence[Plan],
    cfg: TraceConfig,
    level: float,
    advance: Advance,
) -> Iterator[PromptResult]:
    """The results of a few prompts, in their order."""
    items = [one.item for one in group]
    runs = Group(model, items, cfg=cfg, level=level)
    room = cfg.max_memory * 1e9 - state_bytes(model, group, cfg)
    cells = [list(one.numbered(i)) for i, one in enumerate(group)]
    estimates: list[Tensor] = []
    if cfg.screen == "gradient":
        estimates = gradient_estimates(runs, cells, max_bytes=room)
    elif lower is not None:
        rough = Group(lower, items, cfg=cfg, level=level)
        estimates = run_estimates(
            rough, cells, max_bytes=room, advance=lambda cost: advance(LOWER * cost)
        )
    measured = [list(range(len(own))) for own in cells]
    sign = SIGN[cfg.metric]
    if estimates:
        measured = [
            highest(sign * estimate[0], one, top=cfg.verify_top)
            for estimate, one in zip(estimates, group, strict=True)
        ]
    corrupted = [
        runs.corrupted_values[:, i * runs.n_draws : (i + 1) * runs.n_draws].mean(1)
        for i in range(len(group))
    ]
    restored = [
        before[:, None] + estimates[i] if estimates else before.new_empty(len(before), len(own))
        for i, (before, own) in enumerate(zip(corrupted, cells, strict=True))
    ]
    todo = measured
    while any(todo):
        flat = [own[k] for own, some in zip(cells, todo, strict=True) for k in some]
        values = run_cells(runs, flat, max_bytes=room, advance=advance)
        for into, some, exact in zip(
            restored, todo, torch.split(values, [len(some) for some in todo], dim=1), strict=True
        ):
            into[:, some] = exact
        if not estimates:
            break
        # From the best that the estimates led to, uphill.
        todo = [
            neighbours(sign * values[0], one, some)
            for values, one, some in zip(restored, group, measured, strict=True)
        ]
        measured = [sorted([*some, *more]) for some, more in zip(measured, todo, strict=True)]
    for i, one in enumerate(group):
        clean = runs.clean_values[:, i]
        yield _scatter(one, clean, corrupted[i], restored[i], measured[i], model, cfg)


def _scatter(
    one: Plan,
    clean: Float[Tensor, " metric"],
    corrupted: Float[Tensor, " metric"],
    values: Float[Tensor, "metric cell"],
    measured: Sequence[int],
    model: LensModel,
    cfg: TraceConfig,
) -> PromptResult:
    """The values of one prompt's cells in their places."""
    n_panels = len(panels_of(cfg, n_layers=model.n_layers))
    shape = (n_panels, model.n_layers, len(one.item.tokens))
    restored = torch.full((len(clean), *shape), torch.nan)
    parts = torch.full((len(clean), len(PART_SITES), len(PARTS)), torch.nan)
    exact = torch.zeros(shape, dtype=torch.bool)
    known = set(measured)
    for panel, layer, pos in one.zero:
        restored[:, panel, layer, pos] = corrupted
        exact[panel, layer, pos] = True
    for i, (a, b, pos) in enumerate(one.cells):
        if pos < 0:
            parts[:, a, b] = values[:, i]
        else:
            restored[:, a, b, pos] = values[:, i]
            exact[a, b, pos] = i in known
    return PromptResult(clean, corrupted, restored, parts, exact)


def _assemble(
    model: LensModel,
    plans: Sequence[Plan],
    results: Sequence[PromptResult],
    *,
    cfg: TraceConfig,
    level: float,
) -> Trace:
    panels = panels_of(cfg, n_layers=model.n_layers)
    longest = max(len(one.item.tokens) for one in plans)

    def padded(tensor: Tensor, value: float) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, longest - tensor.shape[-1]), value=value)

    n_restored = [
        [
            len(window_of(panel.site, layer, window=panel.window, n_layers=model.n_layers))
            for layer in range(model.n_layers)
        ]
        for panel in panels
    ]
    return Trace(
        sites=tuple(panel.name for panel in panels),
        metrics=cfg.measured,
        metric=cfg.metric,
        prompt_ids=tuple(one.item.prompt.id for one in plans),
        words=tuple(one.item.words for one in plans),
        subjects=tuple(one.subject for one in plans),
        clean=torch.stack([r.clean for r in results], 1),
        corrupted=torch.stack([r.corrupted for r in results], 1),
        restored=torch.stack([padded(r.restored, torch.nan) for r in results], 1),
        parts=torch.stack([r.parts for r in results], 1),
        exact=torch.stack([padded(r.exact, False) for r in results]),
        n_restored=torch.tensor(n_restored),
        corruption=cfg.corruption,
        noise=level,
        n_noise=n_draws(cfg),
        seed=cfg.seed,
    )
