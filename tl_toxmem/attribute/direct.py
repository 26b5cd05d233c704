"""Direct effect: what a neuron writes into the residual stream, seen by the unembedding alone.

The score of a prompt is the sum over the positions that predict the target of `a_i w_i . g`, with `w_i` the neuron's
value vector and `g` the gradient of the target's log-probability by what leaves the last layer: the unembedding
direction of the target, against all other tokens, through the final LayerNorm. What later layers make of the neuron is
not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.batches import Batch, aligned, each_prompt
from tl_toxmem.attribute.onward import CLEAN_TOKENS, Onward
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.attribute.texts import Texts
from tl_toxmem.config import AttributeConfig
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import Neuron
from tl_toxmem.prompts import PromptSet

_VECTORS = 64


def direct_effect(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,  # noqa: ARG001 - of every method
) -> NeuronScores:
    """Score every neuron by its direct effect on the target.

    Raises:
        ToxmemError: no prompts, or one that does not fit the model.
    """
    items = aligned(model, prompts)
    found = each_prompt(model, _direct, items, "direct effect", most=CLEAN_TOKENS)
    return NeuronScores.of_prompts("direct_effect", found, prompts, seed=cfg.seed, model=model)


def _direct(model: LensModel, batch: Batch) -> Float[Tensor, "batch layer d_mlp"]:
    column = batch.tokens.shape[1] - batch.keep
    clean = Onward(model, batch, column=column, neurons=dict.fromkeys(range(model.n_layers)))
    last = clean.leaving[model.n_layers - 1].requires_grad_(True)
    with torch.enable_grad():
        value = batch.log_prob(model.host.unembed(last, batch.keep)).sum()
    direction = torch.autograd.grad(value, last)[0]
    predicting = batch.predicting()[:, column:, None]
    found = []
    for layer in range(model.n_layers):
        seen = direction @ model.value_vectors(layer).T
        found.append((clean.activations[layer] * seen * predicting).float().sum(1).cpu())
    return torch.stack(found, dim=1)


@dataclass(frozen=True)
class Promoted:
    """Tokens whose logits a neuron's value vector raises and lowers most, each with the change in logits."""

    raised: tuple[tuple[str, float], ...]
    lowered: tuple[tuple[str, float], ...]


@torch.no_grad()
def promoted_tokens(
    model: LensModel,
    neurons: Sequence[Neuron],
    activations: Sequence[float],
    *,
    resid: Float[Tensor, " d_model"],
    n: int = 10,
) -> list[Promoted]:
    """What each neuron's write does to the logits by itself, through the final LayerNorm.

    Args:
        model: on any host.
        neurons: which.
        activations: how active each is taken to be, such as its highest activation on some prompts.
        resid: a residual stream that leaves the last layer, to which the write is added.
        n: tokens at each end.
    """
    found = []
    base = model.host.unembed(resid[None, None], 1)[0, 0].float()
    for start in range(0, len(neurons), _VECTORS):
        some = neurons[start : start + _VECTORS]
        writes = [
            a * model.value_vectors(layer)[i]
            for (layer, i), a in zip(some, activations[start : start + _VECTORS], strict=True)
        ]
        logits = model.host.unembed((resid + torch.stack(writes))[:, None], 1)[:, 0].float()
        for change in logits - base:
            high, low = change.topk(n), (-change).topk(n)
            found.append(
                Promoted(
                    tuple(zip(_words(model, high.indices), high.values.tolist(), strict=True)),
                    tuple(zip(_words(model, low.indices), (-low.values).tolist(), strict=True)),
                )
            )
    return found


def _words(model: LensModel, tokens: Tensor) -> list[str]:
    return [str(model.tokenizer.decode([token])) for token in tokens.tolist()]
