"""The sets that every selection is held against, each as large as it and none of its neurons in them.

- random_neurons: as many in each layer, each about as loud on neutral text as the one that it stands for
  (activation-weighted norm, where that is known), and none of the twentieth of its layer that scores highest: neurons
  as loud as the selected ones may well be of their kind, and then the control would be a second selection;
- random_early_layers: from the first third of the layers, as in the paper's comparison;
- random_anywhere: from all layers;
- decoy: what the same procedure finds when it is given benign prompts and their right continuations.
"""

from collections.abc import Sequence

from tl_toxmem.attribute import NeuronScores, top_neurons
from tl_toxmem.config import SelectConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.select.ranking import rank_values
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
        layers: that the decoy is chosen from; None for all.

    Raises:
        ToxmemError: too few neurons left to draw from.
    """
    loudness = None if scores.loudness.isnan().any() else scores.loudness
    n_layers = chosen.n_layers
    found = {
        "random_neurons": chosen.random_like(
            seed=seed, loudness=loudness, without=_high(chosen, scores)
        ),
        "random_early_layers": chosen.random_like(seed=seed, layers=parts_of(n_layers)["early"]),
        "random_anywhere": chosen.random_like(seed=seed, layers=range(n_layers)),
    }
    if benign is not None:
        cfg = cfg or SelectConfig()
        ranking = cfg.model_copy(update={"method": _ranking(cfg)})
        values = rank_values(benign, cfg=ranking, layers=layers).clone()
        for neuron in chosen:
            values[neuron] = -float("inf")
        if len(chosen) > int((values > -float("inf")).sum()):
            raise ToxmemError(f"too few neurons are left for a decoy of {len(chosen)}")
        found["decoy"] = top_neurons(values, len(chosen))
    return found


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
