"""Sets of MLP neurons, and the random sets of equal size that every selection is held against."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tl_toxmem.errors import ToxmemError

if TYPE_CHECKING:
    from tl_toxmem.attribute import NeuronScores

Neuron = tuple[int, int]


@dataclass(frozen=True)
class NeuronSet:
    """`(layer, neuron)` pairs of a model with `n_layers` layers of `d_mlp` neurons; sorted and unique.

    Empty and full sets are legal. Sorting and uniqueness hold by construction, so that an edit never saves
    an already edited row.
    """

    neurons: tuple[Neuron, ...]
    n_layers: int
    d_mlp: int

    def __post_init__(self) -> None:
        for layer, neuron in self.neurons:
            if not (0 <= layer < self.n_layers and 0 <= neuron < self.d_mlp):
                raise ToxmemError(
                    f"no neuron {neuron} in layer {layer}: the model has layers 0 to {self.n_layers - 1} "
                    f"of neurons 0 to {self.d_mlp - 1}"
                )
        object.__setattr__(self, "neurons", tuple(sorted(set(self.neurons))))

    def __len__(self) -> int:
        return len(self.neurons)

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self.neurons)

    def __contains__(self, neuron: object) -> bool:
        return neuron in set(self.neurons)

    def __repr__(self) -> str:
        counts = ", ".join(f"L{layer}: {len(ns)}" for layer, ns in self.by_layer().items())
        return f"NeuronSet({len(self)} neurons{': ' if counts else ''}{counts})"

    def by_layer(self) -> dict[int, list[int]]:
        """Neurons of each layer that has any."""
        layers: dict[int, list[int]] = {}
        for layer, neuron in self.neurons:
            layers.setdefault(layer, []).append(neuron)
        return layers

    @classmethod
    def top(cls, scores: "NeuronScores", k: int) -> "NeuronSet":
        """The `k` neurons of highest `removal`, whatever they cost (see `select_neurons` for the default ranking).

        Raises:
            ToxmemError: `k` larger than the model.
        """
        return scores.top(k)

    def random_like(self, *, seed: int, layers: Sequence[int] | None = None) -> "NeuronSet":
        """As many random neurons, none of them in this set.

        Args:
            seed: of the draw.
            layers: draw from these layers; None: as many in each layer as this set has there.

        Raises:
            ToxmemError: an unknown layer, or too few neurons left to draw from.
        """
        draw = random.Random(seed)
        mine = set(self.neurons)

        def sample(pool: Iterable[Neuron], n: int) -> list[Neuron]:
            free = [neuron for neuron in pool if neuron not in mine]
            if len(free) < n:
                raise ToxmemError(
                    f"cannot draw {n} random neurons: only {len(free)} are not selected"
                )
            return draw.sample(free, n)

        if layers is not None:
            check_layers(layers, n_layers=self.n_layers)
            pool = ((layer, i) for layer in sorted(set(layers)) for i in range(self.d_mlp))
            chosen = sample(pool, len(self))
        else:
            chosen = []
            for layer, neurons in self.by_layer().items():
                chosen += sample(((layer, i) for i in range(self.d_mlp)), len(neurons))
        return NeuronSet(tuple(chosen), self.n_layers, self.d_mlp)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "neurons": [list(n) for n in self.neurons],
            "n_layers": self.n_layers,
            "d_mlp": self.d_mlp,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NeuronSet":
        """Read what `to_json` gave."""
        pairs = tuple((int(layer), int(neuron)) for layer, neuron in values["neurons"])
        return cls(pairs, values["n_layers"], values["d_mlp"])


def check_layers(layers: Iterable[int], *, n_layers: int) -> None:
    """Refuse layers that the model does not have."""
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise ToxmemError(f"no layer {layer}: the model has layers 0 to {n_layers - 1}")
