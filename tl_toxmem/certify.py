"""Certify an exported folder: plain transformers loads it, and it is compared with the hooked model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from tl_toxmem.baking import baked
from tl_toxmem.base import same_bits
from tl_toxmem.certificate import Certificate
from tl_toxmem.config import ExportConfig
from tl_toxmem.contained import readable
from tl_toxmem.deletion import Deletion
from tl_toxmem.filebake import CERTIFICATE_FILE
from tl_toxmem.files import sha256_file
from tl_toxmem.memory import tokens_for_logits
from tl_toxmem.model import LensModel, plain_log_probs
from tl_toxmem.precision import can_compute, precision_name
from tl_toxmem.progress import in_batches, track
from tl_toxmem.weights import WeightFiles

ROWS = 8
_NOT_THE_MODEL = (
    "_name_or_path",
    "architectures",
    "dtype",
    "transformers_version",
    "output_attentions",
)
FITS = 4 * 2**30
"""Bytes of one float64 copy up to which the comparison is made in float64 too; two copies are held."""


def certify(
    model: LensModel,
    deletion: Deletion,
    folder: Path,
    *,
    prompts: Sequence[str],
    base_model: str,
    cfg: ExportConfig,
) -> Certificate:
    """Load `folder` by plain transformers and compare it with `model` under `deletion`'s hooks.

    Args:
        model: the unedited model, raw weights, in any precision.
        deletion: the edit, made for that model (its `base` is known).
        folder: an exported checkpoint.
        prompts: held-out texts.
        base_model: what to call the unedited model.
        cfg: bounds and lengths.
    """
    stored = _stored(deletion)
    wide = torch.promote_types(torch.promote_types(stored, model.dtype), torch.float32)
    if model.dtype != wide:
        model = model.in_precision(wide)
    reloaded = _reload(folder, model)
    as_computed = _check_tensors(reloaded, model, deletion, folder)
    narrow = stored if stored.itemsize < 4 else None
    options: dict[str, Any] = {"prompts": prompts, "cfg": cfg, "stored": narrow}
    found = _compare(model, deletion, reloaded, **options)
    precision, single = precision_name(wide), None
    if wide == torch.float32:
        single = found
        size = 8 * sum(p.numel() for p in model.clean_hf().parameters())
        if size <= FITS and can_compute(model.device, torch.float64):
            precision = "float64"
            double = model.in_precision(torch.float64)
            found = _compare(double, deletion, _reload(folder, double), **options)
    source = model.source
    certificate = Certificate(
        max_abs_logprob_gap=found.gap,
        max_abs_logprob_effect=found.effect,
        greedy_identical=found.greedy,
        precision=precision,
        rounding=found.rounding,
        gap_float32=None if single is None else single.gap,
        rounding_float32=None if single is None else single.rounding,
        stored=precision_name(stored),
        storage_rounding=None if narrow is None else found.storage,
        as_computed=as_computed,
        forced=deletion.forced,
        bound=cfg.bound,
        min_effect=cfg.min_effect,
        passed=False,
        host=model.host.kind,
        base_model=base_model,
        base_revision=source.revision if source else None,
        prepend_bos=model.prepend_bos,
        prompts=tuple(prompts),
        max_new_tokens=cfg.max_new_tokens,
        sha256={
            p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.name != CERTIFICATE_FILE
        },
        versions=library_versions(),
    )
    return replace(certificate, passed=not certificate.problem())


def _stored(deletion: Deletion) -> torch.dtype:
    """The least precision that the tensors of the edit are stored in."""
    assert deletion.base is not None
    dtypes: list[torch.dtype] = [getattr(torch, p) for p, _ in deletion.base.tensors.values()]
    return min(dtypes, key=lambda dtype: dtype.itemsize, default=torch.float32)


def _reload(folder: Path, model: LensModel) -> PreTrainedModel:
    """The folder by plain transformers."""
    with readable(f"{folder}: the weights"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # nosec B615 # a folder, never the hub
            folder,
            dtype=model.dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    # Greedy decoding is compared, and not what a checkpoint's own settings make of it (penalties, sampling).
    settings: Any = GenerationConfig
    loaded.generation_config = settings()
    reloaded: PreTrainedModel = loaded.eval()
    return reloaded


def _check_tensors(
    reloaded: PreTrainedModel, model: LensModel, deletion: Deletion, folder: Path
) -> bool:
    """Whether every tensor, in file and as transformers loaded it, is bit for bit what the law makes of the model's.

    Those that the law leaves alone then take the model's memory, so that two models need little more than one.
    """
    assert deletion.base is not None
    files, clean = WeightFiles(folder), model.clean_hf()
    parameters = dict(reloaded.named_parameters())
    with baked(clean, deletion):
        expected = dict(clean.named_parameters())
        as_computed = parameters.keys() == expected.keys() and _same_config(reloaded, clean)
        shared = sorted(parameters.keys() & expected.keys())
        for name in track(shared, "compare tensors", total=len(shared)):
            found, wanted = files.read(name), expected[name].data
            loaded = parameters[name].data.cpu()
            # None: transformers has another name for it in files.
            stored = loaded if found is None else found
            # The files may hold more than is read here, and transformers may have taken that.
            as_read = same_bits(loaded, stored.to(wanted.dtype))
            if not as_read or not same_bits(stored, wanted.cpu().to(stored.dtype)):
                as_computed = False
            elif name not in deletion.base.tensors and same_bits(loaded, wanted.cpu()):
                parameters[name].data = wanted
    return as_computed


def _same_config(reloaded: PreTrainedModel, clean: PreTrainedModel) -> bool:
    """Whether two configurations are the same but for what loading puts there."""
    first, second = (dict(model.config.to_dict()) for model in (reloaded, clean))
    for config in (first, second):
        for name in _NOT_THE_MODEL:
            config.pop(name, None)
    return first == second


@dataclass(frozen=True)
class _Comparison:
    gap: float
    rounding: float
    effect: float
    storage: float
    greedy: tuple[int, int]


def _compare(
    model: LensModel,
    deletion: Deletion,
    reloaded: PreTrainedModel,
    *,
    prompts: Sequence[str],
    cfg: ExportConfig,
    stored: torch.dtype | None,
) -> _Comparison:
    """The comparison in the model's own precision; `stored` asks what rounding the edited weights to it does."""
    on_device: Any = reloaded
    reloaded, clean = on_device.to(model.device), model.clean_hf()
    gap = rounding = effect = storage = 0.0
    same = 0
    rows = [model.encode(text) for text in prompts]
    most = tokens_for_logits(model)
    for batch in in_batches(rows, ROWS, "verify", length=len, most=most):
        tokens, mask = model.pad(batch)
        real = mask.bool()
        base = _log_probs(model, tokens, mask)
        with deletion.applied(model):
            hooked = _log_probs(model, tokens, mask)
            greedy = model.generate(tokens, mask, max_new_tokens=cfg.max_new_tokens)
        plain = plain_log_probs(reloaded, tokens, mask)
        gap = _larger(gap, _largest(plain - hooked, real))
        rounding = _larger(rounding, _largest(plain_log_probs(clean, tokens, mask) - base, real))
        effect = _larger(effect, _largest(hooked - base, real))
        if stored is not None:
            rounded = _rounding(clean, deletion, stored, tokens, mask)
            storage = _larger(storage, _largest(rounded, real))
        same += _count_same(greedy, _plain_greedy(reloaded, tokens, mask, model, cfg), model.pad_id)
    return _Comparison(gap, rounding, effect, storage, (same, len(rows)))


def _rounding(
    clean: PreTrainedModel, deletion: Deletion, stored: torch.dtype, tokens: Tensor, mask: Tensor
) -> Tensor:
    """What rounding the edited tensors to `stored` does; the folder has no part in it, as it is judged by it."""
    assert deletion.base is not None
    with baked(clean, deletion):
        exact = plain_log_probs(clean, tokens, mask)
        tensors = dict(clean.named_parameters())
        kept = {name: tensors[name].data for name in deletion.base.tensors}
        try:
            for name, value in kept.items():
                tensors[name].data = value.to(stored).to(value.dtype)
            return plain_log_probs(clean, tokens, mask) - exact
        finally:
            for name, value in kept.items():
                tensors[name].data = value


def _log_probs(model: LensModel, tokens: Tensor, mask: Tensor) -> Tensor:
    return model.forward(tokens, mask).double().log_softmax(-1)


def library_versions() -> dict[str, str]:
    """The versions that results depend on."""
    names = ("tl-toxmem", "transformer-lens", "transformers", "torch", "safetensors")
    return {name: version(name) for name in names}


def _larger(a: float, b: float) -> float:
    """The larger of two; NaN if either is, which `max` would lose."""
    return b if a == a and not b <= a else a


def _largest(difference: Tensor, real: Tensor) -> float:
    values = difference[real].abs()
    return float("nan") if bool(values.isnan().any()) else float(values.max())


@torch.no_grad()
def _plain_greedy(
    reloaded: PreTrainedModel, tokens: Tensor, mask: Tensor, model: LensModel, cfg: ExportConfig
) -> Tensor:
    generate: Any = reloaded.generate
    result: Tensor = generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=cfg.max_new_tokens,
        do_sample=False,
        pad_token_id=model.pad_id,
        eos_token_id=list(model.eos_ids) or None,
    )
    return result


def _count_same(ours: Tensor, theirs: Tensor, pad: int) -> int:
    width = max(ours.shape[1], theirs.shape[1])
    grown = [torch.nn.functional.pad(t, (0, width - t.shape[1]), value=pad) for t in (ours, theirs)]
    return int((grown[0] == grown[1]).all(1).sum())
