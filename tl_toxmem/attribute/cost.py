"""What removing a neuron costs on neutral text.

`cost[layer, i] = sqrt(mean over neutral tokens of (g a)^2)` with `g` the gradient of a document's summed loss: the
diagonal-Fisher estimate (as in Taylor pruning, Molchanov et al. 2017). The same pass gives each neuron's mean
activation, and its loudness: root mean square activation x length of its value vector.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.batches import value_lengths
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.careful import Carefully
from tl_toxmem.config import AttributeConfig
from tl_toxmem.engine import spread
from tl_toxmem.memory import tokens_for_gradients
from tl_toxmem.model import LensModel
from tl_toxmem.neutral import called, encode_documents, next_token_log_probs
from tl_toxmem.progress import batched

PIECE = 128
"""Tokens of a row of neutral text: gradients of a longer one need much more memory."""


def with_cost(
    model: LensModel, scores: NeuronScores, neutral: Sequence[str], *, cfg: AttributeConfig
) -> NeuronScores:
    """The scores with costs, mean activations and loudness of all neurons.

    Raises:
        ToxmemError: neutral text without two tokens.
    """
    rows = encode_documents(model, neutral, max_tokens=cfg.max_cost_tokens, piece=PIECE)
    batches = batched(rows, cfg.batch_size, length=len, most=tokens_for_gradients(model))
    total = torch.zeros(3, model.n_layers, model.d_mlp)
    careful = Carefully(_sums, what="costs", name=called)
    for parts in spread(model, careful, batches, "cost"):
        for own in parts:
            total += own
    fisher, sums, squares = total
    n_tokens = sum(map(len, rows))
    return replace(
        scores,
        cost=(fisher / n_tokens).sqrt(),
        mean_activation=sums / n_tokens,
        loudness=(squares / n_tokens).sqrt() * value_lengths(model),
    )


def _sums(model: LensModel, batch: Sequence[list[int]]) -> Float[Tensor, "sum layer d_mlp"]:
    """Over the tokens of a batch: of (g a)^2, of a and of a^2."""
    tokens, mask = model.pad(batch)
    activations, gradients = model.gradients(
        tokens, mask, metric=lambda logits: -next_token_log_probs(logits, tokens, mask).sum()
    )
    real = mask[:, :, None]
    found = torch.zeros(3, model.n_layers, model.d_mlp)
    for layer, (a, g) in enumerate(zip(activations, gradients, strict=True)):
        found[0, layer] = (((g * a).float() ** 2) * real).sum((0, 1)).cpu()
        found[1, layer] = (a.float() * real).sum((0, 1)).cpu()
        found[2, layer] = (a.float() ** 2 * real).sum((0, 1)).cpu()
    return found
