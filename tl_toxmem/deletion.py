"""The deletion law: `a_i -> s_i a_i + t_i` on chosen MLP neurons, the same at every position and prompt.

Zero is s = 0, t = 0; mean is s = 0, t = the neuron's mean activation; scale is t = 0. One record, two
interpreters: hooks at `mlp.hook_post` (here) and rows of the output matrix (`baking.py`), which must agree to
rounding. What depends on position or prompt is an experiment, not a deletion, and has no place here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_tensors, write_tensors
from tl_toxmem.model import Hook, HookFn, LensModel
from tl_toxmem.neurons import NeuronSet

KIND = "deletion"


@dataclass(frozen=True)
class Deletion:
    """A law on neurons.

    Attributes:
        neurons: which; sorted and unique.
        gain: [neuron] s, in the order of `neurons`, float64.
        shift: [neuron] t, likewise.
        law: how it was made, for people.
        provenance: where it came from (base model, run), for people; kept in the file's header.
    """

    neurons: NeuronSet
    gain: Float[Tensor, " neuron"]
    shift: Float[Tensor, " neuron"]
    law: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.neurons)
        for name in ("gain", "shift"):
            values = getattr(self, name)
            if values.shape != (n,) or not bool(values.isfinite().all()):
                raise ToxmemError(f"a deletion of {n} neurons needs {n} finite values of {name}")
            object.__setattr__(self, name, values.double())

    def __repr__(self) -> str:
        return f"Deletion({self.law}, {self.neurons!r})"

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
        shift = mean_activation.double()[index[:, 0], index[:, 1]].cpu()
        return cls(neurons, torch.zeros_like(shift), shift, "mean")

    @classmethod
    def scale(cls, neurons: NeuronSet, factor: float) -> "Deletion":
        """Activation times `factor`."""
        gain = torch.full((len(neurons),), factor, dtype=torch.float64)
        return cls(neurons, gain, torch.zeros_like(gain), f"scale {factor:g}")

    def then(self, other: "Deletion") -> "Deletion":
        """This law first, `other` on its outcome, as one law.

        Raises:
            ToxmemError: laws for models of different shape.
        """
        ours, theirs = self.neurons, other.neurons
        if (ours.n_layers, ours.d_mlp) != (theirs.n_layers, theirs.d_mlp):
            raise ToxmemError(
                f"cannot compose laws for {ours.n_layers} x {ours.d_mlp} and "
                f"{theirs.n_layers} x {theirs.d_mlp} neurons"
            )
        both = NeuronSet(ours.neurons + theirs.neurons, ours.n_layers, ours.d_mlp)
        s1, t1 = _on(self, both)
        s2, t2 = _on(other, both)
        return Deletion(
            both, s2 * s1, s2 * t1 + t2, f"{self.law}, then {other.law}", dict(self.provenance)
        )

    def by_layer(self) -> dict[int, tuple[Int[Tensor, " neuron"], Tensor, Tensor]]:
        """Per layer: neuron indices, gain, shift."""
        index = _pairs(self.neurons)
        layers = sorted(self.neurons.by_layer())
        picks = {layer: index[:, 0] == layer for layer in layers}
        return {layer: (index[p, 1], self.gain[p], self.shift[p]) for layer, p in picks.items()}

    def check_fits(self, n_layers: int, d_mlp: int) -> None:
        """Refuse a model of another shape."""
        if (self.neurons.n_layers, self.neurons.d_mlp) != (n_layers, d_mlp):
            raise ToxmemError(
                f"this deletion is for a model of {self.neurons.n_layers} x {self.neurons.d_mlp} neurons, "
                f"not {n_layers} x {d_mlp}"
            )

    def hooks(self, model: LensModel) -> list[Hook]:
        """The law as hooks for `model.hooks`."""
        self.check_fits(model.n_layers, model.d_mlp)
        return [
            ("mlp_post", layer, _affine(index, gain, shift))
            for layer, (index, gain, shift) in self.by_layer().items()
        ]

    @contextmanager
    def applied(self, model: LensModel) -> Iterator[LensModel]:
        """The model with the deletion in force; bit-identical to before when the block ends or raises."""
        with model.hooks(self.hooks(model)):
            yield model

    def save(self, path: str | Path) -> None:
        """Write one small safetensors file."""
        tensors = {"neurons": _pairs(self.neurons), "gain": self.gain, "shift": self.shift}
        shape = {"n_layers": self.neurons.n_layers, "d_mlp": self.neurons.d_mlp}
        write_tensors(
            Path(path), KIND, tensors, {"law": self.law, "provenance": self.provenance, **shape}
        )

    @classmethod
    def load(cls, path: str | Path) -> "Deletion":
        """Read what `save` wrote.

        Raises:
            ToxmemError: missing, damaged, of another kind or version, or with values that make no law.
        """
        tensors, meta = read_tensors(Path(path), KIND)
        try:
            pairs = [(int(layer), int(neuron)) for layer, neuron in tensors["neurons"].tolist()]
            neurons = NeuronSet(tuple(pairs), meta["n_layers"], meta["d_mlp"])
            return cls(neurons, tensors["gain"], tensors["shift"], meta["law"], meta["provenance"])
        except KeyError as error:
            raise ToxmemError(f"{path} is damaged: it lacks {error}") from None


def _pairs(neurons: NeuronSet) -> Int[Tensor, "neuron 2"]:
    return torch.tensor(neurons.neurons, dtype=torch.long).reshape(-1, 2)


def _on(deletion: Deletion, neurons: NeuronSet) -> tuple[Tensor, Tensor]:
    """Gain and shift over a larger set: 1 and 0 where the deletion does nothing."""
    place = {neuron: i for i, neuron in enumerate(neurons)}
    at = [place[neuron] for neuron in deletion.neurons]
    gain = torch.ones(len(neurons), dtype=torch.float64)
    shift = torch.zeros(len(neurons), dtype=torch.float64)
    gain[at], shift[at] = deletion.gain, deletion.shift
    return gain, shift


def _affine(index: Tensor, gain: Tensor, shift: Tensor) -> HookFn:
    def hook(activation: Tensor) -> Tensor:
        at = index.to(activation.device)
        wide = torch.promote_types(
            activation.dtype, torch.float32
        )  # bfloat16: compute wide, round once
        chosen = activation[..., at].to(wide) * gain.to(activation.device, wide)
        edited = activation.clone()
        edited[..., at] = (chosen + shift.to(activation.device, wide)).to(activation.dtype)
        return edited

    return hook
