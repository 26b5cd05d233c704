"""Integrated gradients at `mlp.hook_post` (Sundararajan et al. 2017), layer by layer.

A layer's activations go from zero to `a` along `alpha a`, all neurons and positions of the layer together; a neuron's
score is its `a` times the mean gradient along the way, summed over positions. Along the way what leaves the layer is
`resid_post - (1 - alpha) a W`, so the runs start there, the runs of all layers and values of alpha share sweeps up the
layers, and one product with W at the end gives all neurons of a layer.

The mean is by the midpoint rule. Scores of a layer sum to the difference between the metric at `a` and at zero
(completeness), so what is missing of that is known: unless `steps` is set, the number of steps is tripled, which keeps
all steps that were done, until the residual is small, prompt by prompt and layer by layer; the residual is reported.

`knowledge_neurons` is the protocol of Dai et al. 2022 as a preset: 20 steps, the target's probability in place of its
log-probability, and only the positions that predict the target, so that all others are never run again.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_toxmem.attribute.batches import Batch, aligned, batches
from tl_toxmem.attribute.onward import CLEAN_TOKENS, Onward, sizes_of_sweeps
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.attribute.texts import Texts
from tl_toxmem.careful import Careful, Carefully
from tl_toxmem.config import AttributeConfig
from tl_toxmem.engine import spread
from tl_toxmem.memory import tokens_for_gradients
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import PromptTokens, called

_FIRST_STEPS, _MOST_STEPS = 5, 135
KNOWLEDGE_STEPS = 20
_FLOOR = 0.02
"""Of the metric (nats): a residual is held against a difference of no less than this."""

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
    way = _Way("integrated_gradients", _itself, everywhere=True, steps=cfg.steps)
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
    steps = cfg.steps or KNOWLEDGE_STEPS
    way = _Way("knowledge_neurons", torch.exp, everywhere=False, steps=steps)
    return _integrate(model, prompts, way, cfg)


@dataclass(frozen=True)
class _Way:
    """What is integrated: the metric of a log-probability, over which positions, in how many steps."""

    method: str
    metric: Metric
    everywhere: bool
    steps: int | None

    @property
    def first(self) -> int:
        """Steps that every layer and prompt has."""
        return self.steps or _FIRST_STEPS


def _integrate(
    model: LensModel, prompts: PromptSet, way: _Way, cfg: AttributeConfig
) -> NeuronScores:
    items = aligned(model, prompts)
    shape = len(items), model.n_layers
    found = torch.zeros(*shape, model.d_mlp)
    residual, steps = torch.zeros(shape), torch.zeros(shape)
    most = tokens_for_gradients(model)
    some = batches(items, most=min(CLEAN_TOKENS, most))
    work = partial(_integrate_batch, way=way, tolerance=cfg.completeness)
    careful = Carefully(work, what="scores", name=called)
    start = 0
    for own in itertools.chain.from_iterable(spread(model, careful, some, "integrated gradients")):
        rows = slice(start, start + len(own[0]))
        found[rows], residual[rows], steps[rows] = own
        start = rows.stop
    facts = {
        "residual": float(residual.abs().max()),
        "mean_residual": float(residual.abs().mean()),
        "steps": float(steps.mean()),
        "most_steps": int(steps.max()),
        "tolerance": cfg.completeness,
    }
    return NeuronScores.of_prompts(
        way.method, found, prompts, seed=cfg.seed, model=model, facts=facts
    )


def _integrate_batch(
    model: LensModel, items: Sequence[PromptTokens], *, way: _Way, tolerance: float
) -> tuple[
    Float[Tensor, "batch layer d_mlp"],
    Float[Tensor, "batch layer"],
    Float[Tensor, "batch layer"],
]:
    """Scores, residuals and steps."""
    batch = Batch.of(model, items)
    column = 0 if way.everywhere else batch.tokens.shape[1] - batch.keep
    every: dict[int, Tensor | None] = dict.fromkeys(range(model.n_layers))
    clean = Onward(model, batch, column=column, neurons=every)
    scaled = (batch.mask if way.everywhere else batch.predicting())[:, column:]
    paths = _Paths(model, clean, scaled, way, most=tokens_for_gradients(model) * model.n_layers)
    paths.add(torch.ones_like(paths.steps, dtype=torch.bool), _midpoints(way.first))
    if way.steps is None:
        paths.refine(tolerance)
    scores = [paths.scores(layer).float().cpu() for layer in range(model.n_layers)]
    residual, steps = paths.residual().float().cpu().T, paths.steps.float().cpu().T
    return torch.stack(scores, dim=1), residual, steps


class _Paths:
    """The path integrals of all layers for a batch, whose runs share sweeps up the layers.

    Attributes:
        steps: [layer, batch] points of the way that are in the sums.
    """

    def __init__(
        self,
        model: LensModel,
        clean: Onward,
        scaled: Int[Tensor, "batch new"],
        way: _Way,
        *,
        most: int,
    ) -> None:
        """Run every layer's zero.

        Args:
            model: on any host.
            clean: the batch's clean run.
            scaled: 1 at the positions that go along the way.
            way: what is integrated.
            most: tokens x layers whose activations may be kept for gradients.
        """
        self._clean, self._way, self._most = clean, way, most
        self._n_layers = model.n_layers
        self._vectors = [model.value_vectors(layer) for layer in range(model.n_layers)]
        self._activation = {i: a * scaled[..., None] for i, a in clean.activations.items()}
        self._written = {i: a @ self._vectors[i] for i, a in self._activation.items()}
        self._sums = {i: torch.zeros_like(written) for i, written in self._written.items()}
        shape = model.n_layers, len(scaled)
        self.steps: Int[Tensor, "layer batch"] = torch.zeros(shape, device=scaled.device).long()
        layers, rows = torch.ones_like(self.steps).nonzero(as_tuple=True)
        zero = self._run(layers, rows, torch.zeros(len(rows), device=rows.device), gradients=False)
        self._difference = way.metric(clean.log_prob)[None] - zero.view(shape)

    def refine(self, tolerance: float) -> None:
        """Triple the steps of the layers and rows whose residual is too large, until none is."""
        steps = self._way.first
        while steps < _MOST_STEPS:
            allowed = tolerance * self._difference.abs().clamp(min=_FLOOR)
            large = (self.residual().abs() > allowed) & (self.steps == steps)
            self.add(large, _new_midpoints(steps))
            steps *= 3

    def add(self, which: Bool[Tensor, "layer batch"], alphas: Sequence[float]) -> None:
        """Add the gradients at these points of the way to the sums of these layers and rows."""
        layers, rows = (x.repeat_interleave(len(alphas)) for x in which.nonzero(as_tuple=True))
        alpha = torch.tensor(alphas, device=rows.device).repeat(int(which.sum()))
        self._run(layers, rows, alpha, gradients=True)
        self.steps += which * len(alphas)

    def residual(self) -> Float[Tensor, "layer batch"]:
        """How far the scores of each layer sum to something else than the difference that they explain."""
        total = [
            (self._written[i] * self._mean(i)).flatten(1).sum(1) for i in range(self._n_layers)
        ]
        return torch.stack(total) - self._difference

    def scores(self, layer: int) -> Float[Tensor, "batch d_mlp"]:
        """Of every neuron of a layer, summed over positions."""
        return (self._activation[layer] * (self._mean(layer) @ self._vectors[layer].T)).sum(1)

    def _mean(self, layer: int) -> Float[Tensor, "batch new d_model"]:
        return self._sums[layer] / self.steps[layer, :, None, None].to(self._sums[layer])

    def _run(
        self,
        layers: Int[Tensor, " run"],
        rows: Int[Tensor, " run"],
        alpha: Float[Tensor, " run"],
        *,
        gradients: bool,
    ) -> Float[Tensor, " run"]:
        """The metric at points of the ways, layers in rising order; gradients by what leaves a layer go to the sums."""
        values = []
        run: Careful[int, Tensor] = Careful(
            lambda some: self._sweep(
                *(x[some[0] : some[-1] + 1] for x in (layers, rows, alpha)), gradients=gradients
            ),
            what="values along the way",
            model=self._clean.model,
            name=lambda i: self._clean.batch.items[int(rows[i])].called(),
        )
        start = 0
        sizes = sizes_of_sweeps(
            layers.tolist(), n_new=self._clean.n_new, n_layers=self._n_layers, most=self._most
        )
        for size in sizes:
            values += run(range(start, start + size))
            start += size
        return torch.cat(values) if values else alpha

    def _sweep(
        self,
        layers: Int[Tensor, " run"],
        rows: Int[Tensor, " run"],
        alpha: Float[Tensor, " run"],
        *,
        gradients: bool,
    ) -> Float[Tensor, " run"]:
        joins = []
        for layer in sorted(set(layers.tolist())):
            at, own = alpha[layers == layer], rows[layers == layer]
            leaving, written = self._clean.leaving[layer][own], self._written[layer][own]
            state = leaving - (1 - at.to(leaving))[:, None, None] * written
            joins.append((layer, own, state.requires_grad_(gradients)))
        with torch.set_grad_enabled(gradients):
            value = self._way.metric(self._clean.run([(i, x) for i, _, x in joins], rows))
            if gradients:
                found = torch.autograd.grad(value.sum(), [x for _, _, x in joins])
                for (layer, own, _), gradient in zip(joins, found, strict=True):
                    self._sums[layer].index_add_(0, own, gradient)
        return value.detach()


def _itself(value: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
    return value


def _midpoints(steps: int) -> list[float]:
    return [(i + 0.5) / steps for i in range(steps)]


def _new_midpoints(steps: int) -> list[float]:
    """What the midpoints of three times the steps have that those of `steps` have not."""
    return [(i + 0.5) / (3 * steps) for i in range(3 * steps) if i % 3 != 1]
