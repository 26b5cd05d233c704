"""What removing a neuron costs on neutral text.

`cost[layer, i] = sqrt(mean over neutral tokens of (g a)^2)` with `g` the gradient of a document's summed loss: the
diagonal-Fisher estimate (as in Taylor pruning, Molchanov et al. 2017). The same pass gives each neuron's mean
activation, and its loudness: root mean square activation x length of its value vector.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tl_toxmem.attribute.batches import value_lengths
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.careful import Careful
from tl_toxmem.config import AttributeConfig
from tl_toxmem.memory import tokens_for_gradients
from tl_toxmem.model import LensModel
from tl_toxmem.neutral import encode_documents, next_token_log_probs
from tl_toxmem.progress import in_batches

PIECE = 128
"""Tokens of a row of neutral text: gradients of a longer one need much more memory."""


def with_cost(
    model: LensModel, scores: NeuronScores, neutral: Sequence[str], *, cfg: AttributeConfig
) -> NeuronScores:
    """The scores with costs, mean activations and loudness of all neurons.

    Raises:
        ToxmemError: neutral text without two tokens.
    """
    shape = model.n_layers, model.d_mlp
    fisher, sums, squares = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
    n_tokens = 0
    rows = encode_documents(model, neutral, max_tokens=cfg.max_cost_tokens, piece=PIECE)
    most = tokens_for_gradients(model)

    def of(batch: Sequence[list[int]]) -> tuple[Tensor, int]:
        tokens, mask = model.pad(batch)
        activations, gradients = model.gradients(
            tokens,
            mask,
            metric=lambda logits: -next_token_log_probs(logits, tokens, mask).sum(),
        )
        real = mask[:, :, None]
        found = [
            torch.stack(
                [
                    (((g * a).float() ** 2) * real).sum((0, 1)).cpu(),
                    (a.float() * real).sum((0, 1)).cpu(),
                    (a.float() ** 2 * real).sum((0, 1)).cpu(),
                ]
            )
            for a, g in zip(activations, gradients, strict=True)
        ]
        return torch.stack(found, dim=1), int(mask.sum())

    run = Careful(of, what="costs", model=model, name=lambda row: f"a text of {len(row)} tokens")
    for batch in in_batches(rows, cfg.batch_size, "cost", length=len, most=most):
        for found, n in run(batch):
            for total, more in zip((fisher, sums, squares), found, strict=True):
                total += more
            n_tokens += n
    return replace(
        scores,
        cost=(fisher / n_tokens).sqrt(),
        mean_activation=sums / n_tokens,
        loudness=(squares / n_tokens).sqrt() * value_lengths(model),
    )
