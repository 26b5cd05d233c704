"""Running cells: the numbers of one full forward pass per cell, at a fraction of its operations.

Cells that restore a token with as many tokens after it share one sweep up the layers. A sweep runs only the positions
from the restored token on; the earlier ones are as in the corrupted run, whose keys and values are kept. A cell joins
at its first layer that differs from what is known already, so the batch grows on the way up, and only what the metrics
look at is unembedded.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.careful import Careful
from tl_toxmem.model import Hook, HookFn, LensModel
from tl_toxmem.sites import Site
from tl_toxmem.trace.cells import STREAM, Cell
from tl_toxmem.trace.group import Group

_BEST_TOKENS = 2048
"""Larger batches are no faster and take more memory."""
_LOGITS = 2**23
"""Unembedded at a time: 34 MB in float32, and a few copies."""


@torch.no_grad()
def run_cells(
    group: Group,
    cells: Sequence[Cell],
    *,
    max_bytes: float,
    advance: Callable[[float], object] = float,
) -> Float[Tensor, "metric cell"]:
    """The metrics of each cell, mean over draws.

    Args:
        group: the prompts that the cells are of.
        cells: none that is zero for certain.
        max_bytes: what a batch may take.
        advance: called with the cost of what was just done, in tokens x layers.
    """

    def cost(cell: Cell) -> float:
        length = group.width - group.pads[cell.prompt]
        return group.n_draws * cell.cost(length, n_layers=group.model.n_layers)

    def careful(length: int) -> Careful[int, Tensor]:
        return Careful(
            lambda some: _sweep(group, [cells[i] for i in some], length),
            what="values of cells",
            model=group.model,
            name=lambda i: f"{group.items[cells[i].prompt].called()} (a cell of {cells[i].site})",
        )

    result = torch.empty(len(group.measure.names), len(cells))
    lengths = [group.width - group.column(cell.prompt, cell.pos) for cell in cells]
    sweeps: dict[int, Careful[int, Tensor]] = {}
    for length, batch in sweeps_of(
        group.model, cells, lengths, width=group.width, n_draws=group.n_draws, max_bytes=max_bytes
    ):
        sweep = sweeps.setdefault(length, careful(length))
        result[:, batch] = torch.cat(sweep(batch), dim=1)
        advance(sum(cost(cells[i]) for i in batch))
    return result


def sweeps_of(
    model: LensModel,
    cells: Sequence[Cell],
    lengths: Sequence[int],
    *,
    width: int,
    n_draws: int,
    max_bytes: float,
) -> Iterator[tuple[int, list[int]]]:
    """The tokens that a row of each sweep has, and the numbers of its cells in the order in which they join.

    Args:
        model: of which size.
        cells: of prompts that are run together.
        lengths: of each cell, tokens from the restored one on.
        width: of the prompts, padded.
        n_draws: rows of a cell.
        max_bytes: what a batch may take.
    """
    by_length = defaultdict(list)
    for i, length in enumerate(lengths):
        by_length[length].append(i)
    for length, members in sorted(by_length.items(), reverse=True):
        members.sort(key=lambda i: cells[i].joins)
        per_cell = n_draws * row_bytes(model, length, width)
        size = max(1, int(min(max_bytes / per_cell, _BEST_TOKENS / (length * n_draws))))
        for start in range(0, len(members), size):
            yield length, members[start : start + size]


def row_bytes(model: LensModel, length: int, width: int) -> float:
    """Bytes that one row of a sweep takes at its widest layer.

    An MLP keeps about five vectors of d_mlp a token, everything else about twelve of d_model; keys and values are
    gathered and then put together, and attention has a few tables of length x width for each head.
    """
    n_heads = model.host.raw.cfg.n_heads
    floats = (
        length * (5 * model.d_mlp + 12 * model.d_model)
        + 6 * width * model.d_model
        + 4 * n_heads * length * width
    )
    return float(model.dtype.itemsize * floats)


def _sweep(group: Group, cells: Sequence[Cell], length: int) -> Float[Tensor, "metric cell"]:
    """Cells of one length, in the order in which they join."""
    model, n, device = group.model, group.n_draws, group.model.device
    column = group.width - length
    prompts = torch.tensor([cell.prompt for cell in cells], device=device)
    draws = torch.arange(n, device=device)
    rows = (prompts[:, None] * n + draws).flatten()  # of the corrupted run
    joins = [cell.joins for cell in cells]
    suffix = model.host.suffix(group.mask[rows], length)
    resid = torch.empty(0, length, model.d_model, dtype=model.dtype, device=device)
    with model.hooks(list(_hooks(group, cells, rows, column))):
        for layer in range(joins[0], model.n_layers + 1):
            joining = [i for i, at in enumerate(joins) if at == layer]
            if joining:
                new = rows[joining[0] * n : (joining[-1] + 1) * n]
                entering = group.entering[layer][new, column:]
                for k, i in enumerate(joining):
                    _restore_on_joining(group, cells[i], entering[k * n : (k + 1) * n], column)
                resid = torch.cat([resid, entering])
            if layer < model.n_layers:
                past = group.keys_values(layer, column, rows[: len(resid)])
                resid = suffix.block(layer, resid, past)
    values = _measure(group, resid, prompts.repeat_interleave(n))
    return values.view(len(values), len(cells), n).mean(2)


def _restore_on_joining(
    group: Group, cell: Cell, entering: Float[Tensor, "draw pos d_model"], column: int
) -> None:
    """Put what is known of a cell into what enters its first layer, in place."""
    at = slice(None) if cell.onwards else slice(0, 1)
    columns = slice(column, None) if cell.onwards else slice(column, column + 1)
    first = cell.layers.start
    if cell.site in STREAM:
        entering[:, at] = group.clean[cell.site, first][cell.prompt, columns]
    elif cell.site in ("mlp_out", "mlp_post"):
        # Nothing before an MLP's output differs in its own layer, so the difference can be added after the layer.
        draws = slice(cell.prompt * group.n_draws, (cell.prompt + 1) * group.n_draws)
        clean = group.clean["mlp_out", first][cell.prompt, columns]
        entering[:, at] += clean - group.corrupted["mlp_out", first][draws, columns]


def _hooks(
    group: Group, cells: Sequence[Cell], rows: Int[Tensor, " row"], column: int
) -> Iterator[Hook]:
    """One hook for each site and layer where some cell is restored, or severed, while it runs."""
    n, n_layers = group.n_draws, group.model.n_layers
    # By site and layer, then by (at all later tokens as well, severed): cell numbers.
    restored: dict[tuple[Site, int], dict[tuple[bool, bool], list[int]]]
    restored = defaultdict(lambda: defaultdict(list))
    for i, cell in enumerate(cells):
        kind = cell.onwards, bool(cell.severed)
        if cell.severed:
            site: Site = "mlp_out" if cell.severed == "mlp" else "attn_out"
            for layer in range(cell.joins, n_layers):
                restored[site, layer][kind].append(i)
        elif cell.site not in STREAM:
            for layer in cell.layers:
                if layer >= cell.joins:
                    restored[cell.site, layer][kind].append(i)
    for (site, layer), kinds in restored.items():
        sets = []
        for (onwards, severed), some in kinds.items():
            at = torch.tensor(some, device=rows.device)[:, None] * n
            into = (at + torch.arange(n, device=rows.device)).flatten()
            columns = slice(column, None if onwards else column + 1)
            if severed:
                values = group.corrupted[site, layer][rows[into], columns]
            else:
                values = group.clean[site, layer][rows[into] // n, columns]
            sets.append((into, slice(None) if onwards else slice(0, 1), values))
        yield site, layer, _put(sets)


def _put(sets: Sequence[tuple[Tensor, slice, Tensor]]) -> HookFn:
    def hook(state: Tensor) -> Tensor:
        for rows, at, values in sets:
            state[rows, at] = values
        return state

    return hook


def _measure(
    group: Group, resid: Float[Tensor, "row pos d_model"], prompts: Int[Tensor, " row"]
) -> Float[Tensor, "metric row"]:
    """The metrics of each row, unembedded in pieces."""
    keep = group.measure.keep
    size = max(1, _LOGITS // (keep * group.model.d_vocab))
    pieces = [
        group.measure(group.model.host.unembed(resid[i : i + size], keep), prompts[i : i + size])
        for i in range(0, len(resid), size)
    ]
    return torch.cat(pieces, dim=1)
