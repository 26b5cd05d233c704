"""Gradient x activation: what deleting a neuron takes from the target, to first order.

With `a` a neuron's activation after the nonlinearity (`mlp.hook_post`) and `g` the gradient of the whole target's
log-probability there, the score of a prompt is the sum over positions of `g a`. One forward and one backward pass per
batch score all neurons of all layers.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.batches import Batch, aligned, each_prompt, gradients_of
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.attribute.texts import Texts
from tl_toxmem.config import AttributeConfig
from tl_toxmem.memory import tokens_for_gradients
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import PromptSet


def gradient(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,  # noqa: ARG001 - of every method
) -> NeuronScores:
    """Score every neuron by gradient x activation.

    Raises:
        ToxmemError: no prompts, or one that does not fit the model.
    """
    items, most = aligned(model, prompts), tokens_for_gradients(model)
    found = each_prompt(model, _products, items, "gradients", size=cfg.batch_size, most=most)
    return NeuronScores.of_prompts("gradient", found, prompts, seed=cfg.seed, model=model)


def _products(model: LensModel, batch: Batch) -> Float[Tensor, "batch layer d_mlp"]:
    activations, gradients = gradients_of(model, batch)
    real = batch.mask[:, :, None]  # padding counts for nothing
    both = zip(activations, gradients, strict=True)
    return torch.stack([(g * a * real).float().sum(1).cpu() for a, g in both], dim=1)
