"""The certificate: proof that an exported folder is the model that was measured.

The folder is loaded by plain transformers and compared with base + hooks on held-out prompts: largest gap in
log-probability, greedy continuations token by token, and the largest change against base, since an equality
certificate over an edit without effect would prove nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tl_toxmem.config import ExportConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.files import read_json, sha256_file, write_json
from tl_toxmem.model import LensModel, plain_log_probs
from tl_toxmem.progress import in_batches

FILE = "certificate.json"
_BATCH = 8


@dataclass(frozen=True)
class Certificate:
    """What was compared and what came out; gaps and effects in nats of log-probability."""

    max_abs_logprob_gap: float
    max_abs_logprob_effect: float
    greedy_identical: tuple[int, int]
    bound: float
    min_effect: float
    passed: bool
    host: str
    base_model: str
    base_revision: str | None
    prompts: tuple[str, ...]
    max_new_tokens: int
    sha256: dict[str, str]
    versions: dict[str, str]

    def problem(self) -> str:
        """Why it did not pass, in one line; empty if it did."""
        same, n = self.greedy_identical
        if not self.max_abs_logprob_gap <= self.bound:
            return (
                f"reloaded and hooked model differ by {self.max_abs_logprob_gap:.3g} nats, "
                f"more than the bound of {self.bound:.3g}"
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
        from tl_toxmem.errors import ToxmemError

        values = read_json(folder / FILE)
        values.pop("format_version")
        try:
            same, n = values.pop("greedy_identical")
            prompts = tuple(values.pop("prompts"))
            return cls(greedy_identical=(same, n), prompts=prompts, **values)
        except (KeyError, TypeError, ValueError) as error:
            raise ToxmemError(f"{folder / FILE} is damaged: {error}") from None


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

    Computed in float32, or in float64 where the model is.
    """
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    reloaded: PreTrainedModel = loaded.to(model.device).eval()
    gap = effect = 0.0
    same = 0
    rows = [model.encode(text) for text in prompts]
    for batch in in_batches(rows, _BATCH, "verify"):
        tokens, mask = model.pad(batch)
        base = model.forward(tokens, mask).to(dtype).log_softmax(-1)
        with deletion.applied(model):
            hooked = model.forward(tokens, mask).to(dtype).log_softmax(-1)
            greedy = model.generate(tokens, mask, max_new_tokens=cfg.max_new_tokens)
        plain = plain_log_probs(reloaded, tokens, mask)
        real = mask.bool()
        gap = max(gap, _largest(plain - hooked, real))
        effect = max(effect, _largest(hooked - base, real))
        same += _count_same(greedy, _plain_greedy(reloaded, tokens, mask, model, cfg), model.pad_id)
    source = model.source
    certificate = Certificate(
        max_abs_logprob_gap=gap,
        max_abs_logprob_effect=effect,
        greedy_identical=(same, len(rows)),
        bound=cfg.bound,
        min_effect=cfg.min_effect,
        passed=False,
        host=model.host.kind,
        base_model=base_model,
        base_revision=source.revision if source else None,
        prompts=tuple(prompts),
        max_new_tokens=cfg.max_new_tokens,
        sha256={p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.name != FILE},
        versions=library_versions(),
    )
    return Certificate(**{**vars(certificate), "passed": not certificate.problem()})


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
