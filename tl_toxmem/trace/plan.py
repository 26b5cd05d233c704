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
    """The cells of one prompt, made anew when they are asked for: those of a thousand prompts would fill the memory.

    Attributes:
        item: the prompt in tokens.
        subject: the span that classes of tokens go by, half-open.
        length: tokens that are run.
        first: first token that corruption changes.
        panels: what is traced, each with the tokens that it is traced at.
        parts: whether the parts are as well.
        n_layers: of the model.
        work: tokens x layers of one draw of all cells.
    """

    item: PromptTokens
    subject: tuple[int, int]
    length: int
    first: int
    panels: tuple[tuple[Panel, tuple[int, ...]], ...]
    parts: bool
    n_layers: int
    work: int = 0

    @property
    def cells(self) -> dict[Place, Cell]:
        """By place, those that have to be run; the prompt's number is 0."""
        found = {place: cell for place, cell, zero in self._every() if not zero}
        if self.parts:
            for s, site in enumerate(PART_SITES):
                for i, layers in enumerate(parts_of(self.n_layers).values()):
                    found[s, i, -1] = Cell(0, site, layers, self.first, onwards=True)
        return found

    @property
    def zero(self) -> tuple[Place, ...]:
        """Places of cells that are zero for certain."""
        return tuple(place for place, _, zero in self._every() if zero)

    def _every(self) -> Iterator[tuple[Place, Cell, bool]]:
        """Place, cell, and whether it is zero for certain."""
        last, n_layers = len(self.item.tokens) - 1, self.n_layers
        for p, (panel, positions) in enumerate(self.panels):
            for layer, pos, cell in cells_of_panel(panel, 0, positions, n_layers=n_layers):
                zero = is_zero(cell, first=self.first, looked_at=last, n_layers=n_layers)
                yield (p, layer, pos), cell, zero

    def numbered(self, prompt: int) -> Iterator[Cell]:
        """The cells, of this number among prompts that are run together."""
        return (replace(cell, prompt=prompt) for cell in self.cells.values())

    def cost(self, model: LensModel, cfg: TraceConfig) -> float:  # noqa: ARG002 - as expected_cost
        """Tokens x layers of all cells and draws."""
        return float(n_draws(cfg) * self.work)

    def expected_cost(self, model: LensModel, cfg: TraceConfig) -> float:
        """The same of what will be run: with a screening, that of the cells that are measured, about.

        In bfloat16 a cell counts less than half; a backward pass counts little.
        """
        if cfg.screen == "none":
            return self.cost(model, cfg)
        n = float(n_draws(cfg))
        sure = 0.0
        panels: dict[int, list[float]] = {}
        for (panel, _, pos), cell in self.cells.items():
            cost = n * cell.cost(self.length, n_layers=self.n_layers)
            if cell.severed or pos < 0:
                sure += cost
            else:
                panels.setdefault(panel, []).append(cost)
        for costs in panels.values():
            sure += sum(costs) * min(1.0, cfg.verify_top / len(costs))
        return sure + (LOWER * self.cost(model, cfg) if cfg.screen == "bfloat16" else 0.0)


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
    last_subject, last = (subject[1] - 1,), (n_tokens - 1,)
    places = {
        "all": tuple(range(n_tokens)),
        "last_subject": last_subject,
        "last": last,
        "ends": tuple(sorted({*last_subject, *last})),
    }
    where = tuple(
        (panel, last_subject if panel.severed else places[cfg.positions]) for panel in panels
    )
    made = Plan(item, subject, length, first, where, cfg.parts, n_layers)
    work = sum(cell.cost(length, n_layers=n_layers) for cell in made.cells.values())
    made = replace(made, work=work)
    needed = state_bytes(model, [made], cfg) + batch_bytes(model, [made], cfg)
    if needed > cfg.max_memory * 1e9:
        raise ToxmemError(
            f"trace.max_memory is {cfg.max_memory:g} GB, but one cell of prompt {item.prompt.id!r} needs "
            f"{needed / 1e9:.2g} GB: give more, or lower trace.n_noise"
        )
    return made
