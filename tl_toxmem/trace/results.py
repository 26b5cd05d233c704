"""The result of one prompt, and a folder that keeps such results so that a stopped trace goes on at the next prompt."""

import hashlib
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from tl_toxmem.config import TraceConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.precision import ROUNDING
from tl_toxmem.resume import read_tensor_part, write_tensor_part
from tl_toxmem.tokens import PromptTokens

KIND = "trace of one prompt"
_NOT_OF_ONE = {"max_prompts", "max_memory", "robustness"}
_PROBED = 512


@dataclass(frozen=True)
class PromptResult:
    """What was measured of one prompt, mean over draws.

    Attributes:
        clean: [metric].
        corrupted: [metric].
        restored: [metric, panel, layer, pos]; NaN where nothing was asked.
        parts: [metric, site, part]; NaN where nothing was asked.
        exact: [panel, layer, pos] whether measured, or only estimated.
    """

    clean: Float[Tensor, " metric"]
    corrupted: Float[Tensor, " metric"]
    restored: Float[Tensor, "metric panel layer pos"]
    parts: Float[Tensor, "metric site part"]
    exact: Bool[Tensor, "panel layer pos"]


class Kept:
    """A folder of results, one file a prompt.

    A file's name is a hash of the configuration, the prompt, the noise level and the version. In it are logits that the
    model gave after this very prompt: a result is taken over only by a model that gives them too, to rounding, so not
    by another model, nor by the same one under a deletion.
    """

    def __init__(self, folder: Path, model: LensModel, *, cfg: TraceConfig, level: float) -> None:
        if folder.exists() and not folder.is_dir():
            raise ToxmemError(f"{folder} is a file: give a folder for the results of a trace")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._model = folder, model
        settings = cfg.model_dump_json(exclude=_NOT_OF_ONE)
        self._settings = f"{settings} {level:.6e} {model.dtype} {version('tl-toxmem')}"

    def _path(self, item: PromptTokens) -> Path:
        digest = hashlib.sha256(self._settings.encode())
        digest.update(f"{item.prompt.model_dump_json()} {item.tokens} {item.target}".encode())
        return self._folder / f"{digest.hexdigest()[:32]}.safetensors"

    def _probe(self, item: PromptTokens) -> Float[Tensor, " some"]:
        """Some logits after the prompt, evenly from the vocabulary."""
        tokens, mask = self._model.pad([item.tokens])
        logits = self._model.forward(tokens, mask, keep=1)[0, -1].float().cpu()
        return logits[:: max(1, len(logits) // _PROBED)].clone()

    def get(self, item: PromptTokens) -> PromptResult | None:
        """The result of a prompt, if it is there, whole and of this model."""
        path = self._path(item)
        if not path.is_file():
            return None
        tensors = read_tensor_part(path, KIND)
        if tensors is None:
            return None
        probe = tensors.pop("probe")
        gap = float((probe - self._probe(item)).abs().max())
        same = gap <= ROUNDING[self._model.dtype] * float(probe.abs().max())
        return PromptResult(**tensors) if same else None

    def add(self, item: PromptTokens, result: PromptResult) -> None:
        """Keep a result; its file is whole or absent."""
        tensors = {field.name: getattr(result, field.name) for field in fields(result)}
        tensors["probe"] = self._probe(item)
        write_tensor_part(self._path(item), KIND, tensors)
