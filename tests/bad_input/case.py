"""One case of bad input: a folder of files, a command, and what the one line must say."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEMO = "--model demo --out out"
"""Of a command that is given nothing but the bad file."""
STAGES = ("run", "trace", "attribute", "select", "evaluate", "export", "report", "compare", "plan")
"""Commands of a run's stages, and the one that plans them."""


@dataclass(frozen=True)
class Link:
    """A symbolic link in place of a file."""

    to: str


@dataclass(frozen=True)
class Case:
    """Files, a command in their folder, and a part of what it must answer.

    Attributes:
        name: of the case; unique.
        args: of the command; a word that has spaces or odd characters is given as a tuple of words.
        says: a part of the line on stderr.
        files: by name: content, values for JSON, a link, None for a folder, or what makes it.
        code: 1 for what is wrong in the input, 2 for wrong usage.
        good: whole things that the case begins with, by the name they get here: see `conftest` of the corpus.
        spoil: what is done to them.
    """

    name: str
    args: str | tuple[str, ...]
    says: str
    files: Mapping[str, object] = field(default_factory=dict)
    code: int = 1
    good: Mapping[str, str] = field(default_factory=dict)
    spoil: Callable[[Path], object] | None = None

    @property
    def words(self) -> list[str]:
        return self.args.split() if isinstance(self.args, str) else list(self.args)

    @property
    def command(self) -> str:
        return self.words[0]

    def lay_out(self, folder: Path, good: Mapping[str, Path]) -> None:
        """Make all that the case needs in an empty folder."""
        for name, kind in self.good.items():
            shutil.copytree(good[kind], folder / name)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            match content:
                case None:
                    path.mkdir()
                case Link(to):
                    path.symlink_to(to)
                case bytes():
                    path.write_bytes(content)
                case str():
                    path.write_text(content, encoding="utf-8", errors="surrogatepass")
                case _:
                    path.write_text(json.dumps(content))
        if self.spoil is not None:
            self.spoil(folder)


def snapshot(folder: Path) -> dict[str, object]:
    """Everything that lies in a folder: kinds, links and contents."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        else:
            found[name] = "folder" if path.is_dir() else path.read_bytes()
    return found


def tensors(header: object, values: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with any header, and any length that it says it has."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def change_json(path: Path, **values: object) -> None:
    """Set values of a JSON object; `...` takes one away."""
    found = json.loads(path.read_text())
    for name, value in values.items():
        if value is ...:
            del found[name]
        else:
            found[name] = value
    path.write_text(json.dumps(found))
