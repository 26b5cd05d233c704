"""The optimisation behind `learn_gates`: what it learns on, one step, and how its result is fitted to the budget."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.config import GateConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.losses import document_losses, resampled_rise
from tl_toxmem.model import Hook, LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.neutral import encode_documents
from tl_toxmem.progress import in_batches, track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.stats import resampled
from tl_toxmem.tokens import PromptTokens, align

PIECE = 128
"""Tokens of a row of neutral text."""
_LEAST_PIECES = 4
_CLOSED = 0.02
"""Gates nearer to 1 than this are put back to 1."""
_DUAL_RATE = 0.3
HALVINGS = 6
T = TypeVar("T")


class Learner:
    """The state that goes on from budget to budget: closures d, Adam, mu, and the streams of batches."""

    def __init__(
        self,
        model: LensModel,
        prompts: PromptSet,
        candidates: NeuronSet,
        scores: NeuronScores,
        neutral: Sequence[str],
        cfg: GateConfig,
        *,
        seed: int,
    ) -> None:
        self.model, self.candidates, self.cfg = model, candidates, cfg
        index = torch.tensor(candidates.neurons, dtype=torch.long)
        self.places = {
            layer: (
                (index[:, 0] == layer).nonzero()[:, 0].to(model.device),
                torch.tensor(ns).to(model.device),
            )
            for layer, ns in candidates.by_layer().items()
        }
        per_cost = scores.per_cost(floor=cfg.cost_floor)[index[:, 0], index[:, 1]]
        own = scores.scores[index[:, 0], index[:, 1]]
        # score / per_cost is the denominator, cost + floor x mean cost.
        weight = torch.where(per_cost != 0, own / per_cost, torch.zeros(()))
        self.penalty = (cfg.sparsity * per_cost.max().clamp(min=0) * weight).to(model.device)
        items = align(model, prompts)
        self.onsets = torch.tensor(sorted({item.target[0] for item in items}), device=model.device)
        base = torch.cat(
            [
                self._onset_mass(model.forward(*model.pad([i.tokens for i in some]), keep=1))
                for some in in_batches(items, cfg.batch_size, "targets")
            ]
        )
        self.targets = list(zip(items, base.tolist(), strict=True))
        pieces = encode_documents(
            model, neutral, max_tokens=cfg.check_tokens + 50 * cfg.step_tokens, piece=PIECE
        )
        self.check, self.learn_on = split_pieces(pieces, cfg.check_tokens)
        self.base_losses, self.n_tokens = document_losses(model, self.check)
        self.draws = resampled(len(self.check), np.random.default_rng(seed))
        self.closed = torch.zeros(len(candidates), device=model.device, requires_grad=True)
        self.adam = torch.optim.Adam([self.closed], lr=cfg.learning_rate)
        self.mu = 1.0
        draw = torch.Generator().manual_seed(seed)
        self.prompt_stream = _stream(self.targets, cfg.batch_size, draw)
        rows = max(1, cfg.step_tokens // PIECE)
        self.neutral_stream = _stream(self.learn_on, rows, draw)

    def learn(
        self, budget: float
    ) -> tuple[NeuronSet, Float[Tensor, " neuron"], float, float, float]:
        """Go on from where the last budget ended; the fields of `gates.Gates`."""
        allowed = math.log1p(budget)
        for _ in track(range(self.cfg.steps), f"gates: {budget:.1%}", total=self.cfg.steps):
            self._step(allowed)
        closed = self.closed.detach().clone()
        closed[closed < _CLOSED] = 0
        factor, increase, high = self._fitted(closed, budget)
        scale = (1 - factor * closed).cpu().double()
        some = (scale < 1).nonzero()[:, 0].tolist()
        chosen = NeuronSet(
            tuple(self.candidates.neurons[i] for i in some),
            self.candidates.n_layers,
            self.candidates.d_mlp,
        )
        return chosen, scale[some], budget, increase, high

    def _step(self, allowed: float) -> None:
        with torch.enable_grad():
            loss, kl = self._loss(next(self.prompt_stream), next(self.neutral_stream), allowed)
            self.adam.zero_grad()
            (self.closed.grad,) = torch.autograd.grad(loss, [self.closed])
        self.adam.step()
        with torch.no_grad():
            self.closed.clamp_(0, 1)
        over = min(float(kl.detach()) / allowed - 1, 2.0)
        self.mu = min(max(self.mu * math.exp(_DUAL_RATE * over), 1e-3), 1e4)

    def _loss(
        self, pairs: list[tuple[PromptTokens, float]], rows: list[list[int]], allowed: float
    ) -> tuple[Tensor, Tensor]:
        """What is minimised, and the KL in it in nats per token."""
        items, base = [item for item, _ in pairs], [value for _, value in pairs]
        kl = self._kl(rows)
        penalty = (self.penalty * self.closed).sum()
        return self._pressed(items, base) + penalty + self.mu * kl / allowed, kl

    def _pressed(self, items: list[PromptTokens], base: list[float]) -> Tensor:
        tokens, mask = self.model.pad([item.tokens for item in items])
        with self.model.hooks(self._hooks(self.closed)):
            mass = self._onset_mass(self.model.differentiable(tokens, mask, keep=1))
        risen = mass - torch.tensor(base, device=mass.device)
        return softplus(risen + self.cfg.margin).mean()

    def _onset_mass(self, logits: Float[Tensor, "batch one d_vocab"]) -> Float[Tensor, " batch"]:
        """Log-probability that the last position goes on with the first token of any target."""
        return logits[:, -1].float().log_softmax(-1)[:, self.onsets].logsumexp(-1)

    def _kl(self, rows: list[list[int]]) -> Float[Tensor, ""]:
        tokens, mask = self.model.pad(rows)
        before = self.model.forward(tokens, mask)[:, :-1].float().log_softmax(-1)
        with torch.enable_grad():
            with self.model.hooks(self._hooks(self.closed)):
                logits = self.model.differentiable(tokens, mask)
            after = logits[:, :-1].float().log_softmax(-1)
            real = mask[:, 1:] * mask[:, :-1]
            kl: Tensor = ((before.exp() * (before - after)).sum(-1) * real).sum() / real.sum()
        return kl

    def _hooks(self, closed: Float[Tensor, " neuron"]) -> list[Hook]:
        d_mlp = self.candidates.d_mlp

        def gate(rows: Int[Tensor, " n"], neurons: Int[Tensor, " n"]) -> "_Gate":
            scale = torch.ones(d_mlp, device=closed.device)
            return _Gate(scale.index_put((neurons,), 1 - closed[rows]))

        with torch.set_grad_enabled(closed.requires_grad):
            return [("mlp_post", layer, gate(*place)) for layer, place in self.places.items()]

    def _fitted(
        self, closed: Float[Tensor, " neuron"], budget: float
    ) -> tuple[float, float, float]:
        """The largest share of the closures (to within a sixty-fourth) that fits the budget, its rise and the limit."""

        def rise(factor: float) -> tuple[float, float]:
            with self.model.hooks(self._hooks(factor * closed)):
                losses, _ = document_losses(self.model, self.check)
            more = losses - self.base_losses
            return resampled_rise(more, self.n_tokens, self.draws, self.cfg.confidence)

        whole = rise(1.0)
        if whole[1] <= budget:
            return 1.0, *whole
        low, high, found = 0.0, 1.0, (0.0, 0.0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            value = rise(middle)
            if value[1] <= budget:
                low, found = middle, value
            else:
                high = middle
        return low, *found


class _Gate:
    """A hook that scales activations."""

    def __init__(self, scale: Float[Tensor, " d_mlp"]) -> None:
        self.scale = scale

    def __call__(self, activation: Tensor) -> Tensor:
        return activation * self.scale.to(activation.dtype)


def split_pieces(
    rows: list[list[int]], check_tokens: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Pieces to check on, of so many tokens but at most half of all (two at least), and the others to learn on.

    Raises:
        ToxmemError: fewer than four pieces.
    """
    if len(rows) < _LEAST_PIECES:
        raise ToxmemError(
            f"learned gates need neutral text to learn on and other text to check on: give at least {_LEAST_PIECES} "
            f"documents, not {len(rows)}"
        )
    total = list(itertools.accumulate(len(row) for row in rows))
    n = max(2, sum(value <= min(check_tokens, total[-1] // 2) for value in total))
    return rows[:n], rows[n:]


def _stream(items: list[T], size: int, draw: torch.Generator) -> Iterator[list[T]]:
    """Batches for ever, in a new random order each time round."""
    waiting: list[int] = []
    while True:
        while len(waiting) < min(size, len(items)):
            waiting += torch.randperm(len(items), generator=draw).tolist()
        yield [items[i] for i in waiting[:size]]
        del waiting[:size]
