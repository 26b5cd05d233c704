"""Learned gates: a scale in [0, 1] for each of some neurons, found by gradient.

With `d = 1 - s` of the candidates' scales s, projected Adam minimises

    mean over find prompts of softplus(log m - log m_base + margin)
    + sum_i lambda_i d_i + mu KL(base || gated) on neutral text

with m the probability that the next token is the first of any find prompt's target (pressed down alone, a prompt's own
target makes room for another prompt's insult), lambda_i in proportion to what removing neuron i costs, so that most
d_i are exactly 0, and mu moved at each step (dual ascent) so that the KL stays at the budget: for a budget of x
relative perplexity, log(1 + x) nats per token. What is learned is a `Deletion.scale`, and bakes like any other.

Louizos et al. 2018 learn gates for sparsity. Wang and Veitch 2025 say why it must be held against the same learning at
random places: give it random candidates.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.config import GateConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.losses import document_losses, perplexity_rise
from tl_toxmem.model import Hook, LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.neutral import encode_documents
from tl_toxmem.progress import in_batches, track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import PromptTokens, align

_PIECE = 128
"""Tokens of a row of neutral text."""
_CLOSED = 0.02
"""Gates nearer to 1 than this are put back to 1."""
_DUAL_RATE = 0.3
_HALVINGS = 6
_CANDIDATES = (50, 2000)
"""Fewest and most by default."""
T = TypeVar("T")


def n_candidates(n_layers: int, d_mlp: int) -> int:
    """How many neurons get a gate unless told otherwise: a thirtieth of them, 50 to 2,000, at most half."""
    fewest, most = _CANDIDATES
    return min(most, max(fewest, n_layers * d_mlp // 30), max(1, n_layers * d_mlp // 2))


@dataclass(frozen=True)
class Gates:
    """What was learned for one budget.

    Attributes:
        neurons: the candidates whose scale is below 1.
        scale: [neuron] in [0, 1), in the order of `neurons`.
        budget: relative rise of neutral perplexity that was allowed.
        increase: what it rose by, on neutral text of `check_tokens` tokens.
    """

    neurons: NeuronSet
    scale: Float[Tensor, " neuron"]
    budget: float
    increase: float

    def deletion(self) -> Deletion:
        """The law: each activation times its scale."""
        return Deletion.scale(self.neurons, self.scale)


def learn_gates(
    model: LensModel,
    prompts: PromptSet,
    *,
    candidates: NeuronSet,
    scores: NeuronScores,
    neutral: Sequence[str],
    budgets: Sequence[float],
    cfg: GateConfig | None = None,
) -> dict[float, Gates]:
    """Learn gates for one budget after the other, the smallest first.

    Args:
        model: any host, raw weights; it is left as it was.
        prompts: find prompts with toxic targets.
        candidates: the neurons that may be scaled.
        scores: with costs, of the same model.
        neutral: text kept for choosing.
        budgets: relative rises of neutral perplexity, such as 0.01.
        cfg: of the optimisation.

    Returns:
        The gates by budget. None raises perplexity on the text that it is checked on by more than its budget: where
        the optimisation overshot, all scales are moved towards 1 together until they fit.

    Raises:
        ToxmemError: no candidates, no cost in the scores, a budget that is not positive, no prompts, no neutral text.
    """
    cfg = cfg or GateConfig()
    if not len(candidates) or not budgets or min(budgets) <= 0:
        raise ToxmemError("learned gates need candidates, and budgets above 0")
    learner = _Learner(model, prompts.first(cfg.max_prompts), candidates, scores, neutral, cfg)
    return {budget: learner.learn(budget) for budget in sorted(set(budgets))}


class _Learner:
    """The state that goes on from budget to budget: closures d, Adam, mu, and the streams of batches."""

    def __init__(
        self,
        model: LensModel,
        prompts: PromptSet,
        candidates: NeuronSet,
        scores: NeuronScores,
        neutral: Sequence[str],
        cfg: GateConfig,
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
            model, neutral, max_tokens=cfg.check_tokens + 50 * cfg.step_tokens, piece=_PIECE
        )
        self.check, rest = _first_tokens(pieces, cfg.check_tokens)
        self.learn_on = rest or self.check
        self.base_losses, _ = document_losses(model, self.check)
        self.closed = torch.zeros(len(candidates), device=model.device, requires_grad=True)
        self.adam = torch.optim.Adam([self.closed], lr=cfg.learning_rate)
        self.mu = 1.0
        draw = torch.Generator().manual_seed(cfg.seed)
        self.prompt_stream = _stream(self.targets, cfg.batch_size, draw)
        rows = max(1, cfg.step_tokens // _PIECE)
        self.neutral_stream = _stream(self.learn_on, rows, draw)

    def learn(self, budget: float) -> Gates:
        """Go on from where the last budget ended."""
        allowed = math.log1p(budget)
        for _ in track(range(self.cfg.steps), f"gates: {budget:.1%}", total=self.cfg.steps):
            self._step(allowed)
        closed = self.closed.detach().clone()
        closed[closed < _CLOSED] = 0
        factor, increase = self._fitted(closed, budget)
        scale = (1 - factor * closed).cpu().double()
        some = (scale < 1).nonzero()[:, 0].tolist()
        chosen = NeuronSet(
            tuple(self.candidates.neurons[i] for i in some),
            self.candidates.n_layers,
            self.candidates.d_mlp,
        )
        return Gates(chosen, scale[some], budget, increase)

    def _step(self, allowed: float) -> None:
        pairs = next(self.prompt_stream)
        items, base = [item for item, _ in pairs], [value for _, value in pairs]
        kl = self._kl(next(self.neutral_stream))
        with torch.enable_grad():
            loss = (
                self._pressed(items, base) + (self.penalty * self.closed).sum()
            ) + self.mu * kl / allowed
            self.adam.zero_grad()
            (self.closed.grad,) = torch.autograd.grad(loss, [self.closed])
        self.adam.step()
        with torch.no_grad():
            self.closed.clamp_(0, 1)
        over = min(float(kl.detach()) / allowed - 1, 2.0)
        self.mu = min(max(self.mu * math.exp(_DUAL_RATE * over), 1e-3), 1e4)

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

    def _fitted(self, closed: Float[Tensor, " neuron"], budget: float) -> tuple[float, float]:
        """The largest share of the closures (to within a sixty-fourth) that fits the budget, and its rise."""

        def rise(factor: float) -> float:
            with self.model.hooks(self._hooks(factor * closed)):
                return perplexity_rise(self.model, self.check, self.base_losses)

        whole = rise(1.0)
        if whole <= budget:
            return 1.0, whole
        low, high, found = 0.0, 1.0, 0.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            value = rise(middle)
            if value <= budget:
                low, found = middle, value
            else:
                high = middle
        return low, found


class _Gate:
    """A hook that scales activations."""

    def __init__(self, scale: Float[Tensor, " d_mlp"]) -> None:
        self.scale = scale

    def __call__(self, activation: Tensor) -> Tensor:
        return activation * self.scale.to(activation.dtype)


def _first_tokens(rows: list[list[int]], most: int) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of `most` tokens in all, and the others."""
    total = list(itertools.accumulate(len(row) for row in rows))
    n = max(1, sum(value <= most for value in total))
    return rows[:n], rows[n:]


def _stream(items: list[T], size: int, draw: torch.Generator) -> Iterator[list[T]]:
    """Batches for ever, in a new random order each time round."""
    waiting: list[int] = []
    while True:
        while len(waiting) < min(size, len(items)):
            waiting += torch.randperm(len(items), generator=draw).tolist()
        yield [items[i] for i in waiting[:size]]
        del waiting[:size]
