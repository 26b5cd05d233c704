"""Going on from a layer's output with something changed: what ablations and path integrals have in common.

A batch is run once; then any number of changed copies of its rows go on from where they differ: from the changed
layer's output, at the positions from `column` on (the earlier ones are as in the clean run, whose keys and values are
kept), and only what predicts the targets is unembedded.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.attribute.batches import Batch
from tl_toxmem.model import HookFn, LensModel
from tl_toxmem.sites import Site
from tl_toxmem.tokens import target_log_prob

CLEAN_TOKENS = 256
"""Of prompts that are run clean together, whose states are kept."""
BEST_TOKENS = 1024
"""Of changed rows that go up the layers together; larger batches are no faster and take more memory."""


def rows_of_sweep(n_new: int) -> int:
    """How many changed rows of so many positions go up the layers together."""
    return max(1, BEST_TOKENS // n_new)


def sizes_of_sweeps(layers: Sequence[int], *, n_new: int, n_layers: int, most: int) -> list[int]:
    """How many runs go into each sweep: by the tokens x layers above that they keep for their gradients.

    Args:
        layers: where each run begins, in rising order.
        n_new: tokens of a run.
        n_layers: of the model.
        most: tokens x layers that a sweep may keep.
    """
    sizes: list[int] = []
    kept = 0
    for layer in layers:
        own = n_new * max(1, n_layers - 1 - layer)
        tokens = (sizes[-1] + 1) * n_new if sizes else 0
        if not sizes or kept + own > most or tokens > BEST_TOKENS:
            sizes.append(0)
            kept = 0
        sizes[-1] += 1
        kept += own
    return sizes


class Onward:
    """A batch's clean run, to go on from.

    Attributes:
        leaving: per layer [batch, new, d_model] what leaves it, at the positions from `column` on.
        activations: per layer [batch, new, neuron] of the wanted neurons, likewise.
        log_prob: [batch] of the whole targets, in nats.
    """

    def __init__(
        self,
        model: LensModel,
        batch: Batch,
        *,
        column: int,
        neurons: dict[int, Int[Tensor, " neuron"] | None],
    ) -> None:
        """Run the batch.

        Args:
            model: on any host.
            batch: of prompts.
            column: first position that will differ.
            neurons: per layer that will be gone on from, the neurons whose activations are wanted; None for all.
        """
        self.model, self.batch, self.column = model, batch, column
        self.leaving: dict[int, Tensor] = {}
        self.activations: dict[int, Tensor] = {}

        def keep(into: dict[int, Tensor], layer: int, some: Tensor | None) -> HookFn:
            def hook(state: Tensor) -> None:
                new = state[:, column:]
                into[layer] = new.clone() if some is None else new[..., some]

            return hook

        hooks: list[tuple[Site, int, HookFn]] = []
        for layer, some in neurons.items():
            hooks.append(("resid_post", layer, keep(self.leaving, layer, None)))
            hooks.append(("mlp_post", layer, keep(self.activations, layer, some)))
        with torch.no_grad(), model.hooks(hooks):
            logits, self._past = model.host.forward_cached(batch.tokens, batch.mask, batch.keep)
        self.log_prob: Float[Tensor, " batch"] = batch.log_prob(logits)

    @property
    def n_new(self) -> int:
        """Positions that are run."""
        return self.batch.tokens.shape[1] - self.column

    def run(
        self, joins: Sequence[tuple[int, Float[Tensor, "_ new d_model"]]], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """Log-probability of the whole target of each changed row, in nats.

        Args:
            joins: in rising order of layers, the layer and what leaves it, of the next few of `rows`.
            rows: of the batch.
        """
        model = self.model
        suffix = model.host.suffix(self.batch.mask[rows], self.n_new)
        waiting = list(joins)
        resid = waiting[0][1][:0]
        for layer in range(waiting[0][0], model.n_layers):
            if len(resid):
                past = self._past[layer].first(self.column, rows[: len(resid)])
                resid = suffix.block(layer, resid, past)
            new: Iterable[Tensor] = [state for at, state in waiting if at == layer]
            resid = torch.cat([resid, *new])
        logits = model.host.unembed(resid, self.batch.keep)
        return target_log_prob(logits, [self.batch.items[row] for row in rows.tolist()])
