"""Scores that are kept on disk, so that no text is judged twice by the same judge.

A file belongs to one judge: its first line has the judge's provenance, with the hash of the weights and the label, and
its name the beginning of a hash over that. Every further line is one score by the SHA-256 of its text, appended once it
is known. A kill may tear the last line; it is cut off and its text judged again. One process at a time writes.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.checks import list_of_texts
from tl_toxmem.config import FORMAT_VERSION
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import check_version, write_bytes
from tl_toxmem.reading import parse_json
from tl_toxmem.scorers.protocol import ToxicityScorer, check_scores

_CHUNK = 1024
"""Texts that are judged before their scores are put on disk."""


class CachedScorer:
    """A judge that remembers: the same name, the same scores, each distinct text judged once."""

    def __init__(self, scorer: ToxicityScorer, folder: str | Path) -> None:
        self.scorer, self.folder = scorer, Path(folder)
        self.name = scorer.name
        self._known: dict[str, float] | None = None
        self._path = self.folder

    def score(self, texts: Sequence[str]) -> Float[Tensor, " text"]:
        """What the judge says, or said before.

        Raises:
            ToxmemError: a file that is damaged or another judge's; a score that is none; what the judge raises.
        """
        list_of_texts(texts)
        if not texts:
            return torch.zeros(0)
        if self._known is None:
            self._known = self._open()
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
        known = self._known
        fresh = {k: text for k, text in zip(keys, texts, strict=True) if k not in known}
        for start in range(0, len(fresh), _CHUNK):
            chunk = list(fresh)[start : start + _CHUNK]
            found = self.scorer.score([fresh[key] for key in chunk]).tolist()
            check_scores(self.name, found, [keys.index(key) for key in chunk])
            scores = dict(zip(chunk, found, strict=True))
            self._append(scores)
            known.update(scores)
        return torch.tensor([known[key] for key in keys], dtype=torch.float32)

    def provenance(self) -> dict[str, str]:
        """That of the judge."""
        return self.scorer.provenance()

    def file(self) -> Path:
        """Where this judge's scores lie.

        Raises:
            ToxmemError: a judge that does not say which weights it has.
        """
        facts = self.scorer.provenance()
        if "sha256" not in facts:
            raise ToxmemError(
                f"the scores of {self.name} cannot be kept: its provenance has no sha256 of its weights"
            )
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.folder / f"scores-{digest[:16]}.jsonl"

    def _open(self) -> dict[str, float]:
        if "sha256" not in self.scorer.provenance():
            self.scorer.score([""])  # fetches the weights, whose hash is then known
        path, header = self.file(), self._header()
        self._path = path
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, _line(header))
            return {}
        content = path.read_bytes()
        whole = content.rpartition(b"\n")[0]
        first, *lines = whole.split(b"\n")
        found = _parsed(first)
        if isinstance(found, dict) and "format_version" in found:
            check_version(path, found.get("format_version"))
        if found != header:
            raise ToxmemError(
                f"{path} does not hold the scores of {self.name}: remove it to have its texts judged again"
            )
        known: dict[str, float] = {}
        for number, line in enumerate(lines, 2):
            match _parsed(line):
                # A line of an earlier version has no check.
                case {"sha256": str(key), "score": float(score), **rest} if (
                    len(key) == 64
                    and _is_score(score)
                    and rest.get("check", _check(key, score)) == _check(key, score)
                ):
                    known.setdefault(key, score)
                case _:
                    raise ToxmemError(
                        f"{path}, line {number} is damaged: remove the file to have its texts judged again"
                    )
        if len(content) > len(whole) + 1:  # what a kill left of a last line
            os.truncate(path, len(whole) + 1)
        return known

    def _append(self, scores: Mapping[str, float]) -> None:
        lines = b"".join(_entry(key, score) for key, score in scores.items())
        with open(self._path, "ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _header(self) -> dict[str, Any]:
        facts = self.scorer.provenance()
        return {"format_version": FORMAT_VERSION, "kind": "scores", "scorer": facts}


def _entry(key: str, score: float) -> bytes:
    return _line({"sha256": key, "score": score, "check": _check(key, score)})


def _check(key: str, score: float) -> str:
    """What a damaged line does not have."""
    return hashlib.sha256(f"{key} {score!r}".encode()).hexdigest()[:8]


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values) + "\n").encode()


def _parsed(line: bytes) -> Any:
    """A line's values; None if it is no JSON."""
    try:
        return parse_json(line.decode())
    except ValueError:
        return None


def _is_score(value: float) -> bool:
    return 0 <= value <= 1
