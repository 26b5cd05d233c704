"""AurA (Suau et al. 2024): what tells toxic from other texts is dampened in proportion to how well it does.

Of every unit that comes out of a linear layer of an MLP, AUROC g of its highest value over a text's tokens; those with
g > 0.5 are multiplied by `alpha = 1 - 2 (g - 0.5)`, one minus the Gini coefficient. With W and b of the output:

    first matrix     pre_i -> alpha_i pre_i                input gain
    second matrix    y_j   -> alpha_j y_j                  W -> W diag(alpha), b -> alpha b
    a gated MLP's other matrix    up_i -> alpha_i up_i     the same as a_i -> alpha_i a_i

all of which bake. The strength goes from 0, nothing, to 1, the paper's: `1 - 2 strength (g - 0.5)`.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.auroc import Place, aurocs
from tl_toxmem.comparators.base import Comparator, Material
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.sites import Site


def dampening(auroc: Float[Tensor, " unit"], *, strength: float) -> Float[Tensor, " unit"]:
    """The factor of every unit; 1 for those that are no experts."""
    return 1 - 2 * strength * (auroc.double() - 0.5).clamp(min=0)


def _make(
    model: LensModel,
    material: Material,
    *,
    strengths: Sequence[float],
    cfg: ComparatorConfig,  # noqa: ARG001 - of every method
) -> dict[float, Deletion]:
    for strength in strengths:
        if not 0 <= strength <= 1:
            raise ToxmemError(f"aura: strength {strength:g} is not between 0 and 1, the paper's")
    sites: list[Site] = ["mlp_pre", "mlp_up", "mlp_out"] if model.gated else ["mlp_pre", "mlp_out"]
    layers = range(model.n_layers)
    places: list[Place] = [(site, layer) for layer in layers for site in sites]
    found = aurocs(model, material.labelled_for("aura"), places)
    outputs = {layer: _Output(model, layer, found["mlp_out", layer] > 0.5) for layer in layers}
    return {strength: _law(model, found, outputs, strength) for strength in strengths}


class _Output:
    """The columns of a layer's output matrix that are dampened, kept once for all strengths."""

    def __init__(self, model: LensModel, layer: int, which: Tensor) -> None:
        self.which = which.nonzero()[:, 0]
        self.columns = model.value_vectors(layer).cpu().double()[:, self.which]
        bias = model.mlp_weights(layer).b_out
        self.bias = None if bias is None else bias.cpu().double()


def _law(
    model: LensModel,
    found: Mapping[Place, Tensor],
    outputs: Mapping[int, _Output],
    strength: float,
) -> Deletion:
    law = Deletion.input_gain(*_gains(model, found, "mlp_pre", strength))
    if model.gated:
        law = law.then(Deletion.scale(*_gains(model, found, "mlp_up", strength)))
    updates, constants = {}, {}
    for layer, output in outputs.items():
        less = dampening(found["mlp_out", layer], strength=strength) - 1
        rows = torch.zeros(len(output.which), model.d_model, dtype=torch.float64)
        rows[torch.arange(len(output.which)), output.which] = less[output.which]
        updates[layer] = output.columns, rows
        if output.bias is not None:
            constants[layer] = output.bias * less
    law = law.then(Deletion.low_rank(updates, n_layers=model.n_layers))
    if constants:
        law = law.then(Deletion.constant(constants, n_layers=model.n_layers, d_mlp=model.d_mlp))
    return law


def _gains(
    model: LensModel, found: Mapping[Place, Tensor], site: Site, strength: float
) -> tuple[NeuronSet, Float[Tensor, " neuron"]]:
    """The experts among a layer's neurons, and their factors."""
    values = torch.stack([found[site, layer] for layer in range(model.n_layers)])
    which = values > 0.5
    pairs = tuple((layer, i) for layer, i in which.nonzero().tolist())
    return NeuronSet(pairs, *values.shape), dampening(values[which], strength=strength)


AURA = Comparator(
    label="AurA (Suau et al. 2024)",
    family="deletion",
    strength="share of the dampening",
    strengths=lambda model: (0.25, 0.5, 0.75, 1.0),  # noqa: ARG005 - of every method
    make=_make,
    needs=("labelled",),
    takes="share",
)
