"""One deletion of every kind, for a model of 4 layers x 128 neurons and d_model 32."""

import torch

_KINDS = ("zero", "mean", "scale", "input gain", "low rank")
SINGLE = (*_KINDS, "constant")
PAIRS = (
    *((first, second) for first in _KINDS for second in _KINDS),
    ("constant", "low rank"),
    ("low rank", "constant"),
    ("constant", "constant"),
)
SHIFTING = {"mean", "constant"}  # need an output bias, which gated MLPs as a rule have not


def make(law, *, seed: int = 0):
    """A deletion by its name, or by two names the two in turn, on overlapping neurons."""
    from tl_toxmem import Deletion, NeuronSet

    if isinstance(law, tuple):
        return make(law[0], seed=seed).then(make(law[1], seed=seed + 1))
    draw = torch.Generator().manual_seed(seed)
    pairs = tuple((layer, i + seed) for layer in range(4) for i in range(4 + layer))
    neurons = NeuronSet(pairs, 4, 128)
    if law == "zero":
        return Deletion.zero(neurons)
    if law == "mean":
        return Deletion.mean(neurons, torch.randn(4, 128, generator=draw))
    if law == "scale":
        return Deletion.scale(neurons, -0.7 + seed)
    if law == "input gain":
        return Deletion.input_gain(neurons, torch.rand(len(neurons), generator=draw) * 2 - 0.5)
    if law == "constant":
        vector = torch.randn(32, generator=draw)
        return Deletion.constant({1 + seed: vector}, n_layers=4, d_mlp=128)

    def parts():
        U = torch.zeros(128, 2)
        U[seed : seed + 40] = 0.1 * torch.randn(40, 2, generator=draw)
        return U, torch.randn(2, 32, generator=draw)

    return Deletion.low_rank({layer: parts() for layer in (1, 3)}, n_layers=4)
