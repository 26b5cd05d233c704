"""Likelihoods of rows under base and edits: losses, KL from base, and whether the greedy tokens are the right ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from tl_toxmem.careful import Careful
from tl_toxmem.deletion import Deletion
from tl_toxmem.evaluation.rows import Row
from tl_toxmem.memory import tokens_for_logits
from tl_toxmem.model import LensModel
from tl_toxmem.progress import batched, track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import align

MOST_ROWS = 16
"""Of which whole distributions are held."""
_SHOWN = 12  # tokens of a text that is named


def losses(
    model: LensModel, rows: Sequence[Row], *, batch_size: int, description: str
) -> Float[np.ndarray, " row"]:
    """Per row the summed negative log-likelihood of its predicted tokens, nats; hooks that are attached act."""
    found = [torch.zeros(0, dtype=torch.float64)]
    run = Careful(
        lambda some: _nll(_logits(model, some), some),
        what="losses",
        model=model,
        name=_called(model),
    )
    for batch in _batches(model, rows, batch_size, description):
        found += run(batch)
    return torch.cat(found).numpy()


def divergences(
    model: LensModel,
    rows: Sequence[Row],
    laws: Mapping[str, Deletion],
    *,
    batch_size: int,
    description: str,
) -> dict[str, Float[np.ndarray, "two row"]]:
    """Per law and row: the negative log-likelihood and KL(base || law), both summed over predicted tokens, nats."""
    found = {name: [torch.zeros(2, 0, dtype=torch.float64)] for name in laws}

    def under_each(batch: Sequence[Row]) -> dict[str, Tensor]:
        base = _logits(model, batch).log_softmax(-1)
        real = _real(batch, base.shape[1])
        both = {}
        for name, law in laws.items():
            with law.applied(model):
                logits = _logits(model, batch)
            nll = _nll(logits, batch)
            kl = kl_div(logits.log_softmax(-1), base, log_target=True, reduction="none").sum(-1)
            kl = torch.where(real.to(kl.device), kl, 0).double().sum(1).cpu()
            both[name] = torch.stack([nll, kl])
        return both

    run = Careful(under_each, what="losses", model=model, name=_called(model))
    for batch in _batches(model, rows, min(batch_size, MOST_ROWS), description):
        for part in run(batch):
            for name, both in part.items():
                found[name].append(both)
    return {name: torch.cat(parts, dim=1).numpy() for name, parts in found.items()}


def greedy_right(
    model: LensModel, rows: Sequence[Row], *, batch_size: int, description: str
) -> Bool[np.ndarray, " row"]:
    """Per row whether all predicted tokens are the greedy continuation of what is before them."""
    found = [torch.zeros(0, dtype=torch.bool)]

    def right(batch: Sequence[Row]) -> tuple[Tensor, Tensor]:
        logits = _logits(model, batch)
        real = _real(batch, logits.shape[1])
        highest, said = (x.cpu() for x in logits.max(-1))
        same = said == _wanted(batch, logits.shape[1])
        return (same | ~real).all(1), highest[real]

    run = Careful(right, what="logits", model=model, name=_called(model))
    for batch in _batches(model, rows, batch_size, description):
        found += [part for part, _ in run(batch)]
    return torch.cat(found).numpy()


def row_batches(model: LensModel, rows: Sequence[Row], size: int) -> list[list[Row]]:
    """Rows that go through the model together."""
    most = tokens_for_logits(model)
    return batched(rows, size, length=lambda row: len(row.tokens), most=most)


def _batches(
    model: LensModel, rows: Sequence[Row], size: int, description: str
) -> Iterator[list[Row]]:
    batches = row_batches(model, rows, size)
    return track(batches, description, total=len(batches))


def _called(model: LensModel) -> Callable[[Row], str]:
    """What to call a row in an error."""
    return lambda row: f"the text {model.tokenizer.decode(row.tokens[:_SHOWN])!r}..."


def _logits(model: LensModel, batch: Sequence[Row]) -> Float[Tensor, "row kept d_vocab"]:
    """Of the positions before predicted tokens; the last token of a row predicts nothing that is asked for."""
    tokens, mask = model.pad([row.tokens[:-1] for row in batch])
    return model.forward(tokens, mask, keep=max(row.n for row in batch)).float()


def _nll(logits: Float[Tensor, "row kept d_vocab"], batch: Sequence[Row]) -> Float[Tensor, " row"]:
    kept = logits.shape[1]
    wanted = _wanted(batch, kept).masked_fill(~_real(batch, kept), -100).to(logits.device)
    each = cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none"
    )
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
