"""Likelihoods of rows under base and edits: losses, KL from base, and whether the greedy tokens are the right ones."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import kl_div, nll_loss

from tl_toxmem.careful import Carefully
from tl_toxmem.deletion import Deletion
from tl_toxmem.engine import spread
from tl_toxmem.evaluation.rows import Row
from tl_toxmem.memory import tokens_for_logits
from tl_toxmem.model import LensModel
from tl_toxmem.progress import batched
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import align

MOST_ROWS = 16
"""Of which whole distributions are held."""
_SHOWN = 12  # tokens of a text that is named


def losses(
    model: LensModel, rows: Sequence[Row], *, batch_size: int, description: str
) -> Float[np.ndarray, " row"]:
    """Per row the summed negative log-likelihood of its predicted tokens, nats; hooks that are attached act."""
    careful = Carefully(_losses, what="losses", name=_called)
    found = spread(model, careful, row_batches(model, rows, batch_size), description)
    return torch.cat([torch.zeros(0, dtype=torch.float64), *itertools.chain(*found)]).numpy()


def _losses(model: LensModel, batch: Sequence[Row]) -> Float[Tensor, " row"]:
    return _nll(_logits(model, batch).log_softmax(-1), batch)


def divergences(
    model: LensModel,
    rows: Sequence[Row],
    laws: Mapping[str, Deletion],
    *,
    batch_size: int,
    description: str,
) -> dict[str, Float[np.ndarray, "two row"]]:
    """Per law and row: the negative log-likelihood and KL(base || law), both summed over predicted tokens, nats."""
    batches = row_batches(model, rows, min(batch_size, MOST_ROWS))
    found = {name: [torch.zeros(2, 0, dtype=torch.float64)] for name in laws}
    careful = Carefully(partial(_divergences, laws=laws), what="losses", name=_called)
    for own in itertools.chain.from_iterable(spread(model, careful, batches, description)):
        for name, values in own.items():
            found[name].append(values)
    return {name: torch.cat(parts, dim=1).numpy() for name, parts in found.items()}


def _divergences(
    model: LensModel, batch: Sequence[Row], *, laws: Mapping[str, Deletion]
) -> dict[str, Float[Tensor, "two row"]]:
    base = _logits(model, batch).log_softmax(-1)
    real = _real(batch, base.shape[1])
    found = {}
    for name, law in laws.items():
        with law.applied(model):
            log_probs = _logits(model, batch).log_softmax(-1)
        # Row by row: whole distributions of all rows are held twice as it is.
        kl = torch.stack([_kl(base[i], log_probs[i]) for i in range(len(batch))])
        kl = torch.where(real.to(kl.device), kl, 0).double().sum(1).cpu()
        found[name] = torch.stack([_nll(log_probs, batch), kl])
    return found


def _kl(
    base: Float[Tensor, "kept d_vocab"], edited: Float[Tensor, "kept d_vocab"]
) -> Float[Tensor, " kept"]:
    return kl_div(edited, base, log_target=True, reduction="none").sum(-1)


def greedy_right(
    model: LensModel, rows: Sequence[Row], *, batch_size: int, description: str
) -> Bool[np.ndarray, " row"]:
    """Per row whether all predicted tokens are the greedy continuation of what is before them."""
    careful = Carefully(_right, what="logits", name=_called)
    found = spread(model, careful, row_batches(model, rows, batch_size), description)
    right = [own for parts in found for own, _ in parts]
    return torch.cat([torch.zeros(0, dtype=torch.bool), *right]).numpy()


def _right(
    model: LensModel, batch: Sequence[Row]
) -> tuple[Bool[Tensor, " row"], Float[Tensor, " token"]]:
    """Also the highest logits, by which it is seen whether they are finite."""
    logits = _logits(model, batch)
    real = _real(batch, logits.shape[1])
    highest, said = (x.cpu() for x in logits.max(-1))
    same = said == _wanted(batch, logits.shape[1])
    return (same | ~real).all(1), highest[real]


def row_batches(model: LensModel, rows: Sequence[Row], size: int) -> list[list[Row]]:
    """Rows that go through the model together."""
    return batched(rows, size, length=lambda row: len(row.tokens), most=tokens_for_logits(model))


def _called(model: LensModel, row: Row) -> str:
    """What to call a row in an error."""
    return f"the text {model.tokenizer.decode(row.tokens[:_SHOWN])!r}..."


def _logits(model: LensModel, batch: Sequence[Row]) -> Float[Tensor, "row kept d_vocab"]:
    """Of the positions before predicted tokens; the last token of a row predicts nothing that is asked for."""
    tokens, mask = model.pad([row.tokens[:-1] for row in batch])
    return model.forward(tokens, mask, keep=max(row.n for row in batch)).float()


def _nll(
    log_probs: Float[Tensor, "row kept d_vocab"], batch: Sequence[Row]
) -> Float[Tensor, " row"]:
    kept = log_probs.shape[1]
    wanted = _wanted(batch, kept).masked_fill(~_real(batch, kept), -100).to(log_probs.device)
    each = nll_loss(log_probs.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none")
    return each.view(len(batch), kept).double().sum(1).cpu()


def _wanted(batch: Sequence[Row], kept: int) -> Int[Tensor, "row kept"]:
    wanted = torch.zeros(len(batch), kept, dtype=torch.long)
    for i, row in enumerate(batch):
        wanted[i, kept - row.n :] = torch.tensor(row.tokens[-row.n :])
    return wanted


def _real(batch: Sequence[Row], kept: int) -> Bool[Tensor, "row kept"]:
    n = torch.tensor([row.n for row in batch])
    return torch.arange(kept)[None] >= kept - n[:, None]


def answered_right(
    model: LensModel, benign: PromptSet, *, batch_size: int
) -> Bool[np.ndarray, " prompt"]:
    """Per benign prompt: whether the greedy continuation begins with the whole target."""
    rows = answered_rows(model, benign)
    return greedy_right(model, rows, batch_size=batch_size, description="benign prompts")


def answered_rows(model: LensModel, benign: PromptSet) -> list[Row]:
    """Benign prompts with the targets that are right."""
    return [
        Row([*item.tokens, *item.target], len(item.target), i)
        for i, item in enumerate(align(model, benign))
    ]
