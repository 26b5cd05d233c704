"""The result of one prompt, and a folder that keeps such results so that a stopped trace goes on at the next prompt."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from tl_toxmem.config import TraceConfig
from tl_toxmem.files import read_tensors, write_tensors
from tl_toxmem.model import LensModel
from tl_toxmem.tokens import PromptTokens

KIND = "trace of one prompt"
_NOT_OF_ONE = {"max_prompts", "max_memory"}


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

    A file's name is a hash of all that its numbers come from: the configuration, the prompt, the noise level, and the
    model as it runs, by the logits that it gives after this very prompt. Another model's or setting's file is not seen.
    """

    def __init__(self, folder: Path, model: LensModel, *, cfg: TraceConfig, level: float) -> None:
        self._folder, self._model = folder, model
        self._settings = f"{cfg.model_dump_json(exclude=_NOT_OF_ONE)} {level!r} {model!r}"
        self._paths: dict[str, Path] = {}

    def _path(self, item: PromptTokens) -> Path:
        if item.prompt.id not in self._paths:
            tokens, mask = self._model.pad([item.tokens])
            logits = self._model.forward(tokens, mask, keep=1).float().cpu().numpy()
            digest = hashlib.sha256(self._settings.encode())
            digest.update(f"{item.prompt.model_dump_json()} {item.tokens} {item.target}".encode())
            digest.update(logits.tobytes())
            self._paths[item.prompt.id] = self._folder / f"{digest.hexdigest()[:32]}.safetensors"
        return self._paths[item.prompt.id]

    def get(self, item: PromptTokens) -> PromptResult | None:
        """The result of a prompt, if it is there."""
        path = self._path(item)
        if not path.is_file():
            return None
        tensors, _ = read_tensors(path, KIND)
        return PromptResult(**tensors)

    def add(self, item: PromptTokens, result: PromptResult) -> None:
        """Keep a result; its file is whole or absent."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {field.name: getattr(result, field.name) for field in fields(result)}
        write_tensors(self._path(item), KIND, tensors, {"prompt": item.prompt.id})
