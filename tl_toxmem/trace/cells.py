"""What is traced: panels (a site, how many of its layers at once, what is severed) and their cells.

A cell is one restored run: a state of some layers at one token, or at all tokens from the first corrupted one on.
Cells that cannot change the target are known from the causal mask and are never run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tl_toxmem.config import Severed, TraceConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.sites import TraceSite

STREAM: tuple[TraceSite, ...] = ("resid_pre", "resid_post")
"""Sites that are restored in one layer: what lies below does not matter any more."""
PART_SITES: tuple[TraceSite, ...] = ("mlp_out", "attn_out")
PARTS = ("early", "middle", "late", "all")


@dataclass(frozen=True)
class Panel:
    """One map of layer x token.

    Attributes:
        site: what is restored.
        window: most layers at once.
        severed: outputs that are held as in the corrupted run, at the restored token in all layers above.
        single: whether it stands beside a window of the same site.
    """

    site: TraceSite
    window: int = 1
    severed: Severed | None = None
    single: bool = False

    @property
    def name(self) -> str:
        """`mlp_out` for a window, `mlp_out_single` beside it, `resid_post_without_mlp` where severed."""
        if self.severed:
            return f"{self.site}_without_{self.severed}"
        return f"{self.site}_single" if self.single else self.site


@dataclass(frozen=True, slots=True)
class Cell:
    """One restored run of one prompt.

    Attributes:
        prompt: its place among the prompts that are run together.
        site: what is restored.
        layers: where.
        pos: at which token.
        severed: see `Panel`.
        onwards: at all later tokens as well.
    """

    prompt: int
    site: TraceSite
    layers: range
    pos: int
    severed: Severed | None = None
    onwards: bool = False

    @property
    def joins(self) -> int:
        """The first layer that has to be run: what enters it follows from what both runs are known to be."""
        if self.site in ("resid_pre", "attn_out"):
            return self.layers.start
        return self.layers.start + 1

    def cost(self, length: int, *, n_layers: int) -> int:
        """Tokens x layers that one draw of it has to run, of `length` tokens in all."""
        return (length - self.pos) * (n_layers - self.joins)

    @property
    def read_from(self) -> int:
        """The first layer whose attention can carry the restored state to another token."""
        return self.layers.start if self.site == "resid_pre" else self.layers.start + 1


def window_of(site: str, layer: int, *, window: int, n_layers: int) -> range:
    """The layers restored together for a cell: one in the residual stream, else ROME's clipped window."""
    if site in STREAM:
        return range(layer, layer + 1)
    start = layer - window // 2
    return range(max(0, start), min(n_layers, start + window))


def resolve_window(cfg: TraceConfig, *, n_layers: int) -> int:
    """The window in layers: as configured, or ROME's 10, at most half the stack.

    Raises:
        ToxmemError: a configured window that is larger than the model.
    """
    if cfg.window is None:
        return min(10, max(1, n_layers // 2))
    if cfg.window > n_layers:
        raise ToxmemError(f"trace.window is {cfg.window} layers, the model has {n_layers}")
    return cfg.window


def panels_of(cfg: TraceConfig, *, n_layers: int) -> tuple[Panel, ...]:
    """All panels of a configuration, windows before single layers, severed ones last."""
    window = resolve_window(cfg, n_layers=n_layers)
    panels = []
    for site in dict.fromkeys(cfg.sites):
        panels.append(Panel(site, 1 if site in STREAM else window))
        if site not in STREAM and window > 1 and cfg.single_layers:
            panels.append(Panel(site, single=True))
    panels += [Panel("resid_post", severed=what) for what in dict.fromkeys(cfg.severed)]
    return tuple(panels)


def parts_of(n_layers: int) -> dict[str, range]:
    """The thirds of the stack, and all of it; a third that would be empty takes one layer."""
    edges = [round(n_layers * i / 3) for i in range(4)]
    thirds = [
        range(min(a, n_layers - 1), min(n_layers, max(b, a + 1)))
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    return dict(zip(PARTS, [*thirds, range(n_layers)], strict=True))


def cells_of_panel(
    panel: Panel, prompt: int, positions: Sequence[int], *, n_layers: int
) -> Iterator[tuple[int, int, Cell]]:
    """Layer, position and cell for all layers and the given positions."""
    for layer in range(n_layers):
        layers = window_of(panel.site, layer, window=panel.window, n_layers=n_layers)
        for pos in positions:
            yield layer, pos, Cell(prompt, panel.site, layers, pos, panel.severed)


def is_zero(cell: Cell, *, first: int, looked_at: int, n_layers: int) -> bool:
    """Whether a cell has no effect for certain.

    Args:
        cell: which.
        first: first token that differs between clean and corrupted run; before it they are equal.
        looked_at: first position that the metrics look at; an earlier one must be read by some attention above.
        n_layers: of the model.
    """
    if cell.onwards:
        return False
    return cell.pos < first or (cell.pos < looked_at and cell.read_from >= n_layers)
