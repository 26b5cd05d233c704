"""Reading and writing: JSON for words and numbers, safetensors for tensors, each whole or not at all.

Every file says its kind and `format_version`; a newer version or another kind is refused by name.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_toxmem.config import FORMAT_VERSION
from tl_toxmem.errors import ToxmemError
from tl_toxmem.progress import meter
from tl_toxmem.reading import parse_json

TEMPORARY = ".partial"
_PIECE = 2**22


def write_bytes(path: Path, content: bytes) -> None:
    """Write through a temporary file beside `path` and a rename, so that a kill leaves the old file or the new."""
    with _replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once it is on the disk, and is gone if it never is."""
    temporary = path.with_name(path.name + TEMPORARY)
    with _named(path):
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # of a disk that is read-only
                temporary.unlink()
            raise
        sync(path.parent)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let every error of the disk say what was to be written: that of a full one does not."""
    try:
        yield
    except SafetensorError as error:
        if "deserializing" in str(error):
            raise
        raise ToxmemError(f"{path} cannot be written: {error}") from None
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(TEMPORARY):
            error.filename, error.filename2 = str(path), None
        raise


def sync(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names, before anything else is done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` if all goes well, and is gone if not.

    Its name has the process's number: two processes do not meet in it, and what a killed one left is known as such.
    """
    if folder.exists() or folder.is_symlink():
        raise ToxmemError(f"{folder} exists: choose a folder that does not")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f"{glob.escape(folder.name)}{TEMPORARY}-*"):
        if _is_dead(left.name.rpartition("-")[2]):
            shutil.rmtree(left)
    partial = folder.with_name(f"{folder.name}{TEMPORARY}-{os.getpid()}")
    with _named(folder):
        try:
            partial.mkdir()
            yield partial
            for path in (*partial.rglob("*"), partial):
                sync(path)
            partial.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _is_dead(number: str) -> bool:
    """Whether there is no process of this number."""
    if not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        return False
    return False


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with its `format_version` first."""
    text = json.dumps({"format_version": FORMAT_VERSION, **values}, indent=1, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        ToxmemError: missing, no JSON object, or of another format version.
    """
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ToxmemError(f"{path} is missing") from None
    except ValueError as error:
        raise ToxmemError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise ToxmemError(f"{path} is damaged: not a JSON object")
    check_version(path, values.get("format_version"))
    return values


def write_tensors(
    path: Path, kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON header as one safetensors file."""
    header = {"format_version": FORMAT_VERSION, "kind": kind, **meta}
    seen: set[int] = set()
    ready = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory.
        ready[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else "cannot be written: its folder is not there"
        raise ToxmemError(f"{path} {problem}")
    text = json.dumps(header, ensure_ascii=False, sort_keys=True)
    with _replacing(path) as temporary:
        save_file(ready, temporary, {"tl_toxmem": text})


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote: the tensors and the header.

    Raises:
        ToxmemError: missing, damaged, of another kind or format version.
    """
    if not path.is_file():
        raise ToxmemError(f"{path} is {'a folder, not a file' if path.is_dir() else 'missing'}")
    try:
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {}).get("tl_toxmem", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ToxmemError(f"{path} is damaged: {error}") from None
    if not isinstance(header, dict):
        raise ToxmemError(f"{path} is damaged: its header is no JSON object")
    if header.get("kind") != kind:
        raise ToxmemError(f"{path} holds {header.get('kind') or 'plain tensors'}, not {kind}")
    check_version(path, header.get("format_version"))
    return tensors, header


def check_version(where: Path | str, version: object) -> None:
    """Refuse what another version wrote.

    Raises:
        ToxmemError: it is not of this version.
    """
    if version != FORMAT_VERSION:
        raise ToxmemError(
            f"{where} has format version {version}; this tl-toxmem reads version {FORMAT_VERSION}"
        )


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a text file, also of one that begins with a byte order mark.

    Not `splitlines`: a text may hold U+2028 and the like, which JSON leaves as they are.

    Args:
        path: of the file.
        what: to call it, such as `prompts file`.

    Raises:
        ToxmemError: missing, or no UTF-8.
    """
    if not path.is_file():
        raise ToxmemError(f"no {what} at {path}")
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ToxmemError(f"{path} is no UTF-8 text ({error}): save it as UTF-8") from None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    total = hashlib.sha256()
    with open(path, "rb") as file, meter(f"hash {path.name}", path.stat().st_size) as advance:
        while piece := file.read(_PIECE):
            total.update(piece)
            advance(len(piece))
    return total.hexdigest()
