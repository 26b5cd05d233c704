"""Prompts: what is said to the model, the toxic continuation it answers with, and which split they serve.

A prompt file is JSONL, one prompt a line: `prompt` and `target` (the continuation, beginning where the
prompt ends, so usually with a space), optionally `lead_in` (harmless words of the continuation before the target),
`subject` (the span of the prompt that a trace corrupts; default: all before the target), `counterfactual`,
`neutral_target`, `source`, `scores`, `id`, `split`. Generation begins where `prompt` ends, whatever asks why the
target is said begins where `start` ends, prompt and lead-in.

Prompts that find neurons are never those that report on them: `PromptSet.split` assigns each prompt
by the hash of its text, so the assignment survives reordering, additions and other machines.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, overload

from pydantic import BaseModel, ConfigDict, Strict, ValidationError, model_validator

from tl_toxmem.checks import is_text
from tl_toxmem.config import FORMAT_VERSION, PromptsConfig, describe_validation
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import check_version, read_lines, write_bytes
from tl_toxmem.reading import parse_json


class Prompt(BaseModel):
    """One prompt and what follows it.

    Raises:
        ValidationError: empty prompt, lead-in, target or subject, a subject that is not in its prompt, unknown keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: str
    target: str
    lead_in: str | None = None
    subject: str | None = None
    counterfactual: str | None = None
    neutral_target: str | None = None
    source: str | None = None
    scores: dict[str, Annotated[float, Strict()]] | None = None
    id: str = ""
    split: Literal["find", "report"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_id(cls, data: object) -> object:
        if isinstance(data, dict):
            for name, value in data.items():
                for text in value if isinstance(value, dict) else [value]:
                    if isinstance(text, str) and not is_text(text):
                        raise ValueError(f"{name} has half of a surrogate pair: remove it")
        if isinstance(data, dict) and not data.get("id"):
            lead_in = f"{data['lead_in']}\x1f" if data.get("lead_in") else ""
            text = f"{data.get('prompt')}\x1f{lead_in}{data.get('target')}"
            data = {**data, "id": hashlib.sha256(text.encode()).hexdigest()[:12]}
        return data

    @model_validator(mode="after")
    def _check(self) -> "Prompt":
        if self.lead_in == "":
            raise ValueError("lead_in is empty: leave it out")
        for field in ("prompt", "target"):
            if not getattr(self, field).strip():
                raise ValueError(f"{field} is empty")
        if self.subject is not None and (
            not self.subject.strip() or self.subject not in self.prompt
        ):
            raise ValueError(f"subject {self.subject!r} is not in the prompt {self.prompt!r}")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of the prompt's text: what the split and all orders go by."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()

    @property
    def start(self) -> str:
        """All that stands before the target: the prompt, and the lead-in if there is one."""
        return self.prompt + (self.lead_in or "")

    def from_start(self) -> "Prompt":
        """The same with the lead-in as a part of the prompt, to go on generating where the target stands."""
        return self.model_copy(update={"prompt": self.start, "lead_in": None})

    @property
    def subject_span(self) -> tuple[int, int]:
        """First and last character of the subject in `start`, half-open; all of it by default.

        Where it first stands as a whole word, and only if it does so nowhere, where it first stands.
        """
        if self.subject is None:
            return 0, len(self.start)
        word = re.search(rf"(?<!\w){re.escape(self.subject)}(?!\w)", self.prompt)
        start = word.start() if word else self.prompt.index(self.subject)
        return start, start + len(self.subject)


@dataclass(frozen=True)
class PromptSet:
    """Prompts in a fixed order, with unique ids."""

    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for prompt in self.prompts:
            if prompt.id in seen:
                raise ToxmemError(f"two prompts have the id {prompt.id!r}: remove one")
            seen.add(prompt.id)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> "PromptSet": ...
    def __getitem__(self, index: int | slice) -> "Prompt | PromptSet":
        if isinstance(index, slice):
            return PromptSet(self.prompts[index])
        return self.prompts[index]

    def __repr__(self) -> str:
        return f"PromptSet({len(self)} prompts)"

    @classmethod
    def of(cls, prompts: Iterable[Prompt]) -> "PromptSet":
        """A set from any iterable."""
        return cls(tuple(prompts))

    @classmethod
    def read(cls, path: str | Path) -> "PromptSet":
        """Read a JSONL file; blank lines are skipped.

        Raises:
            ToxmemError: file missing or without prompts, a line that is no JSON object or no valid prompt
                (naming the line), two lines with the same id.
        """
        path = Path(path)
        lines = read_lines(path, "prompts file")
        prompts: dict[str, Prompt] = {}
        where: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            prompt = _parse(line, f"{path}, line {number}")
            if prompt.id in prompts:
                raise ToxmemError(
                    f"{path}, line {number}: same id {prompt.id!r} as line {where[prompt.id]}; "
                    "remove one or give them ids"
                )
            prompts[prompt.id], where[prompt.id] = prompt, number
        if not prompts:
            raise ToxmemError(f"{path} has no prompts: give one JSON object a line")
        return cls(tuple(prompts.values()))

    def write(self, path: str | Path) -> None:
        """Write JSONL that `read` gives back equal."""
        write_bytes(Path(path), self.to_jsonl().encode())

    def to_jsonl(self) -> str:
        """One JSON object a line, each with the version of its format; fields that are None are left out."""
        version = {"format_version": FORMAT_VERSION}
        dump = (version | prompt.model_dump(exclude_none=True) for prompt in self.prompts)
        return "".join(json.dumps(values, ensure_ascii=False) + "\n" for values in dump)

    def split(self, cfg: PromptsConfig | None = None) -> "PromptSet":
        """Every prompt with its split: the one it came with, or else by the hash of its text.

        The order stays; `max_find` and `max_report` keep the prompts of lowest hash.
        """
        cfg = cfg or PromptsConfig()
        assigned = [
            p if p.split else p.model_copy(update={"split": _hash_split(p, cfg)})
            for p in self.prompts
        ]
        kept: set[str] = set()
        for name, most in (("find", cfg.max_find), ("report", cfg.max_report)):
            members = sorted((p for p in assigned if p.split == name), key=lambda p: (p.hash, p.id))
            kept.update(p.id for p in members[:most])
        return PromptSet.of(p for p in assigned if p.id in kept)

    @property
    def find(self) -> "PromptSet":
        """The prompts that neurons are found with."""
        return PromptSet.of(p for p in self.prompts if p.split == "find")

    @property
    def report(self) -> "PromptSet":
        """The prompts that results are reported on."""
        return PromptSet.of(p for p in self.prompts if p.split == "report")

    def first(self, n: int | None) -> "PromptSet":
        """The `n` prompts of lowest hash, in the set's own order; all of them for None."""
        keep = {p.id for p in sorted(self.prompts, key=lambda p: (p.hash, p.id))[:n]}
        return PromptSet.of(p for p in self.prompts if p.id in keep)


def _parse(line: str, where: str) -> Prompt:
    try:
        values = parse_json(line, broken=True)
    except ValueError as error:
        hint = (
            "; prompts are JSONL, one object a line, and only mine takes CSV"
            if ".csv" in where
            else ""
        )
        raise ToxmemError(f"{where}: no JSON ({error}){hint}") from None
    if not isinstance(values, dict):
        raise ToxmemError(
            f"{where}: a JSON {type(values).__name__}, not an object with prompt and target"
        )
    check_version(where, values.pop("format_version", FORMAT_VERSION))
    for key in ("prompt", "target"):
        if key not in values:
            raise ToxmemError(f"{where}: a prompt without {key!r}")
    unknown = sorted(set(values) - set(Prompt.model_fields))
    if unknown:
        valid = ", ".join(Prompt.model_fields)
        raise ToxmemError(f"{where}: unknown key {unknown[0]!r}; valid keys: {valid}")
    try:
        return Prompt.model_validate(values)
    except ValidationError as error:
        raise ToxmemError(f"{where}: {describe_validation(error)}") from None


def _hash_split(prompt: Prompt, cfg: PromptsConfig) -> str:
    salted = hashlib.sha256(f"{cfg.seed}\x1f{prompt.prompt}".encode()).hexdigest()
    return "report" if int(salted[:8], 16) / 16**8 < cfg.report_share else "find"
