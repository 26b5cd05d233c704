"""Scores from labelled text: expert neurons, and value vectors along a toxicity probe.

- experts (Suau et al. 2022, 2024): a neuron's highest activation over a text's tokens is read as a score of the text;
  its AUROC for toxic against other texts, minus a half, so that 0 is chance.
- probe (Lee et al. 2024): the cosine of a neuron's value vector with the direction of a logistic probe, trained on the
  mean over tokens of what leaves the last layer. A fifth of the texts is held out and gives the probe's accuracy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.auroc import Place, aurocs, passes
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.attribute.texts import Labelled, Texts, labelled_of
from tl_toxmem.config import AttributeConfig
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import PromptSet


def experts(
    model: LensModel,
    prompts: PromptSet,  # noqa: ARG001 - of every method
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,
) -> NeuronScores:
    """Score every neuron by how well it tells toxic from other texts.

    Raises:
        ToxmemError: no labelled texts, or too few of one class.
    """
    labelled = labelled_of(texts, method="experts")
    places: list[Place] = [("mlp_post", layer) for layer in range(model.n_layers)]
    found = aurocs(model, labelled, places)
    scores = torch.stack([found[place] for place in places])
    n_toxic = sum(one.toxic for one in labelled)
    facts = {"n_toxic": n_toxic, "n_other": len(labelled) - n_toxic}
    return NeuronScores.of_neurons("experts", scores - 0.5, seed=cfg.seed, model=model, facts=facts)


def probe(
    model: LensModel,
    prompts: PromptSet,  # noqa: ARG001 - of every method
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,
) -> NeuronScores:
    """Score every neuron by the cosine of its value vector with a toxicity probe.

    Raises:
        ToxmemError: no labelled texts, or too few of one class.
    """
    fitted = fit_probe(model, labelled_of(texts, method="probe"), seed=cfg.seed)
    scores = []
    for layer in range(model.n_layers):
        vectors = model.value_vectors(layer).float().cpu()
        scores.append(torch.nn.functional.cosine_similarity(vectors, fitted.direction[None], dim=1))
    return NeuronScores.of_neurons(
        "probe", torch.stack(scores), seed=cfg.seed, model=model, facts=dict(fitted.facts)
    )


@dataclass(frozen=True)
class Probe:
    """A toxicity probe on what leaves the last layer.

    Attributes:
        direction: [d_model] in the residual stream, towards toxic.
        length: of the state at a token that it was trained on, the mean.
        facts: how well it tells held-out texts apart.
    """

    direction: Float[Tensor, " d_model"]
    length: float
    facts: Mapping[str, float]


def fit_probe(model: LensModel, labelled: Sequence[Labelled], *, seed: int) -> Probe:
    """Train a logistic probe on each text's mean state (Lee et al. 2024).

    Raises:
        ToxmemError: a text without tokens.
    """
    toxic = np.array([one.toxic for one in labelled])
    means = torch.zeros(len(labelled), model.d_model)
    length, n_tokens = 0.0, 0
    last: Place = ("resid_post", model.n_layers - 1)
    for rows, mask, found in passes(model, labelled, [last]):
        state = found[last].float() * mask[..., None]
        means[rows] = (state.sum(1) / mask.sum(1, keepdim=True)).cpu()
        length += float(state.norm(dim=-1).sum())
        n_tokens += int(mask.sum())
    direction, facts = _direction(means.numpy(), toxic, seed=seed)
    return Probe(direction, length / n_tokens, facts)


def _direction(
    means: Any, toxic: Any, *, seed: int
) -> tuple[Float[Tensor, " d_model"], dict[str, float]]:
    """The probe's direction in the residual stream, and how well it tells held-out texts apart."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    split = train_test_split(means, toxic, test_size=0.2, random_state=seed, stratify=toxic)
    train, held_out, train_labels, held_out_labels = split
    scaler = StandardScaler().fit(train)
    fitted = LogisticRegression(max_iter=1000).fit(scaler.transform(train), train_labels)
    accuracy = float(fitted.score(scaler.transform(held_out), held_out_labels))
    facts = {
        "held_out_accuracy": accuracy,
        "held_out_majority": float(max(held_out_labels.mean(), 1 - held_out_labels.mean())),
    }
    direction = fitted.coef_[0] / scaler.scale_
    return torch.from_numpy(direction).float(), facts
