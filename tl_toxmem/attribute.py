"""Neuron attribution: how much each MLP neuron carries of the target's log-probability.

With `a` a neuron's activation after the nonlinearity (`mlp.hook_post`) and `g` the gradient of the whole target's
log-probability there, two first-order estimates in nats, both from one forward and one backward pass per batch,
for all neurons of all layers; each a mean over prompts of a sum over positions, positive where the neuron speaks
for the target:

- `scores`: `g (a - a')`, with `a'` the activation under corruption (attribution patching; Nanda 2023, Kramar et
  al. 2024): what the neuron carries of what noise on the subject takes away.
- `removal`: `g a`, the same with zero for `a'`: what deleting the neuron takes away.

`cost[layer, i] = sqrt(mean over neutral tokens of (g a)^2)` with `g` the gradient of a document's summed loss: the
diagonal-Fisher estimate of what removing the neuron costs (as in Taylor pruning, Molchanov et al. 2017).

Gradients are first order; so the highest scores are checked by really ablating each neuron (activation to
zero at every position), and all numbers are kept side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from tl_toxmem.config import AttributeConfig
from tl_toxmem.corrupt import add_noise, gaussian_noise, noise_level
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_tensors, write_tensors
from tl_toxmem.memory import tokens_for_gradients
from tl_toxmem.model import HookFn, LensModel
from tl_toxmem.neurons import Neuron, NeuronSet
from tl_toxmem.neutral import encode_documents, next_token_log_probs
from tl_toxmem.progress import in_batches, track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.stats import mean_estimate
from tl_toxmem.tokens import PromptTokens, align, target_batch, target_log_prob

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KIND = "neuron_scores"
_COST_PIECE = 128
"""Tokens of a row of neutral text that the cost is estimated on: gradients of a longer one need much more memory."""


@dataclass(frozen=True)
class NeuronScores:
    """Attribution of every neuron, what it would cost to remove it, and the check of the highest scores.

    Attributes:
        n_prompts: prompts that the estimates are means over.
        scores: [layer, d_mlp] attribution patching, nats of the target's log-probability.
        removal: [layer, d_mlp] gradient x activation, nats of the target's log-probability.
        cost: [layer, d_mlp], nats of neutral loss per token; NaN where no neutral text was given.
        mean_activation: [layer, d_mlp] on neutral text, NaN likewise.
        verified: [neuron, 2] the (layer, neuron) of those that rank highest by either estimate.
        measured: [neuron, prompt] what ablating each really takes from the target's log-probability.
        seed: of the noise and the intervals.
    """

    n_prompts: int
    scores: Float[Tensor, "layer d_mlp"]
    removal: Float[Tensor, "layer d_mlp"]
    cost: Float[Tensor, "layer d_mlp"]
    mean_activation: Float[Tensor, "layer d_mlp"]
    verified: Int[Tensor, "neuron 2"]
    measured: Float[Tensor, "neuron prompt"]
    seed: int

    def __repr__(self) -> str:
        layers, d_mlp = self.scores.shape
        return f"NeuronScores({layers} x {d_mlp} neurons, {self.n_prompts} prompts)"

    @property
    def rank_correlation(self) -> dict[str, float]:
        """Spearman correlation of each estimate with the measured effects of the verified neurons (NaN below 3)."""
        measured = self.measured.mean(1).numpy()
        return {
            name: float(spearmanr(self._verified(estimate), measured).statistic)
            if len(measured) > 2
            else float("nan")
            for name, estimate in (("scores", self.scores), ("removal", self.removal))
        }

    def _verified(self, values: Float[Tensor, "layer d_mlp"]) -> Any:
        return values[self.verified[:, 0], self.verified[:, 1]].numpy()

    def per_cost(self, *, floor: float) -> Float[Tensor, "layer d_mlp"]:
        """`removal / (cost + floor x mean cost)`: what removing a neuron takes from the targets, for what it costs.

        Raises:
            ToxmemError: scores that were made without neutral text.
        """
        if self.cost.isnan().any():
            raise ToxmemError("these scores have no cost: give neutral text to attribute_neurons")
        return self.removal / (self.cost + floor * self.cost.mean())

    def top(self, k: int) -> NeuronSet:
        """The `k` neurons whose deletion takes most from the targets by estimate (`removal`), whatever it costs."""
        return top_neurons(self.removal, k)

    def frame(self) -> "pd.DataFrame":
        """The verified neurons: both estimates, the measured effect with its interval (nats), and the cost."""
        import pandas as pd

        rows = []
        for (layer, neuron), effects in zip(self.verified.tolist(), self.measured, strict=True):
            estimate = mean_estimate(effects.numpy(), seed=self.seed)
            rows.append(
                {
                    "layer": layer,
                    "neuron": neuron,
                    "score": float(self.scores[layer, neuron]),
                    "removal": float(self.removal[layer, neuron]),
                    "measured": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "n": estimate.n,
                    "cost": float(self.cost[layer, neuron]),
                }
            )
        columns = ["layer", "neuron", "score", "removal", "measured", "low", "high", "n", "cost"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self) -> "go.Figure":
        """Both estimates against the measured effects of the verified neurons."""
        from tl_toxmem.plots import plot_scores

        return plot_scores(self)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        names = ("scores", "removal", "cost", "mean_activation", "verified", "measured")
        meta = {"n_prompts": self.n_prompts, "seed": self.seed}
        write_tensors(Path(path), KIND, {name: getattr(self, name) for name in names}, meta)

    @classmethod
    def load(cls, path: str | Path) -> "NeuronScores":
        """Read what `save` wrote; the model is not needed."""
        tensors, meta = read_tensors(Path(path), KIND)
        return cls(n_prompts=meta["n_prompts"], seed=meta["seed"], **tensors)


def top_neurons(values: Float[Tensor, "layer d_mlp"], k: int) -> NeuronSet:
    """The `k` neurons of highest value."""
    n_layers, d_mlp = values.shape
    if not 0 <= k <= values.numel():
        raise ToxmemError(f"k is {k}, the model has {values.numel()} neurons")
    return NeuronSet(tuple(_highest(values, k)), n_layers, d_mlp)


def attribute_neurons(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig | None = None,
    neutral: Sequence[str] | None = None,
) -> NeuronScores:
    """Score every MLP neuron, and check the highest scores.

    Args:
        model: any host; processed weights are fine, since `hook_post` is the same.
        prompts: with their targets.
        cfg: noise, batch sizes, how many to check.
        neutral: text that the cost is estimated on; not the text that perplexity is reported on.

    Raises:
        ToxmemError: no prompts, one that does not fit the model, or neutral text without two tokens.
    """
    cfg = cfg or AttributeConfig()
    items = align(model, prompts)
    if not items:
        raise ToxmemError("nothing to attribute: the prompt set is empty")
    level = noise_level(model, items, sigma=cfg.noise_sigma)
    total = torch.zeros(2, model.n_layers, model.d_mlp)
    for batch in in_batches(
        items,
        cfg.batch_size,
        "attribute",
        length=lambda item: len(item.full),
        most=tokens_for_gradients(model),
    ):
        total += _batch_scores(model, batch, cfg=cfg, level=level)
    scores, removal = total / len(items)
    cost, mean_activation = _removal_cost(model, neutral, cfg=cfg)
    verified = _highest_of_either(scores, removal, min(cfg.verify_top, scores.numel()))
    measured = measure_ablations(model, items, verified, batch_size=cfg.batch_size)
    return NeuronScores(
        n_prompts=len(items),
        scores=scores,
        removal=removal,
        cost=cost,
        mean_activation=mean_activation,
        verified=torch.tensor(verified, dtype=torch.long).reshape(-1, 2),
        measured=measured,
        seed=cfg.seed,
    )


def _batch_scores(
    model: LensModel, batch: list[PromptTokens], *, cfg: AttributeConfig, level: float
) -> Float[Tensor, "two layer d_mlp"]:
    """Sums over a batch and its positions: gradient x (clean - corrupted), and gradient x clean."""
    tokens, mask, keep = target_batch(model, batch)
    activations, gradients = model.gradients(
        tokens, mask, metric=lambda logits: target_log_prob(logits, batch).sum(), keep=keep
    )
    corrupted = _corrupted_activations(model, batch, cfg=cfg, level=level)
    sums = torch.zeros(2, model.n_layers, model.d_mlp)
    for layer, (a, noisy, g) in enumerate(zip(activations, corrupted, gradients, strict=True)):
        weighted = g * mask[:, :, None]  # padding counts for nothing
        sums[0, layer] = (weighted * (a - noisy)).float().sum((0, 1)).cpu()
        sums[1, layer] = (weighted * a).float().sum((0, 1)).cpu()
    return sums


def _corrupted_activations(
    model: LensModel, batch: list[PromptTokens], *, cfg: AttributeConfig, level: float
) -> list[Float[Tensor, "batch pos d_mlp"]]:
    """Mean activations over noise draws, per layer, padded as the batch is."""
    width = max(len(item.full) for item in batch)
    result = [
        torch.zeros(len(batch), width, model.d_mlp, device=model.device)
        for _ in range(model.n_layers)
    ]
    for row, item in enumerate(batch):
        noise = gaussian_noise(
            item, level=level, n_noise=cfg.n_noise, d_model=model.d_model, seed=cfg.seed
        )
        grown = torch.nn.functional.pad(noise, (0, 0, 0, len(item.full) - len(item.tokens)))
        tokens, mask = model.pad([item.full] * cfg.n_noise)
        with model.hooks([("embed", 0, add_noise(grown))]):
            _, found = model.capture(
                tokens, mask, sites=[("mlp_post", layer) for layer in range(model.n_layers)], keep=1
            )
        for layer in range(model.n_layers):
            result[layer][row, width - len(item.full) :] = found["mlp_post", layer].float().mean(0)
    return result


def _removal_cost(
    model: LensModel, neutral: Sequence[str] | None, *, cfg: AttributeConfig
) -> tuple[Float[Tensor, "layer d_mlp"], Float[Tensor, "layer d_mlp"]]:
    """Cost and mean activation of every neuron on neutral text; NaN without any."""
    squares = torch.zeros(model.n_layers, model.d_mlp)
    sums = torch.zeros(model.n_layers, model.d_mlp)
    if neutral is None:
        return torch.full_like(squares, torch.nan), torch.full_like(sums, torch.nan)
    n_tokens = 0
    rows = encode_documents(model, neutral, max_tokens=cfg.max_cost_tokens, piece=_COST_PIECE)
    for batch in in_batches(
        rows, cfg.batch_size, "cost", length=len, most=tokens_for_gradients(model)
    ):
        tokens, mask = model.pad(batch)
        activations, gradients = model.gradients(
            tokens,
            mask,
            metric=lambda logits: -next_token_log_probs(logits, tokens, mask).sum(),  # noqa: B023
        )
        real = mask[:, :, None]
        for layer, (a, g) in enumerate(zip(activations, gradients, strict=True)):
            squares[layer] += (((g * a).float() ** 2) * real).sum((0, 1)).cpu()
            sums[layer] += (a.float() * real).sum((0, 1)).cpu()
        n_tokens += int(mask.sum())
    return (squares / n_tokens).sqrt(), sums / n_tokens


def measure_ablations(
    model: LensModel, items: list[PromptTokens], neurons: Sequence[Neuron], *, batch_size: int
) -> Float[Tensor, "neuron prompt"]:
    """What zeroing each neuron, alone and at every position, takes from each target's log-probability (nats).

    Each ablation resumes from the residual stream that enters the neuron's layer.
    """
    effects = torch.zeros(len(neurons), len(items))
    layers = sorted({layer for layer, _ in neurons})
    done = 0
    for batch in in_batches(items, batch_size, "ablate"):
        tokens, mask, keep = target_batch(model, batch)
        logits, entering = model.capture(
            tokens, mask, sites=[("resid_pre", layer) for layer in layers], keep=keep
        )
        base = target_log_prob(logits, batch)
        for row, (layer, neuron) in enumerate(track(neurons, "ablate each", total=len(neurons))):
            with model.hooks([("mlp_post", layer, _silence(neuron))]):
                ablated = model.resume(entering["resid_pre", layer], layer, mask, keep=keep)
            effects[row, done : done + len(batch)] = (base - target_log_prob(ablated, batch)).cpu()
        done += len(batch)
    return effects


def _silence(neuron: int) -> HookFn:
    def hook(activation: Tensor) -> Tensor:
        activation = activation.clone()
        activation[..., neuron] = 0
        return activation

    return hook


def _highest_of_either(
    scores: Float[Tensor, "layer d_mlp"], removal: Float[Tensor, "layer d_mlp"], k: int
) -> list[Neuron]:
    """`k` neurons: down both rankings in turn, each neuron once."""
    turns = zip(_highest(scores, k), _highest(removal, k), strict=True)
    return list(dict.fromkeys(neuron for pair in turns for neuron in pair))[:k]


def _highest(scores: Float[Tensor, "layer d_mlp"], k: int) -> list[Neuron]:
    d_mlp = scores.shape[1]
    return [(i // d_mlp, i % d_mlp) for i in scores.flatten().topk(k).indices.tolist()]
