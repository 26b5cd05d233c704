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
from tl_toxmem.trace.sweep import row_bytes

Place = tuple[int, int, int]
"""Panel, layer and position of a cell; for a part its site, its number and -1."""


@dataclass(frozen=True)
class Plan:
    """The cells of one prompt.

    Attributes:
        item: the prompt in tokens.
        span: its corrupted tokens, half-open.
        length: tokens that are run.
        cells: by place, those that have to be run; the prompt's number is 0.
        zero: places of cells that are zero for certain.
    """

    item: PromptTokens
    span: tuple[int, int]
    length: int
    cells: dict[Place, Cell]
    zero: tuple[Place, ...]

    def numbered(self, prompt: int) -> Iterator[Cell]:
        """The cells, of this number among prompts that are run together."""
        return (replace(cell, prompt=prompt) for cell in self.cells.values())

    def cost(self, model: LensModel, cfg: TraceConfig) -> float:
        """Tokens x layers of all cells, as `sweep.cost` counts them."""
        each = ((self.length - c.pos) * (model.n_layers - c.joins) for c in self.cells.values())
        return float(n_draws(cfg) * sum(each))

    def state_bytes(self, model: LensModel, cfg: TraceConfig) -> float:
        """What is kept of a prompt's runs: of each layer what enters it, its MLP output, keys and values."""
        vectors = n_draws(cfg) * (4 + ("attn" in cfg.severed)) * model.d_model
        vectors += 3 * model.d_model + ("mlp_post" in cfg.sites) * model.d_mlp
        return float(model.dtype.itemsize * self.length * model.n_layers * vectors)


def plan(
    model: LensModel, item: PromptTokens, panels: Sequence[Panel], *, cfg: TraceConfig
) -> Plan:
    """The cells of one prompt.

    Raises:
        ToxmemError: a cell of it does not fit into `cfg.max_memory`, or the corruption does not fit the prompt.
    """
    n_layers, n_tokens = model.n_layers, len(item.tokens)
    length = len(item.full) if needs_span(cfg.measured) else n_tokens
    span = corrupted_span(model, item, cfg=cfg)
    last_subject, last = [span[1] - 1], [n_tokens - 1]
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
            if is_zero(cell, first=span[0], looked_at=n_tokens - 1, n_layers=n_layers):
                zero.append((p, layer, pos))
            else:
                cells[p, layer, pos] = cell
    if cfg.parts:
        for s, site in enumerate(PART_SITES):
            for i, layers in enumerate(parts_of(n_layers).values()):
                cells[s, i, -1] = Cell(0, site, layers, span[0], onwards=True)
    made = Plan(item, span, length, cells, tuple(zero))
    row = n_draws(cfg) * row_bytes(model, length, length)
    needed = made.state_bytes(model, cfg) + row
    if needed > cfg.max_memory * 1e9:
        raise ToxmemError(
            f"trace.max_memory is {cfg.max_memory:g} GB, but one cell of prompt {item.prompt.id!r} needs "
            f"{needed / 1e9:.2g} GB: give more, or lower trace.n_noise"
        )
    return made
