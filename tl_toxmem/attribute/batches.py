"""Prompts with their targets in batches, and what the methods need of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.careful import Careful
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.progress import in_batches
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import PromptTokens, align, target_batch, target_log_prob


@dataclass(frozen=True)
class Batch:
    """A few prompts with all of their targets but the last token, left-padded.

    Attributes:
        items: the prompts.
        rows: of the prompt set.
        tokens: [batch, pos].
        mask: [batch, pos].
        keep: how many last positions predict targets.
    """

    items: list[PromptTokens]
    rows: slice
    tokens: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    keep: int

    def log_prob(self, logits: Float[Tensor, "batch kept d_vocab"]) -> Float[Tensor, " batch"]:
        """Log-probability of each whole target, in nats."""
        return target_log_prob(logits, self.items)

    def predicting(self) -> Int[Tensor, "batch pos"]:
        """1 at the positions that predict the target's tokens, 0 elsewhere."""
        found = torch.zeros_like(self.mask)
        for row, item in enumerate(self.items):
            found[row, -len(item.target) :] = 1
        return found


def aligned(model: LensModel, prompts: PromptSet) -> list[PromptTokens]:
    """The prompts in tokens.

    Raises:
        ToxmemError: no prompts, or one that does not fit the model.
    """
    items = align(model, prompts)
    if not items:
        raise ToxmemError("nothing to attribute: the prompt set is empty")
    return items


def gradients_of(model: LensModel, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Per layer the neurons' activations, and the gradients of the targets' log-probability there."""
    return model.gradients(
        batch.tokens,
        batch.mask,
        metric=lambda logits: batch.log_prob(logits).sum(),
        keep=batch.keep,
    )


def value_lengths(model: LensModel) -> Float[Tensor, "layer d_mlp"]:
    """The length of every neuron's value vector."""
    return torch.stack(
        [model.value_vectors(layer).float().norm(dim=1).cpu() for layer in range(model.n_layers)]
    )


def scored(
    model: LensModel,
    items: Sequence[PromptTokens],
    description: str,
    score: Callable[[Batch], Float[Tensor, "batch ..."]],
    *,
    size: int,
    most: int,
) -> Float[Tensor, "prompt ..."]:
    """What `score` says of every prompt, in batches of at most `size` prompts and `most` tokens; see `Careful`."""

    def of(some: Sequence[int]) -> Tensor:
        own = [items[i] for i in some]
        tokens, mask, keep = target_batch(model, own)
        return score(Batch(own, slice(some[0], some[-1] + 1), tokens, mask, keep))

    run = Careful(of, what="scores", model=model, name=lambda i: items[i].called())
    found, numbers = [], range(len(items))
    for some in in_batches(
        numbers, size, description, length=lambda i: len(items[i].full), most=max(1, most)
    ):
        found += run(some)
    return torch.cat(found)
