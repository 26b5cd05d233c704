"""Which neurons get a gate that is learned."""

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.config import SelectConfig
from tl_toxmem.gates import n_candidates
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.select.ranking import leaving_half, rank_values, select_neurons


def gate_candidates(
    scores: NeuronScores, *, cfg: SelectConfig, layers: tuple[int, ...] | None = None
) -> NeuronSet:
    """The highest per cost: `cfg.k` of them, or `n_candidates`; fewer where no control as large could be drawn.

    Args:
        scores: with costs.
        cfg: how neurons are ranked.
        layers: to choose from; None for all.
    """
    n_layers, d_mlp = scores.scores.shape
    n = cfg.k or n_candidates(len(layers or range(n_layers)), d_mlp)
    n = leaving_half(rank_values(scores, cfg=cfg, layers=layers), n)
    return select_neurons(scores, cfg=cfg.model_copy(update={"k": n, "layers": layers}))
