"""Gradient x activation: what deleting a neuron takes from the target, to first order.

With `a` a neuron's activation after the nonlinearity (`mlp.hook_post`) and `g` the gradient of the whole target's
log-probability there, the score of a prompt is the sum over positions of `g a`. One forward and one backward pass per
batch score all neurons of all layers.
"""

import torch

from tl_toxmem.attribute.batches import aligned, batches, gradients_of
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
    items = aligned(model, prompts)
    found = torch.zeros(len(items), model.n_layers, model.d_mlp)
    most = tokens_for_gradients(model)
    for batch in batches(model, items, "gradients", size=cfg.batch_size, most=most):
        activations, gradients = gradients_of(model, batch)
        real = batch.mask[:, :, None]  # padding counts for nothing
        for layer, (a, g) in enumerate(zip(activations, gradients, strict=True)):
            found[batch.rows, layer] = (g * a * real).float().sum(1).cpu()
    return NeuronScores.of_prompts("gradient", found, prompts, seed=cfg.seed, model=model)
