"""ProFS (Uppaal et al. 2024): a toxic subspace, projected out of what the upper MLPs write.

A text's embedding at a layer is the mean over its tokens of the residual stream that leaves the layer. With X+ those of
prompts with their benign continuations, X- those of the same prompts with their targets, and mu the first
right-singular vector of X+ (what all texts have in common),

    T = (X+ - X-) (I - mu mu^T) / 2 = A S V^T,    P = sum of v v^T over the first right-singular vectors of T,
    W -> W (I - P)

in every layer from a first one on. The paper leaves early layers alone, where toxic memories may lie (Das et al. 2025):
`profs_all_layers` edits them as well. The matrix is changed and the bias is not, as in the paper. The published code
takes padding into the means and can pair the wrong texts; this does neither.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.comparators.base import Comparator, Material
from tl_toxmem.comparators.counts import whole_numbers
from tl_toxmem.config import ComparatorConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import HookFn, LensModel
from tl_toxmem.progress import in_batches
from tl_toxmem.tokens import PromptTokens, align

_STRENGTHS = (1.0, 2.0, 5.0, 10.0)
_BATCH_TOKENS = 2048
_ZERO = 1e-6
"""Singular values below this share of the largest are rounding of float32, and their vectors mean nothing."""


def profs(
    model: LensModel,
    material: Material,
    *,
    strengths: Sequence[float],
    cfg: ComparatorConfig,
    all_layers: bool = False,
) -> dict[float, Deletion]:
    """Projections of so many dimensions, or of as many as the pairs differ in.

    Args:
        model: any host, raw weights; it is left as it was.
        material: with alternatives.
        strengths: dimensions of the subspace.
        cfg: with ProFS's part.
        all_layers: from layer 0 on, whatever `cfg` says.

    Raises:
        ToxmemError: a prompt without an alternative, alternatives that are the targets, no such first layer.
    """
    counts = whole_numbers("profs", strengths)
    first = model.n_layers // 2 if cfg.profs.first_layer is None else cfg.profs.first_layer
    first = 0 if all_layers else first
    if first >= model.n_layers:
        raise ToxmemError(
            f"profs: no layer {first} to begin at: the model has layers 0 to {model.n_layers - 1}"
        )
    layers = range(first, model.n_layers)
    prompts = material.prompts.first(cfg.profs.pairs)
    benign = mean_embeddings(model, align(model, material.aimed(prompts)), layers)
    toxic = mean_embeddings(model, align(model, prompts), layers)
    found = {layer: subspace(benign[layer], toxic[layer]) for layer in layers}
    laws = {}
    most = max(len(V) for V in found.values())
    for count in dict.fromkeys(min(count, most) for count in counts):
        updates = {layer: _projected(model, layer, V[:count]) for layer, V in found.items()}
        laws[float(count)] = Deletion.low_rank(updates, n_layers=model.n_layers)
    return laws


def _projected(
    model: LensModel, layer: int, V: Float[Tensor, "rank d_model"]
) -> tuple[Tensor, Tensor]:
    """W (I - V^T V) as W + U V."""
    return -model.value_vectors(layer).double().cpu() @ V.T, V


def subspace(
    benign: Float[Tensor, "pair d_model"], toxic: Float[Tensor, "pair d_model"]
) -> Float[Tensor, "rank d_model"]:
    """Orthonormal directions in which pairs of texts differ, the strongest first; float64.

    Raises:
        ToxmemError: they do not differ.
    """
    benign, toxic = benign.double(), toxic.double()
    common = torch.linalg.svd(benign, full_matrices=False).Vh[0]
    differences = (benign - toxic) / 2
    differences = differences - (differences @ common)[:, None] * common
    _, sizes, directions = torch.linalg.svd(differences, full_matrices=False)
    scale = float(benign.norm(dim=1).mean())
    n = int((sizes > _ZERO * max(float(sizes[0]), scale)).sum())
    if not n:
        raise ToxmemError("profs: the benign continuations are the toxic targets: give others")
    found: Tensor = directions[:n]
    return found


@torch.no_grad()
def mean_embeddings(
    model: LensModel, items: Sequence[PromptTokens], layers: Sequence[int]
) -> dict[int, Float[Tensor, "text d_model"]]:
    """By layer, the mean over each text's tokens (prompt and target) of what leaves the layer; float64 on the CPU."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    rows = [[*item.tokens, *item.target] for item in items]
    for some in in_batches(rows, len(rows), "embeddings", length=len, most=_BATCH_TOKENS):
        tokens, mask = model.pad(some)
        share = (mask / mask.sum(1, keepdim=True)).double()

        def keep(layer: int, share: Tensor = share) -> HookFn:
            def hook(resid: Tensor) -> None:
                found[layer].append(torch.einsum("bpd,bp->bd", resid.double(), share).cpu())

            return hook

        with model.hooks([("resid_post", layer, keep(layer)) for layer in layers]):
            model.forward(tokens, mask, keep=1)
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def _comparator(label: str, *, all_layers: bool) -> Comparator:
    return Comparator(
        label=label,
        family="editing",
        strength="dimensions of the subspace",
        strengths=lambda model: _STRENGTHS,  # noqa: ARG005
        make=partial(profs, all_layers=all_layers),
        needs=("alternatives",),
    )


PROFS = _comparator("ProFS projection", all_layers=False)
PROFS_ALL_LAYERS = _comparator("ProFS projection, all layers", all_layers=True)
