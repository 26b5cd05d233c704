"""Our own decoding loop: left-padded batches, key-value cache, hooks active, an explicit generator.

TransformerLens's `generate` ignores the mask or the cache in several cases and samples from the global
generator; this one is token-identical to `generate` of the baked Hugging Face model.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_toxmem.errors import ToxmemError

_LIKELIEST = 2048
_ROUNDING = 2e-6  # of float32's sums over a vocabulary


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; None for `Sampling` means greedy.

    Filters apply in the order temperature, top_k, top_p, as in transformers.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        top_k = 1 if self.top_k is None else self.top_k
        if not (self.temperature > 0 and 0 < self.top_p <= 1 and top_k >= 1):
            raise ToxmemError(
                f"sampling needs temperature > 0, 0 < top_p <= 1 and top_k >= 1 or None, not {self.temperature}, "
                f"{self.top_p} and {self.top_k}; greedy is sampling=None"
            )


@runtime_checkable
class _Steps(Protocol):
    def step(
        self, new: Int[Tensor, "batch new"], mask: Int[Tensor, "batch pos"], cache: Any
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]: ...


def decode(
    host: _Steps,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    *,
    max_new_tokens: int,
    sampling: Sampling | None,
    generator: torch.Generator | None,
    eos: tuple[int, ...],
    pad: int,
) -> Int[Tensor, "batch longer"]:
    """Prompt and continuation; rows that have reached one of `eos` are filled with `pad`."""
    done = torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
    ends = torch.tensor(eos, dtype=torch.long, device=tokens.device)
    sequence, new, cache = tokens, tokens, None
    for _ in range(max_new_tokens):
        logits, cache = host.step(new, mask, cache)
        token = _draw(logits.float(), sampling, generator).masked_fill(done, pad)
        new = token[:, None]
        sequence = torch.cat([sequence, new], dim=1)
        mask = torch.cat([mask, torch.ones_like(new)], dim=1)
        if eos:
            done = done | torch.isin(token, ends)
            if bool(done.all()):
                break
    return sequence


def _draw(
    logits: Float[Tensor, "batch d_vocab"],
    sampling: Sampling | None,
    generator: torch.Generator | None,
) -> Int[Tensor, " batch"]:
    if sampling is None:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        kth = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1:
        logits = logits.masked_fill(_outside_nucleus(logits, sampling.top_p), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def _outside_nucleus(
    logits: Float[Tensor, "batch d_vocab"], top_p: float
) -> Bool[Tensor, "batch d_vocab"]:
    """The unlikeliest tokens that together have no more than 1 - `top_p`, as transformers drops them.

    Putting the whole vocabulary in order takes longer than all else in drawing. It is done only where the likeliest
    tokens do not settle the matter: the nucleus is larger, ends among equals, or ends within rounding of `top_p`.
    """
    if logits.shape[-1] > _LIKELIEST:
        ordered, index = logits.topk(_LIKELIEST)
        ordered, index = ordered.flip(-1), index.flip(-1)
        total = logits.softmax(-1).gather(-1, index).double().cumsum(-1)
        total += 1 - total[:, -1:]
        drop = total <= 1 - top_p
        n = drop.sum(-1, keepdim=True).clamp(1, _LIKELIEST - 1)
        ends = drop[:, :1] & (ordered.gather(-1, n - 1) < ordered.gather(-1, n))
        if bool(ends.all() & ((total - (1 - top_p)).abs() > _ROUNDING).all()):
            return torch.ones_like(logits, dtype=torch.bool).scatter(-1, index, drop)
    ordered, index = logits.sort(dim=-1)
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[:, -1] = False  # the likeliest token always stays
    return drop.scatter(1, index, drop)
