"""ROME (Meng et al. 2022): one rank of an MLP's output matrix rewritten for each prompt, towards a benign continuation.

With k* and v* of a prompt (see `rome_values.py`) and the covariance C = E[k k^T] of the layer's keys on ordinary text,

    W -> W + u (v* - W k* - b)^T,    u = C^-1 k* / (k*^T C^-1 k*),

is the least change, in the norm that C gives, after which the layer puts out v* for k*. Many prompts are edited one
after the other, each on the matrix that the edits before it left: the last is met exactly, the first no more than the
others' keys let it. Keys do not depend on the matrix that is edited, and values are all searched on the unedited model,
so that they are searched together, and the edits of fewer prompts are the first of those of more.

`softness` solves for all prompts at once instead: at 0 all values are met exactly, by the least change that does so;
above, it is MEMIT's closed form (Meng et al. 2023) at one layer. Keys of prompts about one subject are nearly the same,
and to meet two values there takes a change that breaks the model, so it is not the default.

The matrix is changed and the bias is not. The token is the last of the subject, as in the trace; in a prompt without a
subject, or with `token = "last"`, it is the prompt's last.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.comparators.base import Comparator, Material
from tl_toxmem.comparators.counts import whole_numbers
from tl_toxmem.comparators.rome_values import draw_prefixes, find_associations
from tl_toxmem.config import ComparatorConfig, RomeConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.neutral import encode_documents
from tl_toxmem.progress import in_batches
from tl_toxmem.tokens import align
from tl_toxmem.trace import parts_of

_STRENGTHS = (1.0, 4.0, 16.0)
_BATCH_TOKENS = 2048
_CONDITION = 1e10
"""Beyond it, values that are met are met by rounding: keys are float32."""


def rome(
    model: LensModel,
    material: Material,
    *,
    strengths: Sequence[float],
    cfg: ComparatorConfig,
    random_layer: bool = False,
) -> dict[float, Deletion]:
    """Edits of the first so many find prompts (lowest hash first), or of all where there are fewer.

    Args:
        model: any host, raw weights; it is left as it was.
        material: with alternatives and the traced layer.
        strengths: how many prompts.
        cfg: with ROME's part.
        random_layer: in place of the traced layer, another of the first third.

    Raises:
        ToxmemError: no traced layer, a prompt without an alternative, too little neutral text.
    """
    counts = whole_numbers("rome", strengths)
    traced = material.traced_layer
    if traced is None:
        raise ToxmemError(
            "rome edits the layer that a trace finds: trace MLP outputs (mlp_out among trace.sites), or give "
            "Material(traced_layer=...)"
        )
    layer = other_layer(model.n_layers, traced, seed=material.seed) if random_layer else traced
    prompts = material.prompts.first(max(counts))
    by_hash = sorted(prompts, key=lambda p: (p.hash, p.id))
    covariance = key_covariance(model, material.neutral, layer=layer, cfg=cfg.rome)
    items = align(model, material.aimed(by_hash))
    if cfg.rome.token == "last":  # as of prompts without a subject
        items = [replace(x, subject=(int(model.prepend_bos), len(x.tokens))) for x in items]
    found = find_associations(
        model,
        items,
        layer=layer,
        prefixes=draw_prefixes(model, material.neutral, cfg=cfg.rome, seed=material.seed),
        cfg=cfg.rome,
    )
    laws = {}
    for count in dict.fromkeys(min(count, len(items)) for count in counts):
        some = found.first(count)
        update = rank_ones(
            some.keys, some.values - some.outputs, covariance, softness=cfg.rome.softness
        )
        laws[float(count)] = Deletion.low_rank({layer: update}, n_layers=model.n_layers)
    return laws


def other_layer(n_layers: int, traced: int, *, seed: int) -> int:
    """A random layer of the first third, but not the traced one; the next after it, where that was its only one.

    Raises:
        ToxmemError: a model of one layer.
    """
    early = parts_of(n_layers)["early"]
    others = [layer for layer in early if layer != traced] or [early.stop]
    if n_layers < 2:
        raise ToxmemError("rome_random_layer needs a model with another layer than the traced one")
    return random.Random(seed).choice(others)


def rank_ones(
    keys: Float[Tensor, "edit d_mlp"],
    residuals: Float[Tensor, "edit d_model"],
    covariance: Float[Tensor, "d_mlp d_mlp"],
    *,
    softness: float | None = None,
) -> tuple[Float[Tensor, "d_mlp edit"], Float[Tensor, "edit d_model"]]:
    """U and V, so that W + U V puts out so much more for the keys and changes little else.

    Args:
        keys: k*, float64.
        residuals: v* - W k* - b of the unedited matrix, float64.
        covariance: of keys on ordinary text, float64.
        softness: None: one edit after the other; else all at once, with this weight of what was known, in means of
            k*^T C^-1 k*.

    Raises:
        ToxmemError: a covariance that is singular; all at once at 0, keys that depend on each other.
    """
    factor, singular = torch.linalg.cholesky_ex(covariance)
    if singular:
        raise ToxmemError(
            "rome: the covariance of the keys is singular (neurons that are never active, or too little text): give "
            "more neutral text or set compare.comparators.rome.ridge above 0"
        )
    toward = torch.cholesky_solve(keys.T, factor)
    own = (keys * toward.T).sum(1)
    U = toward / own
    overlap = keys @ U  # what each edit, of residual 1, does at each key: 1 at its own
    if softness is None:  # residuals less what the edits before have done
        V = torch.linalg.solve_triangular(overlap, residuals, upper=False)
        return U, V
    overlap = overlap + softness * own.mean() * (1 / own).diag()
    if float(torch.linalg.cond(overlap)) > _CONDITION:
        raise ToxmemError(
            "rome: two prompts have the same key, and one output cannot have two values: remove one of the prompts, "
            "or set compare.comparators.rome.softness above 0"
        )
    return U, torch.linalg.solve(overlap, residuals)


class _Seen(Exception):  # noqa: N818 - no error: the layers above are not needed
    pass


@torch.no_grad()
def key_covariance(
    model: LensModel, texts: Sequence[str], *, layer: int, cfg: RomeConfig
) -> Float[Tensor, "d_mlp d_mlp"]:
    """C = E[k k^T] over the tokens of ordinary text, with the ridge; float64 on the CPU.

    Raises:
        ToxmemError: fewer tokens than neurons, where there is no ridge.
    """
    rows = encode_documents(model, texts, max_tokens=cfg.covariance_tokens)
    n_tokens = sum(len(row) for row in rows)
    if n_tokens < model.d_mlp and not cfg.ridge:
        raise ToxmemError(
            f"rome: the covariance of {model.d_mlp} neurons needs as many tokens of neutral text, not {n_tokens}: give "
            "more text, raise compare.comparators.rome.covariance_tokens, or set compare.comparators.rome.ridge above 0"
        )
    total = torch.zeros(model.d_mlp, model.d_mlp, dtype=torch.float64, device=model.device)
    seen: list[Tensor] = []

    def see(activation: Tensor) -> None:
        seen[:] = [activation]
        raise _Seen

    with model.hooks([("mlp_post", layer, see)]):
        for some in in_batches(
            rows, len(rows), "covariance of keys", length=len, most=_BATCH_TOKENS
        ):
            tokens, mask = model.pad(some)
            try:
                model.forward(tokens, mask, keep=1)
            except _Seen:
                keys = seen.pop()[mask.bool()].float()
                total += (keys.T @ keys).double()
    covariance = total.cpu() / n_tokens
    covariance.diagonal().add_(cfg.ridge * covariance.diagonal().mean())
    return covariance


def _layer(material: Material, cfg: ComparatorConfig, *, random_layer: bool) -> str:  # noqa: ARG001
    assert material.traced_layer is not None  # one of the needs
    n_layers = material.scores.scores.shape[0]
    traced = material.traced_layer
    return f" {other_layer(n_layers, traced, seed=material.seed) if random_layer else traced}"


def _comparator(label: str, family: str, *, random_layer: bool) -> Comparator:
    return Comparator(
        label=label,
        family=family,
        strength="edited prompts",
        strengths=lambda model: _STRENGTHS,  # noqa: ARG005
        make=partial(rome, random_layer=random_layer),
        needs=("alternatives", "traced_layer"),
        detail=partial(_layer, random_layer=random_layer),
    )


ROME = _comparator("ROME, traced layer", "editing", random_layer=False)
ROME_RANDOM_LAYER = _comparator("ROME, random early layer", "control", random_layer=True)
