"""Prompts with their targets in batches, and what the methods need of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.careful import Carefully
from tl_toxmem.engine import spread
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.progress import batched
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import PromptTokens, align, called, target_batch, target_log_prob


@dataclass(frozen=True)
class Batch:
    """A few prompts with all of their targets but the last token, left-padded.

    Attributes:
        items: the prompts.
        tokens: [batch, pos].
        mask: [batch, pos].
        keep: how many last positions predict targets.
    """

    items: list[PromptTokens]
    tokens: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    keep: int

    @classmethod
    def of(cls, model: LensModel, items: Sequence[PromptTokens]) -> "Batch":
        """Put prompts together, where the model is."""
        return cls([*items], *target_batch(model, [*items]))

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


def batches(
    items: Sequence[PromptTokens], *, most: int, size: int | None = None
) -> list[list[PromptTokens]]:
    """The prompts of batches of at most `size` prompts (any for None) and `most` tokens."""
    size = size or max(1, len(items))
    return batched(items, size, length=lambda item: len(item.full), most=max(1, most))


def each_prompt(
    model: LensModel,
    work: Callable[[LensModel, Batch], Float[Tensor, "batch layer d_mlp"]],
    items: Sequence[PromptTokens],
    description: str,
    *,
    most: int,
    size: int | None = None,
) -> Float[Tensor, "prompt layer d_mlp"]:
    """What a method finds of every neuron in every prompt, batch by batch (see `batches`), on the CPU."""
    found, start = torch.zeros(len(items), model.n_layers, model.d_mlp), 0
    careful = Carefully(partial(_of_batch, work=work), what="scores", name=called)
    for parts in spread(model, careful, batches(items, most=most, size=size), description):
        for own in parts:
            found[start : start + len(own)] = own
            start += len(own)
    return found


def _of_batch(
    model: LensModel, items: Sequence[PromptTokens], *, work: Callable[[LensModel, Batch], Tensor]
) -> Float[Tensor, "batch layer d_mlp"]:
    return work(model, Batch.of(model, items))
