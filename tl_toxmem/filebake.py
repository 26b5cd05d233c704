"""Apply a deletion to a checkpoint file to file, and revert it, bit for bit, without loading a model.

The folder is copied, and of the copy only the values that change are overwritten, one layer at a time. Both check
everything they can before they write, work in a temporary folder, and leave either a whole folder or none.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from tl_toxmem.baking import (
    base_of,
    changes,
    check_base,
    check_model,
    neurons_first,
    put,
    take,
    touched,
)
from tl_toxmem.base import Base
from tl_toxmem.deletion import Deletion
from tl_toxmem.delta import Original, load_originals, save_deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import TEMPORARY
from tl_toxmem.model.load import TOKENIZER_FILES, Source, find_source, read_architecture
from tl_toxmem.progress import track
from tl_toxmem.weights import INDEX, WeightFiles

DELETION_FILE, CERTIFICATE_FILE = "deletion.safetensors", "certificate.json"
COMPANIONS = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    INDEX,
    "LICENSE",
    "LICENSE.txt",
)
"""What is copied beside the weights: what a model needs, and no notes, pickled weights or the card of the base."""
MAX_ORIGINALS = 128 * 2**20
"""Bytes of overwritten values up to which the delta keeps them; more would be no small file."""
_CHUNK = 2**24


@dataclass(frozen=True)
class Applied:
    """What `bake_checkpoint` made.

    Attributes:
        folder: the edited checkpoint.
        deletion: with the checkpoint that it was applied to as its base.
        original_bytes: size of the overwritten values.
        keeps_originals: whether the delta in the folder holds them, so that it reverts without the base.
        forced: whether the deletion was made for another model.
    """

    folder: Path
    deletion: Deletion
    original_bytes: int
    keeps_originals: bool
    forced: bool


def bake_checkpoint(
    src: str | Path, dst: str | Path, deletion: Deletion, *, force: bool = False
) -> Applied:
    """Write the checkpoint `src`, edited, to the new folder `dst`; bitwise the same as `bake` in memory.

    Sharded or not, in float64, float32, float16 or bfloat16. `dst` also holds `deletion.safetensors` with what was
    overwritten (up to `MAX_ORIGINALS` bytes), so that `revert_checkpoint` can put it back.

    Args:
        src: a folder, a hub id or `demo`.
        dst: must not exist yet.
        deletion: what to apply.
        force: apply it also to another model than it says that it was made for.

    Raises:
        ToxmemError: `dst` exists, no such checkpoint, a checkpoint of another shape or model, or a law that cannot
            be baked; nothing is written then.
    """
    source = find_source(src)
    with new_folder(Path(dst)) as partial:
        applied = bake_into(source, partial, deletion, force=force)
    return replace(applied, folder=Path(dst))


def base_in_files(deletion: Deletion, source: Source) -> Base:
    """A checkpoint as the model that a deletion is for.

    Raises:
        ToxmemError: no such checkpoint, one of another shape, or a law that cannot be baked into it.
    """
    arch, weights = read_architecture(source), WeightFiles(source.folder)
    check_model(deletion, arch, weights.read, n_layers=_n_layers(source))
    return base_of(deletion, arch, weights.read, name=source.name, revision=source.revision)


def bake_into(source: Source, folder: Path, deletion: Deletion, *, force: bool) -> Applied:
    """`bake_checkpoint` into an empty folder."""
    arch = read_architecture(source)
    weights = WeightFiles(source.folder)
    base = base_in_files(deletion, source)
    forced = check_base(deletion, arch, weights.read, where=source.name, force=force)
    _copy(weights, folder)
    copied = WeightFiles(folder)
    originals: dict[str, Original] = {}
    size = 0
    laws = deletion.by_layer()
    for layer, law in track(laws.items(), "apply", total=len(laws)):
        for change in list(changes(law, arch, layer, weights.read, called=deletion.law)):
            tensor = _read(copied, change.name)
            view = neurons_first(arch, change.name, tensor)
            original = take(view, change.neurons)
            size += original.nbytes
            if size <= MAX_ORIGINALS:
                originals[change.name] = Original(change.neurons, original.clone())
            else:
                originals.clear()
            put(view, change.neurons, change.values)
            copied.write(change.name, tensor)
    keeps = size <= MAX_ORIGINALS
    deletion = replace(deletion, base=base)
    save_deletion(deletion, folder / DELETION_FILE, originals=originals)
    return Applied(folder, deletion, size, keeps, forced)


def revert_checkpoint(
    deletion: str | Path, src: str | Path, dst: str | Path, *, base: str | Path | None = None
) -> Base:
    """Write the edited checkpoint `src` with its original weights to the new folder `dst`, bit for bit.

    Args:
        deletion: the delta file that `bake_checkpoint` or `export_checkpoint` left in the edited folder.
        src: the edited checkpoint; a folder or a hub id.
        dst: must not exist yet.
        base: the unedited checkpoint; needed where the delta does not hold what it overwrote.

    Returns:
        The model that was restored. Every restored tensor has the SHA-256 that the delta recorded of it.

    Raises:
        ToxmemError: a delta that was never applied or does not hold the originals, or a checkpoint that does not
            come out as the base; nothing is written then.
    """
    path = Path(deletion)
    law = Deletion.load(path)
    if law.base is None:
        raise ToxmemError(
            f"{path} does not say what it was applied to: give the {DELETION_FILE} of the edited folder"
        )
    originals = load_originals(path)
    if base is None and law.base.tensors and not originals:
        raise ToxmemError(
            f"{path} does not hold what it overwrote: name the unedited model ({law.base.name}) with --base, or give "
            f"the {DELETION_FILE} of the edited folder"
        )
    source = find_source(src)
    arch = read_architecture(source)
    unedited = None if base is None else WeightFiles(find_source(base).folder)
    with new_folder(Path(dst)) as partial:
        _copy(WeightFiles(source.folder), partial)
        weights = WeightFiles(partial)
        names = touched(law, arch, weights.read)
        for name in track(names, "revert", total=len(names)):
            tensor = _read(weights, name)
            if unedited is None:
                original = originals.get(name)
                if original is None:
                    raise ToxmemError(f"{path} is damaged: it lacks the original of {name}")
                put(neurons_first(arch, name, tensor), original.neurons, original.values)
            else:
                tensor = _read(unedited, name)
            weights.write(name, tensor)
        law.base.check(
            weights.read, architecture=arch.model_type, where=f"{source.name}, reverted,"
        )
    return law.base


def limited(originals: dict[str, Original]) -> dict[str, Original]:
    """The originals, or none where they are more than `MAX_ORIGINALS`."""
    size = sum(original.values.nbytes for original in originals.values())
    return originals if size <= MAX_ORIGINALS else {}


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` if all goes well, and is gone if not."""
    if folder.exists():
        raise ToxmemError(f"{folder} exists: choose a folder that does not")
    partial = folder.with_name(folder.name + TEMPORARY)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(weights: WeightFiles, folder: Path) -> None:
    """The files of a checkpoint: weights, configuration, tokenizer."""
    for name in COMPANIONS:
        file = weights.folder / name
        if file.is_file() and (name != INDEX or weights.sharded):
            shutil.copyfile(file, folder / name)
    for file in weights.files:
        chunks = -(-file.stat().st_size // _CHUNK)
        with open(file, "rb") as reading, open(folder / file.name, "wb") as writing:
            for _ in track(range(chunks), f"copy {file.name}", total=chunks):
                writing.write(reading.read(_CHUNK))


def _n_layers(source: Source) -> int:
    config: Any = AutoConfig.from_pretrained(source.folder, local_files_only=True)
    return int(config.num_hidden_layers)


def _read(weights: WeightFiles, name: str) -> Any:
    tensor = weights.read(name)
    if tensor is None:
        raise ToxmemError(f"{weights.folder} has no tensor {name}")
    return tensor
