"""Screening: estimate every cell cheaply, measure only the highest exactly; a trace says which are which.

- bfloat16: all cells are run by a copy of the model in bfloat16, which has the faster matrix products.
- gradient: one forward and one backward pass of the corrupted run. An effect is estimated by its first order, the
  gradient of the metric x (clean - corrupted) summed over the state and, in a window, over its layers (attribution
  patching; Nanda 2023, Kramar et al. 2024). It misses what saturates or cancels, hence the exact check of the highest.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.model import Hook, HookFn, LensModel
from tl_toxmem.sites import Site
from tl_toxmem.trace.cells import Cell
from tl_toxmem.trace.group import Group
from tl_toxmem.trace.sweep import run_cells

_REACH = 2
"""Layers to either side of the best cell that are measured as well."""

if TYPE_CHECKING:
    from tl_toxmem.trace.plan import Plan


def highest(estimates: Float[Tensor, " cell"], one: "Plan", *, top: int) -> list[int]:
    """Which of a prompt's cells are measured.

    The `top` of each panel, all that are severed or parts, and what the severed ones are compared with.
    """
    chosen = []
    by_panel: dict[int, list[int]] = {}
    severed = {cell.pos for cell in one.cells.values() if cell.severed}
    for i, ((panel, _, pos), cell) in enumerate(one.cells.items()):
        beside = cell.site == "resid_post" and pos in severed
        if cell.severed or beside or pos < 0:
            chosen.append(i)
        else:
            by_panel.setdefault(panel, []).append(i)
    for members in by_panel.values():
        ranked = sorted(members, key=lambda i: -float(estimates[i]))
        chosen += ranked[:top]
    return sorted(chosen)


def neighbours(values: Float[Tensor, " cell"], one: "Plan", measured: Sequence[int]) -> list[int]:
    """Cells beside the highest measured one of each panel, in layer or token, that are not measured yet.

    Effects change smoothly over layers, most of all in windows, so the true maximum is rarely far from the best that an
    estimate led to.

    Args:
        values: of the metric, so signed that higher is more, of all cells.
        one: the prompt.
        measured: which of its cells are measured.
    """
    places = list(one.cells)
    known = set(measured)
    best: dict[int, int] = {}
    for i in measured:
        panel, _, pos = places[i]
        if pos >= 0 and (panel not in best or values[i] > values[best[panel]]):
            best[panel] = i
    number = {place: i for i, place in enumerate(places)}
    found = set()
    for panel, i in best.items():
        _, layer, pos = places[i]
        for step in range(-_REACH, _REACH + 1):
            found.add(number.get((panel, layer + step, pos)))
        for step in (-1, 1):
            found.add(number.get((panel, layer, pos + step)))
    return sorted(i for i in found if i is not None and i not in known)


def run_estimates(
    group: Group,
    cells: Sequence[Sequence[Cell]],
    *,
    max_bytes: float,
    advance: Callable[[float], object],
) -> list[Float[Tensor, "metric cell"]]:
    """What restoring each cell adds to each metric, by prompt, run by the group's own model."""
    flat = [cell for own in cells for cell in own]
    values = run_cells(group, flat, max_bytes=max_bytes, advance=advance)
    n = group.n_draws
    found, start = [], 0
    for i, own in enumerate(cells):
        corrupted = group.corrupted_values[:, i * n : (i + 1) * n].mean(1)
        found.append(values[:, start : start + len(own)] - corrupted[:, None])
        start += len(own)
    return found


def gradient_estimates(
    group: Group, cells: Sequence[Sequence[Cell]], *, max_bytes: float
) -> list[Float[Tensor, "metric cell"]]:
    """The same to first order, in the first metric only; NaN in the others, and 0 for parts and severed cells."""
    sites = list(dict.fromkeys(cell.site for own in cells for cell in own))
    n_rows, size = len(group.mask), max(1, int(max_bytes / graph_bytes(group.model, group.width)))
    pieces = [
        _products(group, sites, torch.arange(start, min(start + size, n_rows)))
        for start in range(0, n_rows, size)
    ]
    products = {}
    for site in sites:
        rows = torch.cat([piece[site] for piece in pieces], dim=1)
        products[site] = rows.view(len(rows), -1, group.n_draws, group.width).mean(2)
    found = []
    for own in cells:
        estimates = torch.full((len(group.measure.names), len(own)), torch.nan)
        for k, cell in enumerate(own):
            column = group.column(cell.prompt, cell.pos)
            layers = products[cell.site][cell.layers.start : cell.layers.stop]
            first_order = layers[:, cell.prompt, column].sum()
            estimates[0, k] = 0 if cell.severed or cell.onwards else first_order
        found.append(estimates)
    return found


def graph_bytes(model: LensModel, width: int) -> float:
    """Bytes of a forward and a backward pass of one row; see `memory.tokens_for_gradients`."""
    layer = 10 * model.d_mlp + 16 * model.d_model
    return float(model.dtype.itemsize * width * model.n_layers * layer)


def _products(
    group: Group, sites: Sequence[Site], rows: Int[Tensor, " row"]
) -> dict[Site, Float[Tensor, "layer row pos"]]:
    """Gradient x (clean - corrupted), summed over each state, of some rows of the corrupted run."""
    found: dict[tuple[Site, int], Tensor] = {}

    def grab(key: tuple[Site, int]) -> HookFn:
        def hook(state: Tensor) -> None:
            found[key] = state

        return hook

    keys = [(site, layer) for site in sites for layer in range(group.model.n_layers)]
    hooks: list[Hook] = [("embed", 0, lambda _: group.embeddings[rows].requires_grad_(True))]
    hooks += [(*key, grab(key)) for key in keys]
    prompts = group.prompts[rows]
    with torch.enable_grad(), group.model.hooks(hooks):
        logits = group.model.host.forward(group.tokens[rows], group.mask[rows], group.measure.keep)
        total = group.measure(logits, prompts)[0].sum()
        gradients = torch.autograd.grad(total, [found[key] for key in keys])
    products: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for (site, layer), gradient in zip(keys, gradients, strict=True):
        change = group.clean[site, layer][prompts] - found[site, layer].detach()
        products[site].append((change * gradient).float().sum(-1).cpu())
    return {site: torch.stack(layers) for site, layers in products.items()}
