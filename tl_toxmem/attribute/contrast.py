"""Contrast: how much more a neuron writes on adversarial prompts than on benign ones.

At the positions that predict the target: mean activation on a prompt, minus the mean over the benign prompts, times the
length of the neuron's value vector, so that neurons of different layers compare.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.auroc import Place
from tl_toxmem.attribute.batches import Batch, aligned, each_prompt, value_lengths
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.attribute.texts import Texts
from tl_toxmem.config import AttributeConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import PromptTokens

TOKENS = 512
"""In a batch."""


def contrast(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,
) -> NeuronScores:
    """Score every neuron by its activation on the prompts against that on benign ones.

    Raises:
        ToxmemError: no prompts, no benign prompts, or one that does not fit the model.
    """
    if texts is None or texts.benign is None or not len(texts.benign):
        raise ToxmemError(
            "attribution by 'contrast' needs benign prompts: give texts=Texts(benign=...)"
        )
    items = aligned(model, prompts)
    benign = _activations(model, aligned(model, texts.benign)).mean(0)
    found = (_activations(model, items) - benign) * value_lengths(model)
    facts = {"n_benign": len(texts.benign)}
    return NeuronScores.of_prompts(
        "contrast", found, prompts, seed=cfg.seed, model=model, facts=facts
    )


def _activations(
    model: LensModel, items: Sequence[PromptTokens]
) -> Float[Tensor, "prompt layer d_mlp"]:
    """Mean activations at the positions that predict the target."""
    return each_prompt(model, _means, items, "activations", most=TOKENS)


def _means(model: LensModel, batch: Batch) -> Float[Tensor, "batch layer d_mlp"]:
    places: list[Place] = [("mlp_post", layer) for layer in range(model.n_layers)]
    _, states = model.capture(batch.tokens, batch.mask, sites=places, keep=1)
    weight = batch.predicting().float()
    weight = (weight / weight.sum(1, keepdim=True))[..., None]
    return torch.stack([(states[at].float() * weight).sum(1).cpu() for at in places], dim=1)
