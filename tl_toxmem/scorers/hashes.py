"""What a judge's files are: one SHA-256 of its weights, and one of its configuration and tokenizer."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tl_toxmem.files import sha256_file

_CONFIG = (".json", ".txt", ".model")


def files_sha256(files: Iterable[Path]) -> str:
    """The SHA-256 of a file; of several, that of their names and hashes."""
    paths = sorted(files)
    if len(paths) == 1:
        return sha256_file(paths[0])
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name} {sha256_file(path)}\n".encode())
    return total.hexdigest()


def config_sha256(folder: Path) -> str:
    """The SHA-256 of a folder's configuration and tokenizer files."""
    return files_sha256(p for p in folder.iterdir() if p.suffix in _CONFIG and p.is_file())
