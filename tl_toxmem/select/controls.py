"""The sets that every selection is held against, each as large as it and none of its neurons in them.

- random_neurons: as many in each layer, each about as loud on neutral text as the one that it stands for
  (activation-weighted norm, where that is known), and none of the twentieth of its layer that scores highest: those may
  well be of the selected ones' kind, and then the control would be a second selection;
- random_early_layers: from the first third of the layers, as in the paper's comparison;
- random_anywhere: from all layers;
- decoy: what the same procedure finds when it is given benign prompts and their right continuations.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute import NeuronScores, top_neurons
from tl_toxmem.config import SelectConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.select.ranking import layers_of, rank_values
from tl_toxmem.trace import parts_of

_HIGH = 0.05


def control_sets(
    chosen: NeuronSet,
    scores: NeuronScores,
    *,
    seed: int,
    cfg: SelectConfig | None = None,
    benign: NeuronScores | None = None,
    layers: Sequence[int] | None = None,
) -> dict[str, NeuronSet]:
    """The controls of a selection by name; the decoy only where there are scores of benign prompts.

    Args:
        chosen: the selection.
        scores: that it was chosen by.
        seed: of the draws.
        cfg: by which the decoy is chosen as the selection was.
        benign: scores of the same method on benign prompts.
        layers: that the decoy is chosen from; None: those that `cfg.layers` names.

    Raises:
        ToxmemError: too few neurons left to draw from, or scores of a model of another shape.
    """
    for some in (scores, benign):
        if some is not None:
            some.check_shape(chosen.n_layers, chosen.d_mlp)
    n_layers = chosen.n_layers
    found = {
        "random_neurons": chosen.random_like(
            seed=seed, loudness=loudness_of(scores), without=_high(chosen, scores)
        ),
        "random_early_layers": chosen.random_like(seed=seed, layers=parts_of(n_layers)["early"]),
        "random_anywhere": chosen.random_like(seed=seed, layers=range(n_layers)),
    }
    if benign is not None:
        cfg = cfg or SelectConfig()
        if layers is None:
            layers = layers_of(cfg, n_layers=n_layers)
        ranking = cfg.model_copy(update={"method": _ranking(cfg)})
        values = rank_values(benign, cfg=ranking, layers=layers).clone()
        for neuron in chosen:
            values[neuron] = -float("inf")
        if len(chosen) > int((values > -float("inf")).sum()):
            raise ToxmemError(f"too few neurons are left for a decoy of {len(chosen)}")
        found["decoy"] = top_neurons(values, len(chosen))
    return found


def loudness_of(scores: NeuronScores) -> Float[Tensor, "layer d_mlp"] | None:
    """What controls are matched by; None for scores that were made without neutral text."""
    return None if scores.loudness.isnan().any() else scores.loudness


def loudness_ratios(
    chosen: NeuronSet, controls: Mapping[str, NeuronSet], scores: NeuronScores
) -> dict[str, float | None]:
    """How loud each control is against the selection: their sums of `scores.loudness`, one over the other.

    None where the selection is never active on neutral text.

    Raises:
        ToxmemError: scores that were made without neutral text, or of another shape.
    """
    scores.check_shape(chosen.n_layers, chosen.d_mlp)
    if scores.loudness.isnan().any():
        raise ToxmemError("these scores have no loudness: give neutral text to attribute_neurons")

    def total(neurons: NeuronSet) -> float:
        return sum(float(scores.loudness[neuron]) for neuron in neurons)

    own = total(chosen)
    return {name: total(some) / own if own else None for name, some in controls.items()}


def controls_text(ratios: Mapping[str, float | None], no_decoy: str | None) -> str:
    """How loud the controls are, and why there is no decoy, in words.

    Args:
        ratios: see `loudness_ratios`.
        no_decoy: the reason, or None where there is one.
    """
    words = [
        f"{name.replace('_', ' ')} {ratio:.2f} x"
        for name, ratio in ratios.items()
        if ratio is not None
    ]
    text = f"Loudness of the controls against the selection's: {', '.join(words) or 'not known'}."
    return text if no_decoy is None else f"{text} There is no decoy: {no_decoy}."


def _high(chosen: NeuronSet, scores: NeuronScores) -> NeuronSet | None:
    """The highest of each layer; None where the selection is so large that few others are left."""
    if max(map(len, chosen.by_layer().values()), default=0) > chosen.d_mlp // 4:
        return None
    best = scores.scores.topk(max(1, round(_HIGH * chosen.d_mlp)), dim=1).indices.tolist()
    neurons = tuple((layer, i) for layer, some in enumerate(best) for i in some)
    return NeuronSet(neurons, chosen.n_layers, chosen.d_mlp)


def _ranking(cfg: SelectConfig) -> str:
    """How the decoy is ranked: at the selection's size, by cost where the selection looked at it."""
    return "cost_aware" if cfg.method in ("cost_aware", "greedy") else "top"
