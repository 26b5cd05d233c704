"""What has to be run of one prompt, and where the results go; known, and checked, before anything runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tl_toxmem.config import TraceConfig
from tl_toxmem.corrupt import corrupted_span, n_draws
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.tokens import PromptTokens
from tl_toxmem.trace.cells import PART_SITES, Cell, Panel, cells_of_panel, is_zero, parts_of
from tl_toxmem.trace.metrics import needs_span
from tl_toxmem.trace.screen import graph_bytes
from tl_toxmem.trace.sweep import row_bytes

Place = tuple[int, int, int]
"""Panel, layer and position of a cell; for a part its site, its number and -1."""


LOWER = 0.45
"""What a cell costs in bfloat16, against float32."""


@dataclass(frozen=True)
class Plan:
    """The cells of one prompt.

    Attributes:
        item: the prompt in tokens.
        subject: the span that classes of tokens go by, half-open.
        length: tokens that are run.
        cells: by place, those that have to be run; the prompt's number is 0.
        zero: places of cells that are zero for certain.
    """

    item: PromptTokens
    subject: tuple[int, int]
    length: int
    cells: dict[Place, Cell]
    zero: tuple[Place, ...]

    def numbered(self, prompt: int) -> Iterator[Cell]:
        """The cells, of this number among prompts that are run together."""
        return (replace(cell, prompt=prompt) for cell in self.cells.values())

    def cost(self, model: LensModel, cfg: TraceConfig) -> float:
        """Tokens x layers of all cells and draws."""
        return sum(self._costs(model, cfg))

    def expected_cost(self, model: LensModel, cfg: TraceConfig) -> float:
        """The same of what will be run: with a screening, that of the cells that are measured, about.

        In bfloat16 a cell counts less than half; a backward pass counts little.
        """
        if cfg.screen == "none":
            return self.cost(model, cfg)
        every = zip(self.cells.items(), self._costs(model, cfg), strict=True)
        sure = 0.0
        panels: dict[int, list[float]] = {}
        for ((panel, _, pos), cell), cost in every:
            if cell.severed or pos < 0:
                sure += cost
            else:
                panels.setdefault(panel, []).append(cost)
        for costs in panels.values():
            sure += sum(costs) * min(1.0, cfg.verify_top / len(costs))
        return sure + (LOWER * self.cost(model, cfg) if cfg.screen == "bfloat16" else 0.0)

    def _costs(self, model: LensModel, cfg: TraceConfig) -> list[float]:
        n = float(n_draws(cfg))
        cells = self.cells.values()
        return [n * cell.cost(self.length, n_layers=model.n_layers) for cell in cells]


def state_bytes(model: LensModel, plans: Sequence["Plan"], cfg: TraceConfig) -> float:
    """What is kept of the runs of prompts that are traced together, padded to the longest.

    Of each layer of the corrupted run what enters it, its MLP output, keys and values; of the clean run what is
    restored; half as much again where a copy in bfloat16 runs as well.
    """
    tokens = len(plans) * max(one.length for one in plans)
    vectors = n_draws(cfg) * (4 + ("attn" in cfg.severed)) * model.d_model
    vectors += (3 + ("resid_pre" in cfg.sites)) * model.d_model
    vectors += ("mlp_post" in cfg.sites) * model.d_mlp
    copies = 1.5 if cfg.screen == "bfloat16" else 1.0
    return float(copies * model.dtype.itemsize * tokens * model.n_layers * vectors)


def batch_bytes(model: LensModel, plans: Sequence["Plan"], cfg: TraceConfig) -> float:
    """What the smallest batch of these prompts takes: the draws of one cell, or one row of a backward pass."""
    width = max(one.length for one in plans)
    sweep = n_draws(cfg) * row_bytes(model, width, width)
    return max(sweep, graph_bytes(model, width) if cfg.screen == "gradient" else 0.0)


def plan(
    model: LensModel, item: PromptTokens, panels: Sequence[Panel], *, cfg: TraceConfig
) -> Plan:
    """The cells of one prompt.

    Raises:
        ToxmemError: a cell of it does not fit into `cfg.max_memory`, or the corruption does not fit the prompt.
    """
    n_layers, n_tokens = model.n_layers, len(item.tokens)
    length = len(item.full) if needs_span(cfg.measured) else n_tokens
    first, end = corrupted_span(model, item, cfg=cfg)
    # Where nobody says what the subject is, it is what the counterfactual changes.
    subject = item.subject if item.prompt.subject or cfg.corruption != "replace" else (first, end)
    last_subject, last = [subject[1] - 1], [n_tokens - 1]
    places = {
        "all": range(n_tokens),
        "last_subject": last_subject,
        "last": last,
        "ends": sorted({*last_subject, *last}),
    }
    cells: dict[Place, Cell] = {}
    zero: list[Place] = []
    for p, panel in enumerate(panels):
        positions = last_subject if panel.severed else places[cfg.positions]
        for layer, pos, cell in cells_of_panel(panel, 0, positions, n_layers=n_layers):
            if is_zero(cell, first=first, looked_at=n_tokens - 1, n_layers=n_layers):
                zero.append((p, layer, pos))
            else:
                cells[p, layer, pos] = cell
    if cfg.parts:
        for s, site in enumerate(PART_SITES):
            for i, layers in enumerate(parts_of(n_layers).values()):
                cells[s, i, -1] = Cell(0, site, layers, first, onwards=True)
    made = Plan(item, subject, length, cells, tuple(zero))
    needed = state_bytes(model, [made], cfg) + batch_bytes(model, [made], cfg)
    if needed > cfg.max_memory * 1e9:
        raise ToxmemError(
            f"trace.max_memory is {cfg.max_memory:g} GB, but one cell of prompt {item.prompt.id!r} needs "
            f"{needed / 1e9:.2g} GB: give more, or lower trace.n_noise"
        )
    return made
