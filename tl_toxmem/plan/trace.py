"""What a trace puts through the model: the very groups, cells and sweeps that it will run.

All of it is determined but for a screening, of whose cells nobody knows yet which will be measured, and for the
robustness card, whose variants are traced at the one of two tokens that turns out to have the larger effects.
"""

from collections.abc import Iterator, Sequence

from tl_toxmem.config import TraceConfig
from tl_toxmem.corrupt import n_draws
from tl_toxmem.model import LensModel
from tl_toxmem.plan.work import Pass, Shape, Tally, Work, whole
from tl_toxmem.progress import batched
from tl_toxmem.prompts import PromptSet
from tl_toxmem.trace import can_replace, plan_trace
from tl_toxmem.trace.causal import groups_of
from tl_toxmem.trace.cells import Cell, resolve_window
from tl_toxmem.trace.metrics import needs_span
from tl_toxmem.trace.plan import LOWER, Plan, batch_bytes, state_bytes
from tl_toxmem.trace.robustness import checked_at_ends, checked_prompts, variants_of
from tl_toxmem.trace.screen import graph_bytes
from tl_toxmem.trace.statistics import PLACES
from tl_toxmem.trace.sweep import row_bytes, sweeps_of


def count_trace(
    model: LensModel, find: PromptSet, benign: PromptSet | None, *, cfg: TraceConfig
) -> Work:
    """The stage of a run: the trace, that of benign prompts, the robustness card.

    Args:
        model: only its shape and its tokenizer are asked.
        find: find prompts.
        benign: benign find prompts, if there are any.
        cfg: of the trace.

    Raises:
        ToxmemError: as the trace itself, before it runs anything.
    """
    tally = Tally(Shape.of(model))
    _trace(tally, model, find, cfg)
    if benign is not None:
        n = len(find.first(cfg.max_prompts))
        _trace(tally, model, benign, cfg.model_copy(update={"max_prompts": n}))
    if cfg.robustness:
        _robustness(tally, model, find, cfg)
    return tally.done("trace", units=len(find.first(cfg.max_prompts)))


def _robustness(tally: Tally, model: LensModel, find: PromptSet, cfg: TraceConfig) -> None:
    prompts = checked_prompts(find, cfg)
    window = resolve_window(cfg, n_layers=model.n_layers)
    base = checked_at_ends(cfg)
    _trace(tally, model, prompts, base.model_copy(update={"window": window}))
    variants = variants_of(base, window, model.n_layers, replaced=can_replace(model, prompts))
    for _, _, changes in variants:
        changed = base.model_copy(update={"window": window, **changes})
        found = [_counted(model, prompts, changed, place) for place in PLACES]
        if found[0].passes != found[1].passes:
            tally.expect(
                "the robustness card's token, the subject's last or the prompt's: the mean of both"
            )
        for one in found:
            tally.add(one.passes, times=1 / len(PLACES))


def _counted(model: LensModel, prompts: PromptSet, cfg: TraceConfig, place: str) -> Tally:
    tally = Tally(Shape.of(model))
    _trace(tally, model, prompts, cfg.model_copy(update={"positions": place}))
    return tally


def _trace(tally: Tally, model: LensModel, prompts: PromptSet, cfg: TraceConfig) -> None:
    """One call of `causal_trace` that keeps its results."""
    plans = plan_trace(model, prompts, cfg=cfg)
    for group in groups_of(model, plans, cfg=cfg):
        passes = list(_group(tally, model, group, cfg))
        tally.add(passes)
        width = max(one.length for one in group)
        rows = [
            row_bytes(model, one.new, width) * one.rows for one in passes if one.kind == "sweep"
        ]
        batch = max(batch_bytes(model, group, cfg), *rows)
        tally.need(min(cfg.max_memory * 1e9, state_bytes(model, group, cfg) + batch))
    # Beside each result are logits that the model gave after the prompt.
    tally.add(whole(tally.shape, "forward", 1, len(one.item.tokens), kept=1) for one in plans)


def _group(
    tally: Tally, model: LensModel, group: Sequence[Plan], cfg: TraceConfig
) -> Iterator[Pass]:
    """The passes of prompts that are traced together."""
    shape, draws = tally.shape, n_draws(cfg)
    width, kept = max(one.length for one in group), _kept(group, cfg)
    room = cfg.max_memory * 1e9 - state_bytes(model, group, cfg)
    cells = [list(one.numbered(i)) for i, one in enumerate(group)]
    runs = 2 if cfg.screen == "bfloat16" else 1
    for _ in range(runs):
        yield whole(shape, "forward", len(group), width, kept=kept)
        yield whole(shape, "forward", draws * len(group), width, kept=kept)
    if cfg.screen == "bfloat16":
        yield from _sweeps(model, group, cells, cfg, room, share=LOWER)
    if cfg.screen == "gradient":
        size = max(1, int(room / graph_bytes(model, width)))
        for rows in batched(range(draws * len(group)), size):
            yield whole(shape, "backward", len(rows), width, kept=kept)
    if cfg.screen != "none":
        tally.expect(
            "which cells a screening measures: as many as it will at first, evenly spread; those "
            "beside the best that come after are left out"
        )
        cells = [_spread(own, one, cfg) for own, one in zip(cells, group, strict=True)]
    yield from _sweeps(model, group, cells, cfg, room)


def _sweeps(
    model: LensModel,
    group: Sequence[Plan],
    cells: Sequence[Sequence[Cell]],
    cfg: TraceConfig,
    room: float,
    *,
    share: float = 1.0,
) -> Iterator[Pass]:
    flat = [cell for own in cells for cell in own]
    width, draws = max(one.length for one in group), n_draws(cfg)
    lengths = [group[cell.prompt].length - cell.pos for cell in flat]
    every = sweeps_of(model, flat, lengths, width=width, n_draws=draws, max_bytes=room)
    for length, some in every:
        layers = sum(model.n_layers - flat[i].joins for i in some)
        rows = draws * len(some)
        past, kept = width - length, min(length, _kept(group, cfg))
        yield Pass("sweep", rows, length, past, kept, draws * layers, share=share)


def _spread(own: Sequence[Cell], one: Plan, cfg: TraceConfig) -> list[Cell]:
    """As many cells of each panel as a screening measures at first; all parts and severed ones."""
    chosen: list[Cell] = []
    panels: dict[int, list[Cell]] = {}
    for (panel, _, pos), cell in zip(one.cells, own, strict=True):
        if cell.severed or pos < 0:
            chosen.append(cell)
        else:
            panels.setdefault(panel, []).append(cell)
    for some in panels.values():
        n = min(cfg.verify_top, len(some))
        chosen += [some[i * len(some) // n] for i in range(n)]
    return chosen


def _kept(group: Sequence[Plan], cfg: TraceConfig) -> int:
    """Positions that the metrics look at."""
    return max(len(one.item.target) for one in group) if needs_span(cfg.measured) else 1
