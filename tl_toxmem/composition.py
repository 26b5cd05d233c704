"""Two deletions in turn, as one of the same form."""

import torch
from torch import Tensor

from tl_toxmem.base import same_base
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.law import LowRank
from tl_toxmem.neurons import NeuronSet


def compose(first: Deletion, second: Deletion) -> Deletion:
    """`first`, then `second` on the activations that it leaves.

    With `a' = s a + t` what the first leaves, the second makes `s' a' + t'` of it, and reads `a'` for what it adds:
    `(a' U') V' = (a (s U')) V' + t U' V'`, so that all is again a law on `a`.

    Raises:
        ToxmemError: laws for models of different shape, or made for different models.
    """
    ours, theirs = first.neurons, second.neurons
    if (ours.n_layers, ours.d_mlp) != (theirs.n_layers, theirs.d_mlp):
        raise ToxmemError(
            f"cannot compose laws for {ours.n_layers} x {ours.d_mlp} and "
            f"{theirs.n_layers} x {theirs.d_mlp} neurons"
        )
    widths = {x.V.shape[1] for x in (*first.added.values(), *second.added.values())}
    if len(widths) > 1:
        raise ToxmemError(f"cannot compose laws for d_model {min(widths)} and {max(widths)}")
    both = NeuronSet(ours.neurons + theirs.neurons, ours.n_layers, ours.d_mlp)
    g1, s1, t1 = _over(first, both)
    g2, s2, t2 = _over(second, both)
    return Deletion(
        both,
        s2 * s1,
        s2 * t1 + t2,
        f"{first.law}, then {second.law}",
        {**second.provenance, **first.provenance},
        pre_gain=g2 * g1,
        added=_added(first, second),
        base=same_base(first.base, second.base),
    )


def _over(deletion: Deletion, neurons: NeuronSet) -> tuple[Tensor, Tensor, Tensor]:
    """Input gain, gain and shift over a larger set: 1, 1 and 0 where the deletion does nothing."""
    place = {neuron: i for i, neuron in enumerate(neurons)}
    at = [place[neuron] for neuron in deletion.neurons]
    values = []
    for own, idle in ((deletion.pre_gain, 1.0), (deletion.gain, 1.0), (deletion.shift, 0.0)):
        full = torch.full((len(neurons),), idle, dtype=torch.float64)
        if own is not None:
            full[at] = own
        values.append(full)
    return values[0], values[1], values[2]


def _added(first: Deletion, second: Deletion) -> dict[int, LowRank]:
    added = dict(first.added)
    laws = first.by_layer()
    for layer, update in second.added.items():
        U, constant = update.U, update.constant
        if layer in laws:
            gain = torch.ones(first.neurons.d_mlp, dtype=torch.float64)
            shift = torch.zeros_like(gain)
            gain[laws[layer].neurons], shift[laws[layer].neurons] = (
                laws[layer].gain,
                laws[layer].shift,
            )
            U, constant = gain[:, None] * U, constant + shift @ U @ update.V
        before = added.get(layer)
        added[layer] = (
            LowRank(U, update.V, constant)
            if before is None
            else LowRank(
                torch.cat([before.U, U], dim=1),
                torch.cat([before.V, update.V]),
                before.constant + constant,
            )
        )
    return added
