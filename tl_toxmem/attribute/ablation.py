"""Measured: what ablating a neuron, alone and at every position, really takes from the target.

Ablating neuron i of a layer adds `(s a_i + t - a_i) w_i` to what leaves the layer, with `w_i` its value vector, s = 0
and t = 0 or its mean activation on neutral text, or s and t of a deletion law. So a run goes on from there: the layers
up to it are as in the clean run, and many ablations share a batch on the way up.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.batches import Batch, aligned, batches
from tl_toxmem.attribute.onward import CLEAN_TOKENS, Onward, rows_of_sweep
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.attribute.texts import Texts
from tl_toxmem.careful import Careful, is_finite
from tl_toxmem.config import AttributeConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.engine import spread
from tl_toxmem.errors import NotFinite, ToxmemError
from tl_toxmem.law import LayerLaw
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import Neuron, NeuronSet
from tl_toxmem.progress import Advance, meter
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import PromptTokens, target_log_probs

Law = Callable[[NeuronSet], Deletion]
"""From neurons to what is done to them, such as `Deletion.zero`."""


def ablation(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,  # noqa: ARG001 - of every method
) -> NeuronScores:
    """Score every neuron by ablating it, which is for small models: one run per neuron and prompt.

    Raises:
        ToxmemError: no prompts, or one that does not fit the model.
    """
    every = [(layer, i) for layer in range(model.n_layers) for i in range(model.d_mlp)]
    measured = measure_ablations(model, prompts, every)
    per_prompt = measured.T.reshape(-1, model.n_layers, model.d_mlp).contiguous()
    return NeuronScores.of_prompts("ablation", per_prompt, prompts, seed=cfg.seed, model=model)


@torch.no_grad()
def measure_ablations(
    model: LensModel,
    prompts: PromptSet,
    neurons: Sequence[Neuron],
    *,
    mean_activation: Float[Tensor, "layer d_mlp"] | None = None,
    law: Law = Deletion.zero,
) -> Float[Tensor, "neuron prompt"]:
    """What ablating each of some neurons takes from each target's log-probability, in nats.

    Args:
        model: on any host; processed weights are fine.
        prompts: with their targets.
        neurons: which, in any order.
        mean_activation: ablate to these: short for `law=lambda some: Deletion.mean(some, mean_activation)`.
        law: what is done to each neuron, alone.

    Raises:
        ToxmemError: a neuron that the model does not have, no prompts, or one that does not fit the model.
    """
    items = aligned(model, prompts)
    which = NeuronSet(tuple(neurons), model.n_layers, model.d_mlp)
    if mean_activation is not None:
        if not bool(mean_activation.isfinite().all()):
            raise ToxmemError("ablating to the mean needs mean activations: give neutral text")
        deletion = Deletion.mean(which, mean_activation)
    else:
        deletion = law(which)
    place = {neuron: i for i, neuron in enumerate(which)}
    order = [place[neuron] for neuron in neurons]
    if not deletion.on_activations:
        return _one_by_one(model, prompts, which, law)[order]
    effects = torch.zeros(len(which), len(items))
    by_layer = which.by_layer()
    pieces, places, first = [], [], 0
    every = batches(items, most=CLEAN_TOKENS)
    for number, batch in enumerate(every):
        pairs = [
            (layer, i, row)
            for layer, some in by_layer.items()
            for i in range(len(some))
            for row in range(len(batch))
        ]
        size = rows_of_sweep(max(len(item.full) for item in batch))
        for start in range(0, len(pairs), size):
            pieces.append((number, pairs[start : start + size]))
            places.append(first)
        first += len(batch)
    steps = sum(len(some) * (model.n_layers - layer) for layer, some in by_layer.items())
    with meter("ablate", steps * len(items)) as advance:
        found = model.engine.map(model, _Ablating(every, deletion), pieces, advance)
        for (_, pairs), first, lost in zip(pieces, places, found, strict=True):
            for (layer, i, row), value in zip(pairs, lost, strict=True):
                effects[place[layer, by_layer[layer][i]], first + row] = value
    return effects[order]


class _Row(NamedTuple):
    """A row of a batch, and what is ablated there: (place among what is asked, layer, index of the neuron)."""

    batch: int
    row: int
    asked: list[tuple[int, int, int]]


@dataclass
class _Ablating:
    """The work on some (layer, index of the neuron, row) of a batch, whose clean run is kept for the next ones."""

    batches: list[list[PromptTokens]]
    deletion: Deletion
    laws: dict[int, LayerLaw] = field(default_factory=dict)
    careful: Careful[_Row, list[tuple[int, float]]] | None = None
    rows: tuple[int, ...] = ()
    losing: Careful[tuple[int, int, int], Tensor] | None = None

    def __call__(
        self, model: LensModel, piece: tuple[int, list[tuple[int, int, int]]], advance: Advance
    ) -> list[float]:
        number, pairs = piece
        if self.careful is None:
            self.careful = Careful(
                partial(self._lost, model), what="scores", model=model, name=self._called
            )
        rows = [_Row(number, row, []) for row in range(len(self.batches[number]))]
        for at, (layer, i, row) in enumerate(pairs):
            rows[row].asked.append((at, layer, i))
        lost = dict(itertools.chain(*self.careful(rows)))
        advance(sum(model.n_layers - layer for layer, _, _ in pairs))
        return [lost[at] for at in range(len(pairs))]

    def _lost(self, model: LensModel, some: Sequence[_Row]) -> list[tuple[int, float]]:
        """What ablating takes, by place among what is asked."""
        asked = sorted(
            (at, layer, i, row) for row, own in enumerate(some) for at, layer, i in own.asked
        )
        losing = self._losing(model, (some[0].batch, *(own.row for own in some)))
        lost = (
            torch.cat(losing([(layer, i, row) for _, layer, i, row in asked])).tolist()
            if asked
            else []
        )
        return [(at, value) for (at, *_), value in zip(asked, lost, strict=True)]

    def _losing(
        self, model: LensModel, rows: tuple[int, ...]
    ) -> Careful[tuple[int, int, int], Tensor]:
        """What ablating takes in these rows of a batch, whose number comes before theirs."""
        if self.losing is None or self.rows != rows:
            self.losing = None  # before there is another
            number, *own = rows
            wanted: dict[int, Tensor | None] = {
                layer: torch.tensor(some, device=model.device)
                for layer, some in self.deletion.neurons.by_layer().items()
            }
            batch = Batch.of(model, [self.batches[number][row] for row in own])
            self.laws = self.deletion.by_layer()
            clean = Onward(model, batch, column=0, neurons=wanted)
            if not is_finite(clean.log_prob):
                raise NotFinite("the log-probabilities of a clean run are not finite")
            self.rows, self.losing = rows, _losing(model, clean, self.laws)
        return self.losing

    def _called(self, one: _Row) -> str:
        return self.batches[one.batch][one.row].called()


def _losing(
    model: LensModel, clean: Onward, laws: dict[int, LayerLaw]
) -> Careful[tuple[int, int, int], Tensor]:
    """What ablating takes, by (layer, index of the neuron, row of the batch)."""

    def lost(some: Sequence[tuple[int, int, int]]) -> Float[Tensor, " pair"]:
        joins, rows = _changed(model, clean, some, laws)
        return clean.log_prob[rows] - clean.run(joins, rows)

    return Careful(
        lost,
        what="effects of ablation",
        model=model,
        name=lambda one: clean.batch.items[one[2]].called(),
    )


def _one_by_one(
    model: LensModel, prompts: PromptSet, neurons: NeuronSet, law: Law
) -> Float[Tensor, "neuron prompt"]:
    """The same under any law: a run for each neuron."""
    base = target_log_probs(model, prompts)
    each = [law(NeuronSet((neuron,), model.n_layers, model.d_mlp)) for neuron in neurons]
    after = spread(model, partial(_under, prompts=prompts), each, "ablate")
    found = [(base - values).float() for values in after]
    return torch.stack(found) if found else torch.zeros(0, len(prompts))


def _under(model: LensModel, deletion: Deletion, *, prompts: PromptSet) -> Float[Tensor, " prompt"]:
    with deletion.applied(model):
        return target_log_probs(model, prompts)


def _changed(
    model: LensModel,
    clean: Onward,
    pairs: Sequence[tuple[int, int, int]],
    laws: dict[int, LayerLaw],
) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """What leaves the layers of some (layer, index of the neuron, row of the batch) once ablated, and the rows."""
    joins = []
    for layer in dict.fromkeys(layer for layer, _, _ in pairs):
        index = torch.tensor([i for at, i, _ in pairs if at == layer], device=model.device)
        own = torch.tensor([row for at, _, row in pairs if at == layer], device=model.device)
        law = laws[layer]
        written = clean.activations[layer][own, :, index]
        kept, target = (x.to(written)[index][:, None] for x in (law.gain, law.shift))
        taken = (1 - kept) * written - target
        vectors = model.value_vectors(layer)[law.neurons.to(model.device)[index]]
        joins.append((layer, clean.leaving[layer][own] - taken[..., None] * vectors[:, None]))
    rows = torch.tensor([row for _, _, row in pairs], device=model.device)
    return joins, rows
