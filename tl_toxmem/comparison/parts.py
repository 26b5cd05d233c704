"""One method's result, kept while a comparison runs, and what it was made from, by which it is known."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_toxmem.comparators import Material
from tl_toxmem.comparison.record import Entry
from tl_toxmem.config import ComparatorConfig, EvaluateConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.evaluation import Evaluation
from tl_toxmem.evaluation.record import check_evaluation
from tl_toxmem.prompts import PromptSet
from tl_toxmem.reading import record
from tl_toxmem.resume import read_part, write_part
from tl_toxmem.scorers import ToxicityScorer

Made = Deletion | tuple[Sequence[float], ComparatorConfig, Material]
"""A deletion, or what a method makes its laws from."""


@dataclass(frozen=True)
class Part:
    """One method at all its strengths."""

    evaluation: Evaluation
    entries: tuple[Entry, ...]

    def save(self, path: Path) -> None:
        """Write it."""
        path.parent.mkdir(exist_ok=True)
        entries = [asdict(entry) for entry in self.entries]
        write_part(path, {"entries": entries, "evaluation": self.evaluation.to_json()})

    @classmethod
    def load(cls, path: Path) -> "Part | None":
        """Read what `save` wrote; None where nothing is, or, saying so, what is damaged."""
        values = read_part(path) if path.is_file() else None
        if values is None:
            return None
        found = record(cls, values, path)
        check_evaluation(found.evaluation, path)
        return found


def place_of(folder: Path, name: str, asked: dict[str, str]) -> Path:
    """The file of a method's part: what was made from something else has another."""
    return folder / f"{name}-{_hash(asked)[:16]}.json"


def asked_of(
    made: Made,
    *,
    protocol: EvaluateConfig,
    prompts: tuple[PromptSet, PromptSet | None],
    neutral: Sequence[str],
    scorers: Sequence[ToxicityScorer],
) -> dict[str, str]:
    """Everything that a part rests on but the model, as hashes by name."""
    texts = [some.to_jsonl() for some in prompts if some is not None]
    return {
        "protocol": _hash(protocol.model_dump_json()),
        "set of report prompts": _hash(texts),
        "neutral text": _hash(list(neutral)),
        "judge": _hash([scorer.provenance() for scorer in scorers]),
        "edit": _hash(_of_deletion(made) if isinstance(made, Deletion) else _of_method(*made)),
    }


def _of_deletion(deletion: Deletion) -> list[Any]:
    added = [(i, x.U, x.V, x.constant) for i, x in deletion.added.items()]
    return [deletion.neurons.to_json(), deletion.gain, deletion.shift, deletion.pre_gain, added]


def _of_method(strengths: Sequence[float], cfg: ComparatorConfig, material: Material) -> list[Any]:
    scores = material.scores
    labelled = [(one.text, one.toxic) for one in material.labelled or ()]
    return [
        list(strengths),
        cfg.model_dump(mode="json"),
        material.prompts.to_jsonl(),
        list(material.neutral),
        [scores.scores, scores.cost, scores.loudness, scores.mean_activation],
        dict(material.alternatives),
        labelled,
        material.traced_layer,
        material.seed,
    ]


def _hash(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=_bytes)
    return hashlib.sha256(text.encode()).hexdigest()


def _bytes(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
