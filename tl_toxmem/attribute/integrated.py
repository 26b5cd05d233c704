"""Integrated gradients at `mlp.hook_post` (Sundararajan et al. 2017), layer by layer.

A layer's activations go from zero to `a` along `alpha a`, all neurons and positions of the layer together; a neuron's
score is its `a` times the mean gradient along the way, summed over positions. Along the way what leaves the layer is
`resid_post - (1 - alpha) a W`, so the runs start there, many values of alpha share a batch, and one product with W at
the end gives all neurons of the layer.

The mean is by the midpoint rule. Scores of a layer sum to the difference between the metric at `a` and at zero
(completeness), so what is missing of that is known: unless `steps` is set, the number of steps is tripled, which keeps
all steps that were done, until the residual is small, prompt by prompt and layer by layer; the residual is reported.

`knowledge_neurons` is the protocol of Dai et al. 2022 as a preset: 20 steps, the target's probability in place of its
log-probability, and only the positions that predict the target, so that all others are never run again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.attribute.batches import aligned, batches
from tl_toxmem.attribute.onward import Onward
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.attribute.texts import Texts
from tl_toxmem.config import AttributeConfig
from tl_toxmem.memory import tokens_for_gradients
from tl_toxmem.model import LensModel
from tl_toxmem.progress import meter
from tl_toxmem.prompts import PromptSet

_FIRST_STEPS, _MOST_STEPS = 5, 135
_KNOWLEDGE_STEPS = 20
_FLOOR = 0.02
"""Of the metric (nats): a residual is held against a difference of no less than this."""
_TOKENS = 256
"""Of the prompts that are run clean together, whose states are kept."""

Metric = Callable[[Float[Tensor, " row"]], Float[Tensor, " row"]]


def integrated_gradients(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,  # noqa: ARG001 - of every method
) -> NeuronScores:
    """Score every neuron by integrated gradients of the target's log-probability, all positions together.

    Raises:
        ToxmemError: no prompts, or one that does not fit the model.
    """
    way = _Way("integrated_gradients", lambda x: x, everywhere=True, steps=cfg.steps)
    return _integrate(model, prompts, way, cfg)


def knowledge_neurons(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,  # noqa: ARG001 - of every method
) -> NeuronScores:
    """Score every neuron by the knowledge-neurons protocol (Dai et al. 2022).

    Raises:
        ToxmemError: no prompts, or one that does not fit the model.
    """
    steps = cfg.steps or _KNOWLEDGE_STEPS
    way = _Way("knowledge_neurons", torch.exp, everywhere=False, steps=steps)
    return _integrate(model, prompts, way, cfg)


@dataclass(frozen=True)
class _Way:
    """What is integrated: the metric of a log-probability, over which positions, in how many steps."""

    method: str
    metric: Metric
    everywhere: bool
    steps: int | None


def _integrate(
    model: LensModel, prompts: PromptSet, way: _Way, cfg: AttributeConfig
) -> NeuronScores:
    items = aligned(model, prompts)
    found = torch.zeros(len(items), model.n_layers, model.d_mlp)
    residual = torch.zeros(len(items), model.n_layers)
    steps = torch.zeros(len(items), model.n_layers)
    size = max(1, tokens_for_gradients(model))
    with meter("integrated gradients", len(items) * model.n_layers) as advance:
        for batch in batches(model, items, "", size=len(items), most=min(_TOKENS, size)):
            column = 0 if way.everywhere else batch.tokens.shape[1] - batch.keep
            every: dict[int, Tensor | None] = dict.fromkeys(range(model.n_layers))
            clean = Onward(model, batch, column=column, neurons=every)
            scaled = (batch.mask if way.everywhere else batch.predicting())[:, column:]
            for layer in range(model.n_layers):
                one = _Layer(model, clean, layer, scaled, way, rows=max(1, size // clean.n_new))
                if way.steps is None:
                    one.refine(cfg.completeness)
                found[batch.rows, layer] = one.scores().float().cpu()
                residual[batch.rows, layer] = one.residual.float().cpu()
                steps[batch.rows, layer] = one.steps.float().cpu()
                advance(len(batch.items))
    facts = {
        "residual": float(residual.abs().max()),
        "mean_residual": float(residual.abs().mean()),
        "steps": float(steps.mean()),
        "most_steps": int(steps.max()),
        "tolerance": cfg.completeness,
    }
    ids = tuple(item.prompt.id for item in items)
    return NeuronScores.of_prompts(way.method, found, ids, seed=cfg.seed, facts=facts)


class _Layer:
    """The path integral of one layer for a batch."""

    def __init__(
        self,
        model: LensModel,
        clean: Onward,
        layer: int,
        scaled: Int[Tensor, "batch new"],
        way: _Way,
        *,
        rows: int,
    ) -> None:
        self._clean, self._layer, self._way, self._rows = clean, layer, way, rows
        self._vectors = model.value_vectors(layer)
        self._activation = clean.activations[layer] * scaled[..., None]
        self._written = self._activation @ self._vectors
        n = len(scaled)
        self._sum = torch.zeros_like(self._written)
        self.steps: Int[Tensor, " batch"] = torch.zeros(n, dtype=torch.long, device=scaled.device)
        every = torch.arange(n, device=scaled.device)
        zero, _ = self._run(every, torch.zeros(n, device=scaled.device), gradients=False)
        self._difference = way.metric(clean.log_prob) - zero
        self.residual: Float[Tensor, " batch"] = self._difference
        self._add(every, _midpoints(way.steps or _FIRST_STEPS))

    def refine(self, tolerance: float) -> None:
        """Triple the steps of the rows whose residual is too large, until none is."""
        steps = _FIRST_STEPS
        while steps < _MOST_STEPS:
            allowed = tolerance * self._difference.abs().clamp(min=_FLOOR)
            large = (self.residual.abs() > allowed) & (self.steps == steps)
            self._add(large.nonzero()[:, 0], _new_midpoints(steps))
            steps *= 3

    def _add(self, rows: Int[Tensor, " row"], alphas: Sequence[float]) -> None:
        """Add the gradients at these points of the way to the sums of these rows."""
        n = len(rows)
        if not n:
            return
        alpha = torch.tensor(alphas, device=rows.device).repeat(n)
        _, gradients = self._run(rows.repeat_interleave(len(alphas)), alpha, gradients=True)
        assert gradients is not None
        self._sum[rows] += gradients.view(n, len(alphas), *gradients.shape[1:]).sum(1)
        self.steps[rows] += len(alphas)
        total = (self._written * self._mean()).flatten(1).sum(1)
        self.residual = total - self._difference

    def _mean(self) -> Float[Tensor, "batch new d_model"]:
        return self._sum / self.steps[:, None, None].to(self._sum)

    def scores(self) -> Float[Tensor, "batch d_mlp"]:
        """Of every neuron, summed over positions."""
        return (self._activation * (self._mean() @ self._vectors.T)).sum(1)

    def _run(
        self, rows: Int[Tensor, " row"], alpha: Float[Tensor, " row"], *, gradients: bool
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "row new d_model"] | None]:
        """The metric at points of the way, and its gradient by what leaves the layer."""
        values, found = [], []
        leaving = self._clean.leaving[self._layer]
        for some, at in zip(
            torch.split(rows, self._rows), torch.split(alpha, self._rows), strict=True
        ):
            removed = (1 - at.to(leaving))[:, None, None] * self._written[some]
            state = leaving[some] - removed
            with torch.set_grad_enabled(gradients):
                state.requires_grad_(gradients)
                value = self._way.metric(self._clean.run([(self._layer, state)], some))
                if gradients:
                    found.append(torch.autograd.grad(value.sum(), state)[0])
            values.append(value.detach())
        return torch.cat(values), torch.cat(found) if found else None


def _midpoints(steps: int) -> list[float]:
    return [(i + 0.5) / steps for i in range(steps)]


def _new_midpoints(steps: int) -> list[float]:
    """What the midpoints of three times the steps have that those of `steps` have not."""
    return [(i + 0.5) / (3 * steps) for i in range(3 * steps) if i % 3 != 1]
