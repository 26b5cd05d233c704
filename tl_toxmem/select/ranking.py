"""From scores to neurons, in layers of one's choice.

- cost_aware (the default): by `score / (cost + cost_floor x mean cost)`, so that a neuron the model needs for neutral
  text is left alone even if it also speaks for the target;
- top: by the score alone;
- threshold: all whose score is at least `threshold`;
- shared: all that reach `threshold` x a prompt's largest score in at least `share` of the prompts (Dai et al. 2022);
- greedy: one round after the other by what is measured, given what was chosen before (see `greedy.py`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from tl_toxmem.attribute import NeuronScores, highest, top_neurons
from tl_toxmem.config import BY_SIZE, SelectConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.neurons import NeuronSet, check_layers
from tl_toxmem.trace import Trace, mediating_layers, parts_of


def layers_of(
    cfg: SelectConfig, *, n_layers: int, trace: Trace | None = None
) -> tuple[int, ...] | None:
    """The layers to choose from; None for all.

    Raises:
        ToxmemError: a layer that the model does not have, `trace` without a trace, one of another model, or one in
            which no MLP layer mediates.
    """
    wanted = cfg.layers
    if wanted is None:
        return None
    if wanted == "trace":
        if trace is None:
            raise ToxmemError(
                "select.layers = 'trace' needs a trace: give select_neurons trace=, and the other functions "
                "layers=layers_of(cfg, n_layers=..., trace=...)"
            )
        if len(trace.n_restored[0]) != n_layers:
            raise ToxmemError(
                f"the trace is of a model of {len(trace.n_restored[0])} layers, not {n_layers}"
            )
        found = mediating_layers(trace)
        if not found:
            raise ToxmemError(
                "select.layers = 'trace': in no layer is the MLP's effect above zero with its whole interval; trace "
                "more prompts, or name the layers"
            )
        return found
    if isinstance(wanted, str):
        return tuple(parts_of(n_layers)[wanted])
    check_layers(wanted, n_layers=n_layers)
    if not wanted:
        raise ToxmemError("select.layers is empty: name layers, or leave it out for all")
    return wanted


def rank_values(
    scores: NeuronScores, *, cfg: SelectConfig, layers: Sequence[int] | None = None
) -> Float[Tensor, "layer d_mlp"]:
    """What neurons are ranked by (`cfg.method`), minus infinity outside `layers`.

    Raises:
        ToxmemError: scores without cost, or without prompts, where the method needs them.
    """
    if cfg.method in ("cost_aware", "greedy"):
        values = scores.per_cost(floor=cfg.cost_floor)
    elif cfg.method == "shared":
        values = scores.share(threshold=_threshold(cfg))
    else:
        values = scores.scores
    if layers is None:
        return values
    allowed = torch.zeros(values.shape[0], 1, dtype=torch.bool)
    allowed[list(layers)] = True
    return values.masked_fill(~allowed, -torch.inf)


def leaving_half(values: Float[Tensor, "layer d_mlp"], n: int) -> int:
    """The largest number up to `n` of highest neurons that leaves half of every layer, for controls as large."""
    n_layers, d_mlp = values.shape
    layers = torch.tensor([layer for layer, _ in highest(values, n)])
    taken = one_hot(layers, n_layers).cumsum(0).amax(1)
    return int((taken <= d_mlp // 2).sum())


def select_neurons(
    scores: NeuronScores, *, cfg: SelectConfig, trace: Trace | None = None
) -> NeuronSet:
    """The neurons that `cfg` asks for; `greedy` ranks as `cost_aware` here (see `select_greedily`).

    Args:
        scores: of any method.
        cfg: method, number or threshold, layers.
        trace: for `cfg.layers = "trace"`.

    Raises:
        ToxmemError: no k for a method that needs one (use `choose_k` first), an unknown layer, more neurons than the
            layers have, or a threshold that none or all reach.
    """
    n_layers, d_mlp = scores.scores.shape
    layers = layers_of(cfg, n_layers=n_layers, trace=trace)
    values = rank_values(scores, cfg=cfg, layers=layers)
    available = int((values > -torch.inf).sum())
    if cfg.method not in BY_SIZE:
        least = cfg.share if cfg.method == "shared" else _threshold(cfg)
        reached = (values >= least).nonzero().tolist()
        if not reached:
            raise ToxmemError(
                f"select.method = {cfg.method!r}: no neuron reaches {least:g}; the highest has "
                f"{float(values.max()):.3g}"
            )
        return NeuronSet(tuple((layer, i) for layer, i in reached), n_layers, d_mlp)
    if cfg.k is None:
        raise ToxmemError("select_neurons needs cfg.k: set it, or take it from choose_k")
    if cfg.k > available:
        raise ToxmemError(f"select.k is {cfg.k}, but there are {available} neurons to choose from")
    return top_neurons(values, cfg.k)


def _threshold(cfg: SelectConfig) -> float:
    if cfg.threshold is None:
        raise ToxmemError(f"select.method = {cfg.method!r} needs select.threshold")
    return cfg.threshold
