"""Scores from labelled text: expert neurons, and value vectors along a toxicity probe.

- experts (Suau et al. 2022, 2024): a neuron's highest activation over a text's tokens is read as a score of the text;
  its AUROC for toxic against other texts, minus a half, so that 0 is chance.
- probe (Lee et al. 2024): the cosine of a neuron's value vector with the direction of a logistic probe, trained on the
  mean over tokens of what leaves the last layer. A fifth of the texts is held out and gives the probe's accuracy.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.attribute.texts import Labelled, Texts, labelled_of
from tl_toxmem.checks import is_text
from tl_toxmem.config import AttributeConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.memory import ACTIVATION_BYTES
from tl_toxmem.model import LensModel
from tl_toxmem.progress import in_batches
from tl_toxmem.prompts import PromptSet
from tl_toxmem.sites import Site

_MAX_TOKENS = 128
_BATCH_TOKENS = 2048
_AT_ONCE = 512
"""Neurons whose texts are ranked at once."""


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
    toxic = np.array([one.toxic for one in labelled])
    peaks = torch.zeros(model.n_layers, len(labelled), model.d_mlp)
    sites: list[tuple[Site, int]] = [("mlp_post", layer) for layer in range(model.n_layers)]
    for rows, mask, found in _passes(model, labelled, sites):
        for layer in range(model.n_layers):
            hidden = found["mlp_post", layer].float().masked_fill(~mask[..., None], -torch.inf)
            peaks[layer, rows] = hidden.max(1).values.cpu()
    scores = torch.stack([_auroc(peaks[layer], toxic) for layer in range(model.n_layers)])
    facts = {"n_toxic": int(toxic.sum()), "n_other": int((~toxic).sum())}
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
    labelled = labelled_of(texts, method="probe")
    toxic = np.array([one.toxic for one in labelled])
    means = torch.zeros(len(labelled), model.d_model)
    last: list[tuple[Site, int]] = [("resid_post", model.n_layers - 1)]
    for rows, mask, found in _passes(model, labelled, last):
        state = found[last[0]].float() * mask[..., None]
        means[rows] = (state.sum(1) / mask.sum(1, keepdim=True)).cpu()
    direction, facts = _direction(means.numpy(), toxic, seed=cfg.seed)
    scores = []
    for layer in range(model.n_layers):
        vectors = model.value_vectors(layer).float().cpu()
        scores.append(torch.nn.functional.cosine_similarity(vectors, direction[None], dim=1))
    return NeuronScores.of_neurons(
        "probe", torch.stack(scores), seed=cfg.seed, model=model, facts=facts
    )


def labelled_tokens(model: LensModel, labelled: Sequence[Labelled]) -> list[list[int]]:
    """The texts in tokens, cut to what is read of them.

    Raises:
        ToxmemError: one without tokens, or with half of a surrogate pair.
    """
    for number, one in enumerate(labelled, start=1):
        if not is_text(one.text):
            raise ToxmemError(f"labelled text {number} has half of a surrogate pair: remove it")
    rows = [model.encode(one.text)[: min(_MAX_TOKENS, model.n_ctx)] for one in labelled]
    if not all(rows):
        raise ToxmemError(f"labelled text {rows.index([]) + 1} has no tokens: remove it")
    return rows


def _passes(
    model: LensModel, labelled: Sequence[Labelled], sites: Sequence[tuple[Site, int]]
) -> Iterator[tuple[slice, Tensor, dict[tuple[Site, int], Tensor]]]:
    """Rows of the texts, their mask and their states, batch by batch."""
    rows = labelled_tokens(model, labelled)
    most = min(_BATCH_TOKENS, max(1, ACTIVATION_BYTES // (4 * len(sites) * model.d_mlp)))
    start = 0
    for batch in in_batches(rows, 64, "labelled text", length=len, most=most):
        tokens, mask = model.pad(batch)
        _, found = model.capture(tokens, mask, sites=sites, keep=1)
        yield slice(start, start + len(batch)), mask.bool(), found
        start += len(batch)


def _auroc(values: Float[Tensor, "text neuron"], toxic: Any) -> Float[Tensor, " neuron"]:
    """The share of (toxic, other) pairs that each column orders rightly, ties counting half: from mean ranks."""
    from scipy.stats import rankdata

    n_toxic, n_other = int(toxic.sum()), int((~toxic).sum())
    found = []
    for some in torch.split(values, _AT_ONCE, dim=1):
        ranks = rankdata(some.numpy(), axis=0)[toxic].sum(0)
        found.append((ranks - n_toxic * (n_toxic + 1) / 2) / (n_toxic * n_other))
    return torch.from_numpy(np.concatenate(found)).float()


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
