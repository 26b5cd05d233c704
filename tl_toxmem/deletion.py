"""The deletion law, the same at every position and for every prompt, as hooks.

In a layer with `pre = x W_pre + b_pre`, `a = nonlinearity(pre)`, `y = a W + b`, a deletion is

    pre_i -> g_i pre_i            the input gain (for a gated MLP: of the gate)
    a_i   -> s_i a_i + t_i        zero, mean, scale, dampen
    y     -> y + (a U) V + c      low rank, with the `a` of before the deletion

on chosen neurons and layers. Laws compose into one of the same form. It has two interpreters, which must agree to
rounding: hooks (here) and weights (`baking.py`). What depends on position or prompt is an experiment, not a
deletion, and has no place here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.base import Base
from tl_toxmem.display import Display, Displayed, Table
from tl_toxmem.errors import ToxmemError
from tl_toxmem.law import LayerLaw, LowRank, layer_hooks
from tl_toxmem.model import Hook, LensModel
from tl_toxmem.neurons import NeuronSet, check_layers

Gain = float | Float[Tensor, " neuron"]


@dataclass(frozen=True, repr=False)
class Deletion(Displayed):
    """A law on neurons. Make one by `zero`, `mean`, `scale`, `input_gain`, `low_rank` or `constant`; compose by `then`.

    Attributes:
        neurons: all that it touches; sorted and unique.
        gain: [neuron] s, in the order of `neurons`, float64.
        shift: [neuron] t, likewise.
        law: how it was made, for people.
        provenance: where it came from (run, host), for people; kept in the file's header.
        pre_gain: [neuron] g, likewise; None for ones.
        added: per layer, what is added to the output; every neuron that it reads is among `neurons`.
        base: the model that it was made for, by its tensors' hashes; None if that was never said.
    """

    neurons: NeuronSet
    gain: Float[Tensor, " neuron"]
    shift: Float[Tensor, " neuron"]
    law: str
    provenance: dict[str, Any] = field(default_factory=dict)
    pre_gain: Float[Tensor, " neuron"] | None = None
    added: Mapping[int, LowRank] = field(default_factory=dict)
    base: Base | None = None

    def __post_init__(self) -> None:
        n = len(self.neurons)
        if self.pre_gain is None:
            object.__setattr__(self, "pre_gain", torch.ones(n, dtype=torch.float64))
        for name in ("gain", "shift", "pre_gain"):
            values = getattr(self, name)
            if values.shape != (n,) or not bool(values.isfinite().all()):
                raise ToxmemError(f"a deletion of {n} neurons needs {n} finite values of {name}")
            object.__setattr__(self, name, values.double().cpu())
        check_layers(self.added, n_layers=self.neurons.n_layers)
        for layer, update in self.added.items():
            self._check_added(layer, update)
        object.__setattr__(
            self, "added", {layer: self.added[layer] for layer in sorted(self.added)}
        )

    def _check_added(self, layer: int, update: LowRank) -> None:
        d_mlp, rank = self.neurons.d_mlp, update.V.shape[0]
        if update.U.shape != (d_mlp, rank) or update.constant.shape != update.V.shape[1:]:
            raise ToxmemError(f"the low-rank part in layer {layer} has shapes that do not fit")
        if not all(bool(x.isfinite().all()) for x in (update.U, update.V, update.constant)):
            raise ToxmemError(f"the low-rank part in layer {layer} has values that are not finite")
        read = set(update.U.any(1).nonzero()[:, 0].tolist())
        if not read <= set(self.neurons.by_layer().get(layer, [])):
            raise ToxmemError(
                f"the low-rank part in layer {layer} reads neurons that are not listed"
            )

    def __repr__(self) -> str:
        return f"Deletion({self.law}, {self.neurons!r})"

    def __str__(self) -> str:
        return repr(self)

    def display(self) -> Display:
        """A row per layer: the law and the neurons that it is on."""
        rows = []
        for layer, law in self.by_layer().items():
            rank = 0 if law.low_rank is None else law.low_rank.V.shape[0]
            gains = (_span(law.pre_gain), _span(law.gain), _span(law.shift))
            numbers = ", ".join(map(str, law.neurons.tolist()))
            rows.append((str(layer), str(len(law.neurons)), *gains, str(rank), numbers))
        head = ("layer", "n", "input gain", "gain", "shift", "rank added", "neurons")
        on = self.neurons.display().headline
        base = "any model of this shape" if self.base is None else self.base.name
        told = f"Made for {base}{', and forced on another' if self.forced else ''}."
        return Display(f"Deletion by {self.law}: {on}", (Table(head, tuple(rows)),), (told,))

    @classmethod
    def zero(cls, neurons: NeuronSet) -> "Deletion":
        """Silence: activation to 0."""
        zeros = torch.zeros(len(neurons), dtype=torch.float64)
        return cls(neurons, zeros, zeros.clone(), "zero")

    @classmethod
    def mean(cls, neurons: NeuronSet, mean_activation: Float[Tensor, "layer d_mlp"]) -> "Deletion":
        """Activation to its mean on some text (such as `NeuronScores.mean_activation`).

        Raises:
            ToxmemError: means of another shape, or not finite.
        """
        if mean_activation.shape != (neurons.n_layers, neurons.d_mlp):
            raise ToxmemError(
                f"mean activations of shape {tuple(mean_activation.shape)} for a model of "
                f"{neurons.n_layers} x {neurons.d_mlp} neurons"
            )
        index = _pairs(neurons)
        shift = mean_activation.double().cpu()[index[:, 0], index[:, 1]]
        return cls(neurons, torch.zeros_like(shift), shift, "mean")

    @classmethod
    def scale(cls, neurons: NeuronSet, factor: Gain) -> "Deletion":
        """Activation times `factor`: one number, or one per neuron in the order of `neurons` (dampening)."""
        gain, words = _gains(neurons, factor)
        return cls(neurons, gain, torch.zeros_like(gain), f"scale {words}")

    @classmethod
    def input_gain(cls, neurons: NeuronSet, factor: Gain) -> "Deletion":
        """What goes into the nonlinearity times `factor` (AurA, Suau et al. 2024, on the MLP's first matrix).

        Args:
            neurons: which.
            factor: one number, or one per neuron in the order of `neurons`.

        Raises:
            ToxmemError: another number of gains, or not finite.
        """
        gain, words = _gains(neurons, factor)
        ones = torch.ones_like(gain)
        law = f"input gain {words}"
        return cls(neurons, ones, torch.zeros_like(gain), law, pre_gain=gain)

    @classmethod
    def low_rank(cls, updates: Mapping[int, tuple[Tensor, Tensor]], *, n_layers: int) -> "Deletion":
        """`W -> W + U V` on the output matrix: value-vector edits, projections, rank-one edits.

        Args:
            updates: per layer U [d_mlp, rank] and V [rank, d_model].
            n_layers: of the model.

        Raises:
            ToxmemError: no layer, shapes that do not fit each other, values that are not finite.
        """
        if not updates:
            raise ToxmemError("a low-rank law needs at least one layer with its U and V")
        widths = {(U.shape[0], V.shape[-1]) for U, V in updates.values()}
        fits = all(U.ndim == V.ndim == 2 and U.shape[1] == V.shape[0] for U, V in updates.values())
        if not fits or len(widths) > 1:
            raise ToxmemError(
                "a low-rank law needs U [d_mlp, rank] and V [rank, d_model] per layer"
            )
        if not all(bool(x.isfinite().all()) for pair in updates.values() for x in pair):
            raise ToxmemError("a low-rank law needs finite values of U and V")
        (d_mlp, d_model), *_ = widths
        nothing = torch.zeros(d_model, dtype=torch.float64)
        added = {
            layer: LowRank(U.double().cpu(), V.double().cpu(), nothing)
            for layer, (U, V) in updates.items()
        }
        read = [(layer, int(i)) for layer, x in added.items() for i in x.U.any(1).nonzero()]
        neurons = NeuronSet(tuple(read), n_layers, d_mlp)
        ones = torch.ones(len(neurons), dtype=torch.float64)
        rank = max(V.shape[0] for _, V in updates.values())
        law = f"low rank {rank} in layers {', '.join(str(layer) for layer in sorted(updates))}"
        return cls(neurons, ones, torch.zeros_like(ones), law, added=added)

    @classmethod
    def constant(
        cls, added: Mapping[int, Float[Tensor, " d_model"]], *, n_layers: int, d_mlp: int
    ) -> "Deletion":
        """`y -> y + c`: a vector added to the MLP's output at every position (steering that can be baked).

        Args:
            added: per layer c [d_model].
            n_layers: of the model.
            d_mlp: of the model.

        Raises:
            ToxmemError: no layer, one that the model does not have, or values that are not finite.
        """
        if not added:
            raise ToxmemError("a constant law needs at least one layer with its vector")
        laws = {}
        for layer, vector in added.items():
            value = vector.double().cpu()
            empty = torch.zeros(d_mlp, 0).double(), torch.zeros(0, len(value)).double()
            laws[layer] = LowRank(*empty, value)
        nothing = torch.zeros(0, dtype=torch.float64)
        law = f"constant in layers {', '.join(str(layer) for layer in sorted(added))}"
        none = NeuronSet((), n_layers, d_mlp)
        return cls(none, nothing, nothing.clone(), law, added=laws)

    @property
    def forced(self) -> bool:
        """Whether it was made for another model than its `base`, and its use there forced."""
        return self.base is not None and self.base.forced

    @property
    def on_activations(self) -> bool:
        """Whether it changes activations alone, each by its own gain and shift."""
        return not self.added and self.pre_gain is not None and bool((self.pre_gain == 1).all())

    def then(self, other: "Deletion") -> "Deletion":
        """This law first, `other` on the activations that it leaves, as one law.

        It is what the hooks of the two do when they are attached in this order: a low-rank law reads the activations
        as the laws before it left them, and not as those after it will.

        Raises:
            ToxmemError: laws for models of different shape, or made for different models.
        """
        from tl_toxmem.composition import compose

        return compose(self, other)

    def by_layer(self) -> dict[int, LayerLaw]:
        """The law of each layer that has any."""
        index = _pairs(self.neurons)
        laws = {}
        for layer in sorted({*self.neurons.by_layer(), *self.added}):
            at = index[:, 0] == layer
            pre_gain: Any = self.pre_gain
            laws[layer] = LayerLaw(
                index[at, 1], pre_gain[at], self.gain[at], self.shift[at], self.added.get(layer)
            )
        return laws

    def check_fits(self, n_layers: int, d_mlp: int, d_model: int) -> None:
        """Refuse a model of another shape."""
        ours = self.neurons
        if (ours.n_layers, ours.d_mlp) != (n_layers, d_mlp):
            raise ToxmemError(
                f"this deletion is for a model of {ours.n_layers} x {ours.d_mlp} neurons, "
                f"not {n_layers} x {d_mlp}"
            )
        widths = {x.V.shape[1] for x in self.added.values()}
        if not widths <= {d_model}:
            raise ToxmemError(
                f"this deletion is for a model of d_model {min(widths)}, not {d_model}"
            )

    def hooks(self, model: LensModel) -> list[Hook]:
        """The law as hooks for `model.hooks`.

        Raises:
            ToxmemError: a model of another shape.
        """
        self.check_fits(model.n_layers, model.d_mlp, model.d_model)
        return [hook for layer, law in self.by_layer().items() for hook in layer_hooks(layer, law)]

    @contextmanager
    def applied(self, model: LensModel) -> Iterator[LensModel]:
        """The model with the deletion in force; bit-identical to before when the block ends or raises."""
        with model.edited(self, self.hooks(model)):
            yield model

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: the law, and the model it was made for, if that was said (see `made_for`)."""
        from tl_toxmem.delta import save_deletion

        save_deletion(self, Path(path))

    def made_for(self, model: LensModel) -> "Deletion":
        """The same, for this model and no other: with the SHA-256 of every tensor that it changes.

        Raises:
            ToxmemError: a model of another shape or with processed weights, or a law that cannot be baked into it.
        """
        from tl_toxmem.delta import bind

        return bind(self, model)

    @classmethod
    def load(
        cls, path: str | Path, *, model: LensModel | None = None, force: bool = False
    ) -> "Deletion":
        """Read what `save` wrote.

        Args:
            path: of the file.
            model: that it is meant for; refused if it was made for another.
            force: take it for that model all the same.

        Raises:
            ToxmemError: missing, damaged, of another kind or version, with values that make no law, or made for
                another model.
        """
        from tl_toxmem.delta import check_loaded, load_deletion

        deletion = load_deletion(Path(path))
        if model is not None:
            check_loaded(deletion, model, force=force)
        return deletion


def _pairs(neurons: NeuronSet) -> Int[Tensor, "neuron 2"]:
    return torch.tensor(neurons.neurons, dtype=torch.long).reshape(-1, 2)


def _span(values: Float[Tensor, " neuron"]) -> str:
    """One value, or from the least to the largest; a dash for none."""
    if not len(values):
        return "–"
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _gains(neurons: NeuronSet, factor: Gain) -> tuple[Float[Tensor, " neuron"], str]:
    """One gain per neuron, and how to call them."""
    if isinstance(factor, Tensor) and factor.ndim:
        gain = factor.double()
        words = f"{float(gain.min()):g} to {float(gain.max()):g}" if len(gain) else "of none"
        return gain, words
    value = float(factor)
    return torch.full((len(neurons),), value, dtype=torch.float64), f"{value:g}"
