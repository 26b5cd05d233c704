"""Attribution patching: what a neuron carries of what corruption takes away, to first order.

The score of a prompt is the sum over positions of `g (a - a')`, with `g` the gradient of the whole target's
log-probability at the clean activation `a`, and `a'` the mean activation under noise on the subject (Nanda 2023).

`grad_drop` (Kramar et al. 2024, AtP*) takes for each layer the gradient that does not pass through that layer's
attention and MLP outputs, and scores by the mean over layers of the absolute values: paths that cancel in the whole
gradient do not cancel in all of them. One backward pass per layer; its scores have no sign.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.attribute.batches import Batch, aligned, each_prompt, gradients_of
from tl_toxmem.attribute.scores import NeuronScores
from tl_toxmem.attribute.texts import Texts
from tl_toxmem.config import AttributeConfig
from tl_toxmem.corrupt import add_noise, gaussian_noise, noise_level
from tl_toxmem.memory import tokens_for_gradients
from tl_toxmem.model import Hook, HookFn, LensModel
from tl_toxmem.prompts import PromptSet
from tl_toxmem.tokens import PromptTokens

Gradients = Sequence[Float[Tensor, "batch pos d_mlp"]]


def attribution_patching(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,  # noqa: ARG001 - of every method
) -> NeuronScores:
    """Score every neuron by gradient x (clean - corrupted activation).

    Raises:
        ToxmemError: no prompts, or one that does not fit the model.
    """
    return _patching(model, prompts, "attribution_patching", cfg)


def grad_drop(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: AttributeConfig,
    texts: Texts | None = None,  # noqa: ARG001 - of every method
) -> NeuronScores:
    """The same with each layer's paths dropped in turn: the mean over layers of absolute values.

    Raises:
        ToxmemError: no prompts, or one that does not fit the model.
    """
    return _patching(model, prompts, "grad_drop", cfg)


def _patching(
    model: LensModel, prompts: PromptSet, method: str, cfg: AttributeConfig
) -> NeuronScores:
    items = aligned(model, prompts)
    level = noise_level(model, items, sigma=cfg.noise_sigma)
    work = partial(_changes, signed=method == "attribution_patching", cfg=cfg, level=level)
    most = tokens_for_gradients(model)
    found = each_prompt(model, work, items, "attribution patching", size=cfg.batch_size, most=most)
    return NeuronScores.of_prompts(
        method, found, prompts, seed=cfg.seed, model=model, facts={"noise": level}
    )


def _changes(
    model: LensModel, batch: Batch, *, signed: bool, cfg: AttributeConfig, level: float
) -> Float[Tensor, "batch layer d_mlp"]:
    ways_of: Callable[[LensModel, Batch], tuple[Gradients, Iterator[Gradients]]]
    ways_of = _whole if signed else _dropped
    clean, ways = ways_of(model, batch)
    corrupted = _corrupted_activations(model, batch.items, cfg=cfg, level=level)
    real = batch.mask[:, :, None]
    found = torch.zeros(len(batch.items), model.n_layers, model.d_mlp)
    # A layer's own neurons have no gradient in the pass that drops their layer.
    n_ways = 1 if signed else max(1, model.n_layers - 1)
    for gradients in ways:
        for layer, (a, noisy, g) in enumerate(zip(clean, corrupted, gradients, strict=True)):
            one = (g * (a - noisy) * real).float().sum(1).cpu()
            found[:, layer] += (one if signed else one.abs()) / n_ways
    return found


def _whole(model: LensModel, batch: Batch) -> tuple[Gradients, Iterator[Gradients]]:
    activations, gradients = gradients_of(model, batch)
    return activations, iter([gradients])


def _dropped(model: LensModel, batch: Batch) -> tuple[Gradients, Iterator[Gradients]]:
    """Activations, and for each layer the gradients that do not pass through its outputs: one graph, many passes."""
    found: dict[int, Tensor] = {}
    dropped = [-1]  # which layer; the hooks of the graph look it up at each pass

    def grab(layer: int) -> HookFn:
        def hook(activation: Tensor) -> None:
            found[layer] = activation

        return hook

    def gate(layer: int) -> HookFn:
        def hook(output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(  # type: ignore[no-untyped-call]
                    lambda g: torch.zeros_like(g) if dropped[0] == layer else g
                )

        return hook

    layers = range(model.n_layers)
    hooks: list[Hook] = [("embed", 0, lambda a: a.detach().requires_grad_(True))]
    hooks += [("mlp_post", layer, grab(layer)) for layer in layers]
    hooks += [(site, layer, gate(layer)) for site in ("attn_out", "mlp_out") for layer in layers]
    with torch.enable_grad(), model.hooks(hooks):
        value = batch.log_prob(model.host.forward(batch.tokens, batch.mask, batch.keep)).sum()
    states = [found[layer] for layer in layers]

    def passes() -> Iterator[Gradients]:
        for layer in layers:
            dropped[0] = layer
            more = layer + 1 < model.n_layers
            yield torch.autograd.grad(value, states, retain_graph=more)

    return [state.detach() for state in states], passes()


def _corrupted_activations(
    model: LensModel, items: list[PromptTokens], *, cfg: AttributeConfig, level: float
) -> list[Float[Tensor, "batch pos d_mlp"]]:
    """Mean activations over noise draws, per layer, padded as the batch is."""
    width = max(len(item.full) for item in items)
    result = [
        torch.zeros(len(items), width, model.d_mlp, device=model.device)
        for _ in range(model.n_layers)
    ]
    for row, item in enumerate(items):
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
