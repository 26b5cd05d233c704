"""Screening: estimate every cell cheaply, measure only the highest exactly; a trace says which are which.

- bfloat16: all cells are run by a copy of the model in bfloat16, which has the faster matrix products.
- gradient: one forward and one backward pass of the corrupted run. An effect is estimated by its first order, the
  gradient of the metric x (clean - corrupted) summed over the state and, in a window, over its layers (attribution
  patching; Nanda 2023, Kramar et al. 2024). It misses what saturates or cancels, hence the exact check of the highest.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.model import Hook, HookFn
from tl_toxmem.sites import Site
from tl_toxmem.trace.cells import Cell
from tl_toxmem.trace.group import Group
from tl_toxmem.trace.plan import Plan
from tl_toxmem.trace.sweep import run_cells


def highest(estimates: Float[Tensor, " cell"], one: Plan, *, top: int) -> list[int]:
    """Which of a prompt's cells are measured: the `top` of each panel, and all that are severed or parts."""
    chosen = []
    by_panel: dict[int, list[int]] = {}
    for i, ((panel, _, pos), cell) in enumerate(one.cells.items()):
        if cell.severed or pos < 0:
            chosen.append(i)
        else:
            by_panel.setdefault(panel, []).append(i)
    for members in by_panel.values():
        ranked = sorted(members, key=lambda i: -float(estimates[i]))
        chosen += ranked[:top]
    return sorted(chosen)


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
    group: Group, cells: Sequence[Sequence[Cell]]
) -> list[Float[Tensor, "metric cell"]]:
    """The same to first order, in the first metric only; NaN in the others, and 0 for parts and severed cells."""
    sites = list(dict.fromkeys(cell.site for own in cells for cell in own))
    products = _products(group, sites)
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


def _products(group: Group, sites: Sequence[Site]) -> dict[Site, Float[Tensor, "layer prompt pos"]]:
    """Gradient x (clean - corrupted), summed over each state, mean over draws."""
    layers = range(group.model.n_layers)
    found: dict[tuple[Site, int], Tensor] = {}

    def grab(key: tuple[Site, int]) -> HookFn:
        def hook(state: Tensor) -> None:
            found[key] = state

        return hook

    keys = [(site, layer) for site in sites for layer in layers]
    hooks: list[Hook] = [("embed", 0, lambda e: group.corrupt(e).requires_grad_(True))]
    hooks += [(*key, grab(key)) for key in keys]
    with torch.enable_grad(), group.model.hooks(hooks):
        logits = group.model.host.forward(group.tokens, group.mask, group.measure.keep)
        total = group.measure(logits, group.prompts)[0].sum()
        gradients = torch.autograd.grad(total, [found[key] for key in keys])
    products: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for (site, layer), gradient in zip(keys, gradients, strict=True):
        clean = group.clean[site, layer].repeat_interleave(group.n_draws, 0)
        product = ((clean - found[site, layer].detach()) * gradient).float().sum(-1)
        products[site].append(product.view(-1, group.n_draws, product.shape[1]).mean(1).cpu())
    return {site: torch.stack(rows) for site, rows in products.items()}
