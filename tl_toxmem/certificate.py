"""The certificate: proof that an exported folder is the model that was measured.

The folder is loaded by plain transformers and compared with base + hooks on held-out prompts: largest gap in
log-probability, greedy continuations token by token, and the largest change against base, since an equality
certificate over an edit without effect would prove nothing.

Rounding is no edit, so it must not decide. A log-probability from float32 logits of size 100 is itself known to
about 1e-5 only. Models of which two copies fit are therefore also compared in float64, from the same float32
weights, and that gap decides; larger ones are judged in float32. Where transformers itself computes parts of a model
in float32 (RMSNorm, rotary embeddings), rounding remains even then: so the gap is held against the bound or, where it
is larger, four times the rounding that is seen between the two implementations of the unedited model. Were that more
than `MAX_ROUNDING`, it would be no rounding, and nothing is certified.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tl_toxmem.config import ExportConfig, describe_validation
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_json, sha256_file, write_json
from tl_toxmem.model import LensModel, plain_log_probs
from tl_toxmem.progress import in_batches

FILE = "certificate.json"
MAX_ROUNDING = 1e-3
_BATCH = 8
_FITS = 4 * 2**30
"""Bytes of one float64 copy up to which the comparison is made in float64 too; two copies are held."""


@dataclass(frozen=True)
class Certificate:
    """What was compared and what came out.

    Attributes:
        max_abs_logprob_gap: hooked model against reloaded folder, nats, in `precision`.
        max_abs_logprob_effect: hooked model against base, nats, in `precision`.
        greedy_identical: prompts whose greedy continuations are the same tokens, of how many.
        precision: what decides: `float64`, or `float32` for models too large for that.
        rounding: the gap of the unedited model on host and plain transformers, in `precision`: what rounding does.
        gap_float32: the gap in float32; None for a model that is in float64 itself.
        rounding_float32: the rounding in float32; None likewise.
        bound: largest gap allowed, nats.
        min_effect: smallest effect that counts, nats.
        passed: whether `problem` finds none.
        host: of the hooked model.
        base_model: name of the unedited model, as it was given.
        base_revision: its commit on the hub, if it came from there.
        prepend_bos: whether texts began with the beginning-of-text token.
        prompts: held-out texts compared on.
        max_new_tokens: length of the greedy continuations.
        sha256: of every other file in the folder.
        versions: of the libraries.
    """

    max_abs_logprob_gap: float
    max_abs_logprob_effect: float
    greedy_identical: tuple[int, int]
    precision: str
    rounding: float
    gap_float32: float | None
    rounding_float32: float | None
    bound: float
    min_effect: float
    passed: bool
    host: str
    base_model: str
    base_revision: str | None
    prepend_bos: bool
    prompts: tuple[str, ...]
    max_new_tokens: int
    sha256: dict[str, str]
    versions: dict[str, str]

    def problem(self) -> str:
        """Why it did not pass, in one line; empty if it did."""
        same, n = self.greedy_identical
        found = [(self.precision, self.max_abs_logprob_gap, self.rounding)]
        if self.gap_float32 is not None and self.rounding_float32 is not None:
            found.append(("float32", self.gap_float32, self.rounding_float32))
        for precision, gap, rounding in found:
            if not rounding <= MAX_ROUNDING:
                return (
                    f"the unedited model itself differs by {rounding:.3g} nats between {self.host} host and "
                    f"transformers in {precision}"
                )
            limit = max(self.bound, 4 * rounding)
            if not gap <= limit:
                return (
                    f"reloaded and hooked model differ by {gap:.3g} nats in {precision}, more than the bound of "
                    f"{limit:.3g}"
                )
        if same != n:
            return f"{n - same} of {n} greedy continuations differ"
        if not self.max_abs_logprob_effect >= self.min_effect:
            return f"the edit has no effect: at most {self.max_abs_logprob_effect:.3g} nats against base"
        return ""

    def write(self, folder: Path) -> None:
        """Write `certificate.json`."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Certificate":
        """Read `certificate.json`.

        Raises:
            ToxmemError: missing, damaged or of another version.
        """
        values = read_json(folder / FILE)
        values.pop("format_version")
        try:
            certificate = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            reason = describe_validation(error)
            raise ToxmemError(f"{folder / FILE} is damaged: {reason}") from None
        if not certificate.prompts:
            raise ToxmemError(f"{folder / FILE} is damaged: it has no prompts to compare on")
        return certificate


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
        model: raw weights, in float32 or float64.
        deletion: the edit.
        folder: an exported checkpoint.
        prompts: held-out texts.
        base_model: what to call the unedited model.
        cfg: bounds and lengths.
    """
    found = _compare(model, deletion, folder, prompts=prompts, cfg=cfg)
    precision, single = "float64", None
    if model.dtype != torch.float64:
        precision, single = "float32", found
        if 8 * sum(p.numel() for p in model.clean_hf().parameters()) <= _FITS:
            precision = "float64"
            found = _compare(model.in_float64(), deletion, folder, prompts=prompts, cfg=cfg)
    source = model.source
    certificate = Certificate(
        max_abs_logprob_gap=found.gap,
        max_abs_logprob_effect=found.effect,
        greedy_identical=found.greedy,
        precision=precision,
        rounding=found.rounding,
        gap_float32=None if single is None else single.gap,
        rounding_float32=None if single is None else single.rounding,
        bound=cfg.bound,
        min_effect=cfg.min_effect,
        passed=False,
        host=model.host.kind,
        base_model=base_model,
        base_revision=source.revision if source else None,
        prepend_bos=model.prepend_bos,
        prompts=tuple(prompts),
        max_new_tokens=cfg.max_new_tokens,
        sha256={p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.name != FILE},
        versions=library_versions(),
    )
    return replace(certificate, passed=not certificate.problem())


@dataclass(frozen=True)
class _Comparison:
    gap: float
    rounding: float
    effect: float
    greedy: tuple[int, int]


def _compare(
    model: LensModel,
    deletion: Deletion,
    folder: Path,
    *,
    prompts: Sequence[str],
    cfg: ExportConfig,
) -> _Comparison:
    """The comparison in the model's own precision."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=model.dtype, local_files_only=True
    )
    reloaded: PreTrainedModel = loaded.to(model.device).eval()
    clean = model.clean_hf()
    gap = rounding = effect = 0.0
    same = 0
    rows = [model.encode(text) for text in prompts]
    for batch in in_batches(rows, _BATCH, "verify"):
        tokens, mask = model.pad(batch)
        real = mask.bool()
        base = _log_probs(model, tokens, mask)
        with deletion.applied(model):
            hooked = _log_probs(model, tokens, mask)
            greedy = model.generate(tokens, mask, max_new_tokens=cfg.max_new_tokens)
        gap = max(gap, _largest(plain_log_probs(reloaded, tokens, mask) - hooked, real))
        rounding = max(rounding, _largest(plain_log_probs(clean, tokens, mask) - base, real))
        effect = max(effect, _largest(hooked - base, real))
        same += _count_same(greedy, _plain_greedy(reloaded, tokens, mask, model, cfg), model.pad_id)
    return _Comparison(gap, rounding, effect, (same, len(rows)))


def _log_probs(model: LensModel, tokens: Tensor, mask: Tensor) -> Tensor:
    return model.forward(tokens, mask).double().log_softmax(-1)


def library_versions() -> dict[str, str]:
    """The versions that results depend on."""
    names = ("tl-toxmem", "transformer-lens", "transformers", "torch", "safetensors")
    return {name: version(name) for name in names}


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
        eos_token_id=model.tokenizer.eos_token_id,
    )
    return result


def _count_same(ours: Tensor, theirs: Tensor, pad: int) -> int:
    width = max(ours.shape[1], theirs.shape[1])
    grown = [torch.nn.functional.pad(t, (0, width - t.shape[1]), value=pad) for t in (ours, theirs)]
    return int((grown[0] == grown[1]).all(1).sum())
