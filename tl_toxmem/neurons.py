"""Sets of MLP neurons, and the random sets of equal size that every selection is held against."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from tl_toxmem.checks import seed_of, whole
from tl_toxmem.display import Display, Displayed, Table, count
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_json, write_json

if TYPE_CHECKING:
    from tl_toxmem.attribute import NeuronScores

Neuron = tuple[int, int]
_NEAREST, _LEAST_NEAREST = 0.01, 5
"""A neuron's match is drawn from this share of its layer, the nearest in loudness, but from so many at least: few, so
that it is as loud, and more than one, so that it is random."""
_SILENT = 1e-30
"""Of loudness, so that a neuron that is never active has a logarithm."""


@dataclass(frozen=True, repr=False)
class NeuronSet(Displayed):
    """`(layer, neuron)` pairs of a model with `n_layers` layers of `d_mlp` neurons; sorted and unique.

    Empty and full sets are legal. Sorting and uniqueness hold by construction, so that an edit never saves
    an already edited row.
    """

    neurons: tuple[Neuron, ...]
    n_layers: int
    d_mlp: int

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_mlp"):
            object.__setattr__(self, name, whole(getattr(self, name), name, least=1))
        pairs = set()
        for pair in self.neurons:
            layer, neuron = _pair(pair)
            if not (0 <= layer < self.n_layers and 0 <= neuron < self.d_mlp):
                raise ToxmemError(
                    f"no neuron {neuron} in layer {layer}: the model has layers 0 to {self.n_layers - 1} "
                    f"of neurons 0 to {self.d_mlp - 1}"
                )
            pairs.add((layer, neuron))
        object.__setattr__(self, "neurons", tuple(sorted(pairs)))

    def __len__(self) -> int:
        return len(self.neurons)

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self.neurons)

    def __contains__(self, neuron: object) -> bool:
        return neuron in set(self.neurons)

    def __repr__(self) -> str:
        counts = ", ".join(f"L{layer}: {len(ns)}" for layer, ns in self.by_layer().items())
        return f"NeuronSet({len(self)} neurons{': ' if counts else ''}{counts})"

    def __str__(self) -> str:
        return repr(self)

    def display(self) -> Display:
        """A row per layer."""
        rows = tuple(
            (str(layer), str(len(own)), ", ".join(map(str, own)))
            for layer, own in self.by_layer().items()
        )
        n = self.n_layers * self.d_mlp
        headline = (
            f"{count(len(self), 'neuron')} in {count(len(rows), 'layer')} of a model of {self.n_layers} x {self.d_mlp} "
            f"({len(self) / n:.2%})"
        )
        return Display(headline, (Table(("layer", "n", "neurons"), rows),) * bool(rows))

    def by_layer(self) -> dict[int, list[int]]:
        """Neurons of each layer that has any."""
        layers: dict[int, list[int]] = {}
        for layer, neuron in self.neurons:
            layers.setdefault(layer, []).append(neuron)
        return layers

    def union(self, other: "NeuronSet") -> "NeuronSet":
        """Neurons of either.

        Raises:
            ToxmemError: sets of models of different shape; likewise of the others.
        """
        return self._of({*self.neurons, *self._same_shape(other)})

    def intersection(self, other: "NeuronSet") -> "NeuronSet":
        """Neurons of both."""
        return self._of(set(self.neurons) & self._same_shape(other))

    def difference(self, other: "NeuronSet") -> "NeuronSet":
        """Neurons of this set that are not of the other."""
        return self._of(set(self.neurons) - self._same_shape(other))

    def overlap(self, other: "NeuronSet") -> float:
        """Neurons in common over neurons of either (Jaccard); 0 for two empty sets."""
        either = len(self.union(other))
        return len(self.intersection(other)) / either if either else 0.0

    __or__, __and__, __sub__ = union, intersection, difference

    def _of(self, neurons: Iterable[Neuron]) -> "NeuronSet":
        return NeuronSet(tuple(neurons), self.n_layers, self.d_mlp)

    def _same_shape(self, other: "NeuronSet") -> set[Neuron]:
        if not isinstance(other, NeuronSet):
            raise ToxmemError(
                f"a NeuronSet goes with another, not with a {type(other).__name__}: make it one by "
                "NeuronSet(pairs, n_layers, d_mlp)"
            )
        if (self.n_layers, self.d_mlp) != (other.n_layers, other.d_mlp):
            raise ToxmemError(
                f"neuron sets of models of different shape: {self.n_layers} x {self.d_mlp} and "
                f"{other.n_layers} x {other.d_mlp}"
            )
        return set(other.neurons)

    @classmethod
    def top(cls, scores: "NeuronScores", k: int) -> "NeuronSet":
        """The `k` neurons of highest score, whatever they cost (see `select_neurons` for the default ranking).

        Raises:
            ToxmemError: `k` larger than the model.
        """
        return scores.top(k)

    def random_like(
        self,
        *,
        seed: int,
        layers: Sequence[int] | None = None,
        loudness: Float[Tensor, "layer d_mlp"] | None = None,
        without: "NeuronSet | None" = None,
    ) -> "NeuronSet":
        """As many random neurons, none of them in this set.

        Args:
            seed: of the draw.
            layers: draw from these layers; None: as many in each layer as this set has there.
            loudness: for each neuron of this set draw one of its layer that is about as loud (of the hundredth of the
                layer, and five at least, whose ratio by this measure, such as `NeuronScores.loudness`, is nearest to
                one).
            without: neurons that are not drawn either.

        Raises:
            ToxmemError: an unknown layer, too few neurons left to draw from, or layers and loudness together.
        """
        draw = random.Random(seed_of(seed))
        if layers is not None and loudness is not None:
            raise ToxmemError("random_like matches loudness within each layer: give no layers then")
        if layers is not None:
            check_layers(layers, n_layers=self.n_layers)
            pool = [(layer, i) for layer in sorted(set(layers)) for i in range(self.d_mlp)]
            return self._of(draw.sample(self._free(pool, len(self), without), len(self)))
        chosen: list[Neuron] = []
        for layer, neurons in self.by_layer().items():
            free = self._free([(layer, i) for i in range(self.d_mlp)], len(neurons), without)
            if loudness is None:
                chosen += draw.sample(free, len(neurons))
                continue
            loud = loudness[layer].clamp(min=_SILENT).log().tolist()
            for own in draw.sample(neurons, len(neurons)):
                free.sort(key=lambda n: abs(loud[n[1]] - loud[own]))  # noqa: B023 - used here
                near = min(len(free), max(_LEAST_NEAREST, round(_NEAREST * self.d_mlp)))
                chosen.append(free.pop(draw.randrange(near)))
        return self._of(chosen)

    def _free(self, pool: list[Neuron], n: int, without: "NeuronSet | None") -> list[Neuron]:
        mine = set(self.neurons if without is None else self.union(without))
        free = [neuron for neuron in pool if neuron not in mine]
        if len(free) < n:
            raise ToxmemError(f"cannot draw {n} random neurons: only {len(free)} are not selected")
        return free

    def write(self, path: str | Path) -> None:
        """Write a JSON file."""
        write_json(Path(path), self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> "NeuronSet":
        """Read what `write` wrote.

        Raises:
            ToxmemError: missing, no JSON, of a newer version, or no neuron set.
        """
        values = read_json(Path(path))
        try:
            return cls.from_json(values)
        except ToxmemError as error:
            raise ToxmemError(f"{path} is no neuron set: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "neurons": [list(n) for n in self.neurons],
            "n_layers": self.n_layers,
            "d_mlp": self.d_mlp,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NeuronSet":
        """Read what `to_json` gave.

        Raises:
            ToxmemError: something else.
        """
        if not isinstance(values, dict) or not {"neurons", "n_layers", "d_mlp"} <= set(values):
            raise ToxmemError("it needs neurons, n_layers and d_mlp")
        if not isinstance(values["neurons"], list):
            raise ToxmemError(f"its neurons are a {type(values['neurons']).__name__}, not a list")
        return cls(tuple(map(_pair, values["neurons"])), values["n_layers"], values["d_mlp"])


def _pair(pair: Any) -> Neuron:
    """Layer and neuron as plain numbers."""
    try:
        layer, neuron = (whole(n, "a neuron's number", least=-(10**9)) for n in pair)
    except (TypeError, ValueError):
        raise ToxmemError(
            f"{pair!r} is no neuron: neurons are pairs of whole numbers, layer and neuron"
        ) from None
    return layer, neuron


def check_layers(layers: Iterable[int], *, n_layers: int) -> None:
    """Refuse layers that the model does not have."""
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise ToxmemError(f"no layer {layer}: the model has layers 0 to {n_layers - 1}")
