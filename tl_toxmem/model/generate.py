"""Our own decoding loop: left-padded batches, key-value cache, hooks active, an explicit source of random numbers.

TransformerLens's `generate` ignores the mask or the cache in several cases and samples from the global
generator; this one is token-identical to `generate` of the baked Hugging Face model. A prompt that is continued several
times is run once, and rows that have ended are run no longer.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_toxmem.errors import NotFinite, ToxmemError

_LIKELIEST = 2048
_ROUNDING = 2e-6  # of float32's sums over a vocabulary
_FEW = (
    0.75  # of the rows: copying their keys and values then costs less than running the others along
)
_GOLDEN, _FIRST, _SECOND = (
    constant - (1 << 64)  # as int64
    for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


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


@dataclass(frozen=True)
class Draws:
    """Where random numbers come from.

    Attributes:
        generator: one for the batch, used as transformers uses the global one.
        seeds: [row] one for each row, in place of it: then a row's tokens depend on no other row, and two models that
            are given the same seed differ only where their distributions do (as much noise for the same token).
    """

    generator: torch.Generator | None = None
    seeds: Int[Tensor, " row"] | None = None


@runtime_checkable
class _Steps(Protocol):
    def step(
        self, new: Int[Tensor, "batch new"], mask: Int[Tensor, "batch pos"], cache: Any
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]: ...

    def take(self, cache: Any, rows: Int[Tensor, " row"]) -> Any: ...


def decode(
    host: _Steps,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    *,
    max_new_tokens: int,
    sampling: Sampling | None,
    draws: Draws,
    copies: int,
    eos: tuple[int, ...],
    pad: int,
) -> Int[Tensor, "row longer"]:
    """Prompt and continuation; rows that have reached one of `eos` are filled with `pad`.

    Raises:
        NotFinite: the logits of a row are not.
    """
    ends = torch.tensor(eos, dtype=torch.long, device=tokens.device)
    logits, cache = host.step(tokens, mask, None)
    live = torch.arange(tokens.shape[0], device=tokens.device).repeat_interleave(copies)
    tokens, mask = tokens[live], mask[live]
    if copies > 1:
        logits, cache = logits[live], host.take(cache, live)
    n_rows, n_prompt = tokens.shape
    mask = torch.cat([mask, mask.new_ones(n_rows, max_new_tokens)], dim=1)
    made = tokens.new_full((n_rows, max_new_tokens), pad)
    total = logits.new_zeros(n_rows, dtype=torch.float64)
    live, done = torch.arange(n_rows, device=tokens.device), mask.new_zeros(n_rows).bool()
    for n in range(max_new_tokens):
        drawn = draw(logits.float(), sampling, draws, live, n)
        token = drawn.masked_fill(done, pad)
        made[live, n] = token
        # Every way of drawing takes NaN or infinity where there is one, so that this look at what was drawn is enough.
        total[live] += logits.gather(-1, drawn[:, None])[:, 0].double()
        if eos:
            done = done | torch.isin(token, ends)
            left = int((~done).sum())
            if not left:
                _check(total)
                return torch.cat([tokens, made[:, : n + 1]], dim=1)
            # A generator's numbers belong to rows by their place.
            own = sampling is None or draws.seeds is not None
            if own and left <= _FEW * len(live):
                stay = (~done).nonzero()[:, 0]
                cache = host.take(cache, stay)
                live, token, done, mask = live[stay], token[stay], done[stay], mask[stay]
        if n + 1 < max_new_tokens:
            logits, cache = host.step(token[:, None], mask[:, : n_prompt + n + 1], cache)
    _check(total)
    return torch.cat([tokens, made], dim=1)


def _check(total: Float[Tensor, " row"]) -> None:
    if not bool(total.isfinite().all()):
        row = int((~total.isfinite()).nonzero()[0, 0])
        raise NotFinite(f"the logits of row {row} are not finite")


def draw(
    logits: Float[Tensor, "batch d_vocab"],
    sampling: Sampling | None,
    draws: Draws,
    live: Int[Tensor, " batch"],
    n: int,
) -> Int[Tensor, " batch"]:
    """The next token of each row; `live` says which rows these are, `n` at which step."""
    if sampling is None:
        return logits.argmax(-1)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    index = None
    if sampling.top_k is not None:
        values, places = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1)
        below = logits < values[:, -1:]
        logits = logits.masked_fill(below, -torch.inf)
        if int((~below).sum()) == values.numel():  # no ties with the last
            index = places
    if draws.seeds is None:
        if sampling.top_p < 1:
            logits = logits.masked_fill(_outside_nucleus(logits, sampling.top_p), -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1, generator=draws.generator)[:, 0]
    seeds = draws.seeds[live]
    if sampling.top_p < 1:
        ordered, index, drop, settled = _nucleus(logits, sampling.top_p)
        token = _least(ordered.masked_fill(drop, -torch.inf), index, seeds, n)
        if not bool(settled.all()):
            ordered, index, drop = _sorted_nucleus(logits[~settled], sampling.top_p)
            kept = ordered.masked_fill(drop, -torch.inf)
            token[~settled] = _least(kept, index, seeds[~settled], n)
        return token
    if index is None:
        index = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape)
        return _least(logits, index, seeds, n)
    return _least(logits.gather(-1, index), index, seeds, n)


def _least(
    logits: Float[Tensor, "batch kept"],
    tokens: Int[Tensor, "batch kept"],
    seeds: Int[Tensor, " batch"],
    n: int,
) -> Int[Tensor, " batch"]:
    """The token of least noise over probability: drawn as often as it is likely."""
    best = (logits - _waiting(seeds, n, tokens).log_()).argmax(-1, keepdim=True)
    return tokens.gather(-1, best)[:, 0]


def _waiting(
    seeds: Int[Tensor, " batch"], n: int, tokens: Int[Tensor, "batch kept"]
) -> Float[Tensor, "batch kept"]:
    """Exponential noise of these tokens at the row's step `n`."""
    key = _mixed(_mixed(seeds) + n)
    bits = _mixed(tokens * _FIRST ^ key[:, None])
    # Least where bits are few, and there a float32 is as fine as they are.
    uniform = (bits >> 11).bitwise_and_((1 << 53) - 1).float().add_(0.5).mul_(2.0**-53)
    return uniform.neg_().log1p_().neg_()


def _mixed(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """splitmix64 (Steele et al. 2014): whole numbers to ones that look random; int64 wraps around."""
    x = x + _GOLDEN
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        x.bitwise_xor_((x >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    return x.bitwise_xor_((x >> 31).bitwise_and_((1 << 33) - 1))


def _outside_nucleus(
    logits: Float[Tensor, "batch d_vocab"], top_p: float
) -> Bool[Tensor, "batch d_vocab"]:
    """The unlikeliest tokens that together have no more than 1 - `top_p`, as transformers drops them."""
    _, index, drop, settled = _nucleus(logits, top_p)
    outside = torch.ones_like(logits, dtype=torch.bool).scatter(-1, index, drop)
    if not bool(settled.all()):
        _, index, drop = _sorted_nucleus(logits[~settled], top_p)
        outside[~settled] = torch.empty_like(drop).scatter(-1, index, drop)
    return outside


def _nucleus(
    logits: Float[Tensor, "batch d_vocab"], top_p: float
) -> tuple[
    Float[Tensor, "batch kept"],
    Int[Tensor, "batch kept"],
    Bool[Tensor, "batch kept"],
    Bool[Tensor, " batch"],
]:
    """The likeliest tokens' logits in order, the unlikeliest first, of which tokens they are, which are outside the
    nucleus, and in which rows this is settled.

    Putting the whole vocabulary in order takes longer than all else in drawing. The likeliest tokens settle the matter
    unless the nucleus is larger, ends among equals, or ends within rounding of `top_p`.
    """
    if logits.shape[-1] <= _LIKELIEST:
        return *_sorted_nucleus(logits, top_p), logits.new_ones(len(logits)).bool()
    ordered, index = logits.topk(_LIKELIEST)
    ordered, index = ordered.flip(-1), index.flip(-1)
    total = (ordered - logits.logsumexp(-1, keepdim=True)).exp().double().cumsum(-1)
    total += 1 - total[:, -1:]
    drop = total <= 1 - top_p
    n = drop.sum(-1, keepdim=True).clamp(1, _LIKELIEST - 1)
    ends = drop[:, :1] & (ordered.gather(-1, n - 1) < ordered.gather(-1, n))
    sure = ((total - (1 - top_p)).abs() > _ROUNDING).all(-1)
    return ordered, index, drop, ends[:, 0] & sure


def _sorted_nucleus(
    logits: Float[Tensor, "batch d_vocab"], top_p: float
) -> tuple[
    Float[Tensor, "batch d_vocab"], Int[Tensor, "batch d_vocab"], Bool[Tensor, "batch d_vocab"]
]:
    """The same of the whole vocabulary, by transformers' own arithmetic."""
    ordered, index = logits.sort(dim=-1)
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[:, -1] = False  # the likeliest token always stays
    return ordered, index, drop
