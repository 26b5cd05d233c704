"""Does tracing say where to edit? After Hase et al. 2023, who found that it hardly does.

One observation per prompt and layer: x, the traced indirect effect of that layer's MLP output on that prompt; y, by
how much an edit confined to that layer lowers the log-probability of the prompt's target. Three regressions of y: on x,
on the layer (a constant for each), and on both. The question is how much x adds to the layer's identity: the slope of x
beside the layers, which may be of either sign, and the gain in R squared, which is never below 0 and so stands beside
what it is by chance, with the prompts' effects dealt out among the prompts anew (the same deal in every layer, since a
prompt's layers belong together).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.config import SelectConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.progress import track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.select import select_neurons
from tl_toxmem.stats import Estimate, interval, resampled
from tl_toxmem.tokens import target_log_probs
from tl_toxmem.trace import Trace

_SITES = ("mlp_out_single", "mlp_out")
_LEAST = 3
_PERMUTATIONS = 1000


@dataclass(frozen=True)
class TraceRegression:
    """How well tracing predicts the success of an edit, by R squared.

    Attributes:
        r2_trace: of y on x alone.
        r2_layer: of y on the layer.
        r2_both: of y on layer and x.
        slope: of x beside the layers, nats of y for a unit of x, with an interval over prompts.
        added: `r2_both - r2_layer`.
        added_by_chance: its mean when prompts are permuted.
        added_by_chance_95: its 95th percentile then.
        metric: unit of x.
        k: neurons deleted in each layer.
        layers: how many.
        effect: [layer] mean x.
        success: [layer] mean y, nats.
    """

    r2_trace: float
    r2_layer: float
    r2_both: float
    slope: Estimate
    added: float
    added_by_chance: float
    added_by_chance_95: float
    metric: str
    k: int
    layers: int
    effect: tuple[float, ...]
    success: tuple[float, ...]

    def text(self) -> str:
        """The finding in words."""
        slope, chance = self.slope, "no more than"
        spread = "" if slope.low is None else f" (95 % {slope.low:.3g} to {slope.high:.3g})"
        if self.added > self.added_by_chance_95:
            chance = "more than"
        return (
            f"Does tracing say where to edit? Over {slope.n} prompts x {self.layers} layers, deleting the best "
            f"{self.k} neurons of one layer: which layer it is explains {self.r2_layer:.1%} of the variance of the "
            f"effect, the traced effect alone {self.r2_trace:.1%}. Beside the layer, a unit of traced effect "
            f"({self.metric}) goes with {slope.value:.3g} nats{spread} and explains {self.added:.1%} more, {chance} by "
            f"chance (prompts permuted: {self.added_by_chance:.1%} on average, up to {self.added_by_chance_95:.1%} in "
            "95 %)."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TraceRegression":
        """Read what `to_json` gave."""
        lists = {name: tuple(values[name]) for name in ("effect", "success")}
        return cls(**{**values, "slope": Estimate(**values["slope"]), **lists})


def why_no_regression(prompts: PromptSet, trace: Trace) -> str | None:
    """Why there can be no regression of these prompts on this trace; None if there can."""
    what = "the regression of an edit's success on the traced effect needs"
    if not any(site in trace.sites for site in _SITES):
        return f"{what} mlp_out among trace.sites"
    n = len({prompt.id for prompt in prompts} & set(trace.prompt_ids))
    return f"{what} at least 3 traced prompts, not {n}" if n < _LEAST else None


def trace_regression(
    model: LensModel,
    prompts: PromptSet,
    trace: Trace,
    scores: NeuronScores,
    *,
    k: int,
    seed: int = 0,
) -> TraceRegression:
    """Regress the success of deleting the `k` best neurons of a layer on that layer's traced effect.

    Args:
        model: any host.
        prompts: among them those that were traced.
        trace: with MLP outputs; single layers are taken where they were traced, else windows.
        scores: that neurons are ranked by, per cost.
        k: neurons deleted in each layer; at most d_mlp.
        seed: of the intervals.

    Raises:
        ToxmemError: no MLP outputs in the trace, none of its prompts among `prompts`, fewer than three.
    """
    reason = why_no_regression(prompts, trace)
    if reason is not None:
        raise ToxmemError(reason)
    site = next(site for site in _SITES if site in trace.sites)
    by_id = {prompt.id: prompt for prompt in prompts}
    rows = [i for i, name in enumerate(trace.prompt_ids) if name in by_id]
    chosen = PromptSet.of(by_id[trace.prompt_ids[i]] for i in rows)
    # The token where the layer's output says most: the last corrupted one or the last of all.
    places = [
        trace.at(place)[rows][:, trace.sites.index(site)] for place in ("last_subject", "last")
    ]
    effect = torch.fmax(*places).nan_to_num(nan=0.0).double()
    base = target_log_probs(model, chosen)
    success = torch.zeros_like(effect)
    for layer in track(range(model.n_layers), "regression", total=model.n_layers):
        best = select_neurons(scores, cfg=SelectConfig(k=k, layers=(layer,)))
        with Deletion.zero(best).applied(model):
            success[:, layer] = (base - target_log_probs(model, chosen)).double()
    return regress(effect, success, metric=trace.metric, k=k, seed=seed)


def regress(
    effect: Float[Tensor, "prompt layer"],
    success: Float[Tensor, "prompt layer"],
    *,
    metric: str,
    k: int,
    seed: int,
) -> TraceRegression:
    """The three regressions of `success` on `effect` and layer; see the module."""
    x, y = effect.numpy(), success.numpy()
    n = len(x)
    rng = np.random.default_rng(seed)
    drawn = np.array([_fit(x, y, weights) for weights in resampled(n, rng)])
    chance = _by_chance(x, y, rng)
    r2_trace, r2_layer, r2_both, slope = _fit(x, y, np.ones(n))
    return TraceRegression(
        r2_trace=r2_trace,
        r2_layer=r2_layer,
        r2_both=r2_both,
        slope=Estimate(slope, *interval(drawn[:, 3]), n),
        added=r2_both - r2_layer,
        added_by_chance=float(chance.mean()),
        added_by_chance_95=float(np.quantile(chance, 0.95)),
        metric=metric,
        k=k,
        layers=x.shape[1],
        effect=tuple(x.mean(0).tolist()),
        success=tuple(y.mean(0).tolist()),
    )


def _by_chance(x: Any, y: Any, rng: np.random.Generator) -> Any:
    """What x adds to R squared under permutations of its prompts, [permutation]."""
    within_x, within_y = x - x.mean(0), y - y.mean(0)
    products = within_x @ within_y.T
    n = len(x)
    dealt = rng.permuted(np.tile(np.arange(n), (_PERMUTATIONS, 1)), axis=1)
    total = float((within_x**2).sum() * ((y - y.mean()) ** 2).sum())
    return products[dealt, np.arange(n)].sum(1) ** 2 / total if total else np.zeros(_PERMUTATIONS)


def _fit(x: Any, y: Any, weights: Any) -> tuple[float, float, float, float]:
    """R squared on x, on layers, on both, and the slope on x beside layers; prompts weighted.

    A constant for each layer is the same as taking each layer's mean away (Frisch, Waugh and Lovell).
    """
    w = weights[:, None]
    total = w.sum() * x.shape[1]

    def r2(residual: Any) -> float:
        centred = y - (w * y).sum() / total
        spread = float((w * centred**2).sum())
        return 1 - float((w * residual**2).sum()) / spread if spread else 0.0

    def slope(a: Any, b: Any) -> float:
        spread = float((w * a**2).sum())
        return float((w * a * b).sum()) / spread if spread else 0.0

    grand_x, grand_y = (v - (w * v).sum() / total for v in (x, y))
    within_x, within_y = (v - (w * v).sum(0) / w.sum() for v in (x, y))
    alone, beside = slope(grand_x, grand_y), slope(within_x, within_y)
    return (
        r2(grand_y - alone * grand_x),
        r2(within_y),
        r2(within_y - beside * within_x),
        beside,
    )
