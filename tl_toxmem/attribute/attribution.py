"""`attribute_neurons`: a method's scores, what removing each neuron costs, and the check of the highest."""

import random
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from tl_toxmem.attribute.ablation import ablation, measure_ablations
from tl_toxmem.attribute.contrast import contrast
from tl_toxmem.attribute.cost import with_cost
from tl_toxmem.attribute.direct import direct_effect
from tl_toxmem.attribute.gradient import gradient
from tl_toxmem.attribute.integrated import integrated_gradients, knowledge_neurons
from tl_toxmem.attribute.labelled import experts, probe
from tl_toxmem.attribute.patching import attribution_patching, grad_drop
from tl_toxmem.attribute.scores import NeuronScores, highest
from tl_toxmem.attribute.texts import Texts
from tl_toxmem.attribute.verification import Verification
from tl_toxmem.checks import prompt_set, whole
from tl_toxmem.config import AttributeConfig
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import Neuron
from tl_toxmem.prompts import PromptSet


class Method(Protocol):
    """What every method of attribution is."""

    def __call__(
        self,
        model: LensModel,
        prompts: PromptSet,
        *,
        cfg: AttributeConfig,
        texts: Texts | None = None,
    ) -> NeuronScores:
        """Score every neuron."""
        ...


METHODS: Mapping[str, Method] = {
    "gradient": gradient,
    "attribution_patching": attribution_patching,
    "grad_drop": grad_drop,
    "integrated_gradients": integrated_gradients,
    "knowledge_neurons": knowledge_neurons,
    "direct_effect": direct_effect,
    "contrast": contrast,
    "experts": experts,
    "probe": probe,
    "ablation": ablation,
}


def attribute_neurons(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig | None = None,
    texts: Texts | None = None,
    neutral: Sequence[str] | None = None,
) -> NeuronScores:
    """Score every MLP neuron by `cfg.method`, estimate its cost, and check the highest by really ablating them.

    Args:
        model: any host; processed weights are fine, since `hook_post` is the same.
        prompts: with their targets.
        cfg: the method and its settings, how many to check.
        texts: what some methods need besides (labelled texts, benign prompts), and neutral text.
        neutral: short for `texts=Texts(neutral=...)`.

    Raises:
        ToxmemError: no prompts, one that does not fit the model, a method without its texts, or neutral text without
            two tokens.
    """
    prompt_set(prompts)
    cfg, texts = cfg or AttributeConfig(), texts or Texts()
    scores = METHODS[cfg.method](model, prompts, cfg=cfg, texts=texts)
    documents = neutral if neutral is not None else texts.neutral
    if documents is not None:
        scores = with_cost(model, scores, documents, cfg=cfg)
    if cfg.verify_top or cfg.verify_random:
        scores = scores.verified(verify(model, prompts, scores, k=cfg.verify_top, cfg=cfg))
    return scores


def verify(
    model: LensModel,
    prompts: PromptSet,
    scores: NeuronScores,
    *,
    k: int,
    cfg: AttributeConfig | None = None,
) -> Verification:
    """Measure what ablating the `k` highest does, and `cfg.verify_random` of the others at random.

    Args:
        model: that the scores are of.
        prompts: `cfg.verify_prompts` of them are measured on (lowest hash first).
        scores: of any method.
        k: how many; the smaller of it and the model.
        cfg: the random sample's size, the prompts, zero or mean, the seed.

    Raises:
        ToxmemError: scores of a model of another shape, k below 0, a mean without neutral text.
    """
    cfg = cfg or AttributeConfig()
    prompt_set(prompts)
    scores.check_model(model)
    top, sample = _to_verify(scores, k=k, n=cfg.verify_random, seed=cfg.seed)
    neurons = [*top, *sample]
    mean = scores.mean_activation if cfg.verify_law == "mean" else None
    some = prompts.first(cfg.verify_prompts)
    measured = measure_ablations(model, some, neurons, mean_activation=mean)
    index = torch.tensor(neurons, dtype=torch.long).reshape(-1, 2)
    return Verification(
        neurons=index,
        is_top=torch.arange(len(neurons)) < len(top),
        scores=scores.scores[index[:, 0], index[:, 1]],
        measured=measured,
        n_rest=scores.scores.numel() - len(top),
        law=cfg.verify_law,
        seed=cfg.seed,
    )


def _to_verify(
    scores: NeuronScores, *, k: int, n: int, seed: int
) -> tuple[list[Neuron], list[Neuron]]:
    """The highest, and a random sample of the others."""
    values = scores.scores
    top = highest(values, min(whole(k, "k"), values.numel()))
    chosen = set(top)
    n_layers, d_mlp = values.shape
    rest = [(i, j) for i in range(n_layers) for j in range(d_mlp) if (i, j) not in chosen]
    return top, random.Random(seed).sample(rest, min(n, len(rest)))
