"""Candidate prompts: from JSONL, CSV, RealToxicityPrompts' own format, or a dataset of the Hugging Face Hub.

A record has its text in one field (`prompt` unless another is named), either plainly or, as in RealToxicityPrompts, as
an object with `text` and `toxicity`. It may also have `id`, `source` (default: the name of the file or dataset) and
`prompt_toxicity`, a published score of the prompt. All other fields are left alone.
"""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tl_toxmem.errors import ToxmemError, brief
from tl_toxmem.reading import parse_json

HUB = "hub:"
FORMATS = (".jsonl", ".csv", ".tsv", f"{HUB}NAME@REVISION[:SPLIT]")
_SPLIT = "train"
_PUBLISHED = "prompt_toxicity"
_FIELD_LIMIT = 2**24  # characters of a CSV field; Python's own limit is far lower


@dataclass(frozen=True)
class Candidate:
    """A text that may become a prompt.

    Attributes:
        text: as it stands in the file, also if it is empty or broken.
        where: line of a file, or row of a dataset.
        source: where it comes from; benign prompts are matched within it.
        id: of the file; "" for none.
        published: the score that the file brings, if any.
    """

    text: str
    where: str = field(default="", compare=False)
    source: str = ""
    id: str = ""
    published: float | None = None


@dataclass(frozen=True)
class Candidates:
    """All records of a place, in its order."""

    items: tuple[Candidate, ...]
    place: str

    @classmethod
    def of(cls, texts: Iterable[str | Candidate], *, place: str = "the candidates") -> "Candidates":
        """Candidates that are at hand.

        Raises:
            ToxmemError: one that is neither text nor a `Candidate`.
        """
        texts = list(texts)
        for i, one in enumerate(texts, start=1):
            if not isinstance(one, str | Candidate):
                raise ToxmemError(f"candidate {i} is {one!r}: give texts, or objects of Candidate")
        some = [t if isinstance(t, Candidate) else Candidate(t) for t in texts]
        named = (replace(c, where=c.where or f"text {i}") for i, c in enumerate(some, start=1))
        return cls(tuple(named), place)

    def sha256(self) -> str:
        """What identifies their content, wherever they lie and in whatever order."""
        content = sorted(repr((c.text, c.source, c.id, c.published)) for c in self.items)
        return hashlib.sha256("\n".join(content).encode()).hexdigest()


def read_candidates(place: str | Path, *, column: str = "prompt") -> Candidates:
    """Read a file, or a dataset of the Hub.

    Args:
        place: a `.jsonl`, `.csv` or `.tsv` file, or `hub:NAME@REVISION[:SPLIT]`.
        column: the column of a table, or the field of a record, that has the prompts.

    Raises:
        ToxmemError: nothing there, another format, a dataset that cannot be had, a record that is damaged or lacks
            the field; naming the line.
    """
    text = str(place)
    if text.startswith(HUB):
        rows, source = _hub_rows(text)
    else:
        path = Path(text).expanduser()
        readers = {".jsonl": _json_rows, ".csv": _csv_rows, ".tsv": _tsv_rows}
        if path.suffix.lower() not in readers:
            raise ToxmemError(
                f"candidates {text!r}: unknown format; choose from {', '.join(FORMATS)}"
            )
        if not path.is_file():
            raise ToxmemError(f"no candidates file at {text}")
        # What is no UTF-8 becomes U+FFFD, and the text that has it is dropped as broken.
        content = path.read_bytes().decode("utf-8-sig", errors="replace")
        rows, source = readers[path.suffix.lower()](content, text), path.name
    items = tuple(_candidate(where, row, column, source, text) for where, row in rows)
    if not items:
        raise ToxmemError(f"{text} has no candidates")
    return Candidates(items, text)


def _candidate(where: str, row: Any, column: str, source: str, place: str) -> Candidate:
    if column not in row:
        raise ToxmemError(
            f"{place}, {where}: no column {column!r}; it has {', '.join(map(str, row))}: name one with --column"
        )
    value, published = row[column], row.get(_PUBLISHED)
    if isinstance(value, dict):
        if "text" not in value:
            raise ToxmemError(f"{place}, {where}: the object {column!r} has no text")
        value, published = value["text"], value.get("toxicity", published)
    if value is not None and not isinstance(value, str):
        raise ToxmemError(
            f"{place}, {where}: {column!r} is a {type(value).__name__}, neither text nor an object with text"
        )
    own, identity = row.get("source"), row.get("id")
    return Candidate(
        text=value or "",
        where=where,
        source=own if isinstance(own, str) and own else source,
        id="" if identity is None else str(identity),
        published=_number(published, f"{place}, {where}"),
    )


def _number(value: Any, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not math.isfinite(number):
        raise ToxmemError(f"{where}: the toxicity {value!r} is no number")
    return number


def _json_rows(text: str, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # Not splitlines: a prompt may hold U+2028 and the like, which JSON leaves as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, broken=True)
        except ValueError as error:
            raise ToxmemError(f"{place}, line {number}: no JSON ({error})") from None
        if not isinstance(row, dict):
            raise ToxmemError(f"{place}, line {number}: a JSON {type(row).__name__}, not an object")
        yield f"line {number}", row


def _csv_rows(text: str, place: str, delimiter: str = ",") -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or ())
        if twice := [name for name in names if names.count(name) > 1]:
            raise ToxmemError(f"{place}, line 1: the header names {twice[0]!r} twice")
        for row in reader:
            if None in row:
                raise ToxmemError(
                    f"{place}, line {reader.line_num}: more fields than the header names"
                )
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise ToxmemError(f"{place}, line {reader.line_num}: no CSV ({error})") from None


def _tsv_rows(text: str, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return _csv_rows(text, place, "\t")


def _hub_rows(place: str) -> tuple[Iterator[tuple[str, dict[str, Any]]], str]:
    """Rows of a dataset, and its name."""
    name, at, rest = place.removeprefix(HUB).partition("@")
    revision, _, split = rest.partition(":")
    if not (name and at and revision):
        raise ToxmemError(
            f"candidates {place!r}: name a dataset with its revision, as {HUB}NAME@REVISION[:SPLIT]"
        )
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        found = datasets.load_dataset(name, revision=revision, split=split or _SPLIT)
    except (
        DatasetsError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        OSError,
        ValueError,
        RuntimeError,  # of a dataset that is a script
    ) as error:
        reason = brief(error)
        raise ToxmemError(
            f"cannot get the dataset {name} at {revision}, split {split or _SPLIT} ({reason}): "
            "check the names, go online once, or give a file"
        ) from None
    rows: Sequence[dict[str, Any]] = found
    return ((f"row {i}", row) for i, row in enumerate(rows)), name
