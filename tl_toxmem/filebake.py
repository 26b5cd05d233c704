"""Apply a deletion to a checkpoint file to file, and revert it, bit for bit, without loading a model.

The folder is copied, and of the copy only the values that change are overwritten, one layer at a time. Both check
everything they can before they write, work in a temporary folder, and leave either a whole folder or none.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tl_toxmem.baking import (
    changes,
    check_model,
    for_model,
    neurons_first,
    present,
    put,
    take,
    touched,
)
from tl_toxmem.base import Base
from tl_toxmem.deletion import Deletion
from tl_toxmem.delta import Original, load_originals, save_deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import new_folder
from tl_toxmem.model.load import (
    TOKENIZER_FILES,
    Source,
    find_source,
    read_architecture,
    read_config,
)
from tl_toxmem.places import drop_places
from tl_toxmem.precision import precision_name
from tl_toxmem.progress import track
from tl_toxmem.sites import architecture
from tl_toxmem.weights import INDEX, WeightFiles

DELETION_FILE, CERTIFICATE_FILE = "deletion.safetensors", "certificate.json"
LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md")
COMPANIONS = ("config.json", "generation_config.json", *TOKENIZER_FILES, INDEX, *LICENSES)
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
    """

    folder: Path
    deletion: Deletion
    original_bytes: int
    keeps_originals: bool


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


def bake_into(source: Source, folder: Path, deletion: Deletion, *, force: bool) -> Applied:
    """`bake_checkpoint` into an empty folder."""
    arch = read_architecture(source)
    weights = WeightFiles(source.folder)
    check_model(deletion, arch, weights.read, n_layers=_n_layers(source))
    deletion = for_model(
        deletion,
        arch,
        weights.read,
        name=source.name,
        revision=source.revision,
        where=source.name,
        force=force,
    )
    _copy(weights, folder)
    copied = WeightFiles(folder)
    originals: dict[str, Original] = {}
    size = 0
    laws = deletion.by_layer()
    for layer, law in track(laws.items(), "apply", total=len(laws)):
        for change in list(changes(law, arch, layer, weights.read, called=deletion.law)):
            tensor = present(copied.read, change.name)
            view = neurons_first(arch, change.name, tensor)
            originals[change.name] = Original(change.neurons, take(view, change.neurons))
            size += originals[change.name].values.nbytes
            if size > MAX_ORIGINALS:
                originals.clear()
            put(view, change.neurons, change.values)
            copied.write(change.name, tensor)
    keeps = size <= MAX_ORIGINALS
    save_deletion(deletion, folder / DELETION_FILE, originals=originals if keeps else None)
    return Applied(folder, deletion, size, keeps)


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
        The model that was restored. Every tensor that the deletion touched has the SHA-256 that the delta recorded of
        it; what it did not touch is copied as it is, and compared with `base` where that is given.

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
    unedited = None if base is None else _checked(law, find_source(base))
    if unedited is not None:
        law.base.check(
            unedited.read,
            architecture=law.base.architecture,
            where=str(base),
            advice="name the model that it was applied to with --base",
        )
    edited = _checked(law, source)
    with new_folder(Path(dst)) as partial:
        _copy(edited, partial)
        weights = WeightFiles(partial)
        _restore(law, weights, originals=originals, unedited=unedited, path=path)
        where = f"{source.name}, reverted,"
        law.base.check(
            weights.read,
            architecture=law.base.architecture,
            where=where,
            advice=f"give a checkpoint and the {DELETION_FILE} that lies in it",
        )
        if unedited is not None:
            _check_all(weights, unedited, where=where)
    return law.base


def _checked(law: Deletion, source: Source) -> WeightFiles:
    """The weights of a checkpoint of the architecture, shape and precision that a deletion was applied to."""
    assert law.base is not None
    arch, weights = read_architecture(source), WeightFiles(source.folder)
    if arch.model_type != law.base.architecture:
        raise ToxmemError(
            f"{source.name} is a {arch.model_type} model; this deletion was applied to {law.base.name}, which is "
            f"{law.base.architecture}"
        )
    check_model(law, arch, weights.read, n_layers=_n_layers(source))
    if set(touched(law, arch, weights.read)) != law.base.tensors.keys():
        raise ToxmemError(
            "the deletion file is damaged: it does not name all tensors that it changes"
        )
    for name, (precision, _) in law.base.tensors.items():
        # None in the header: reading says what is wrong.
        dtype = weights.precision(name) or present(weights.read, name).dtype
        if precision_name(dtype) != precision:
            raise ToxmemError(
                f"{source.name} has {name} in {precision_name(dtype)}; this deletion was applied to {precision}"
            )
    return weights


def _restore(
    law: Deletion,
    weights: WeightFiles,
    *,
    originals: Mapping[str, Original],
    unedited: WeightFiles | None,
    path: Path,
) -> None:
    assert law.base is not None
    arch = architecture(law.base.architecture, where=law.base.name)
    for name in track(list(law.base.tensors), "revert", total=len(law.base.tensors)):
        if unedited is not None:
            weights.write(name, present(unedited.read, name))
            continue
        original = originals.get(name)
        if original is None:
            raise ToxmemError(f"{path} is damaged: it lacks the original of {name}")
        tensor = present(weights.read, name)
        view = neurons_first(arch, name, tensor)
        wanted = (
            view.shape if original.neurons is None else (len(original.neurons), *view.shape[1:])
        )
        if original.values.dtype != view.dtype or original.values.shape != wanted:
            raise ToxmemError(f"{path} is damaged: the original of {name} does not fit {name}")
        put(view, original.neurons, original.values)
        weights.write(name, tensor)


def _check_all(weights: WeightFiles, unedited: WeightFiles, *, where: str) -> None:
    """Refuse a checkpoint that differs from the unedited one in what the deletion left alone."""
    for name in track(unedited.names, "compare", total=len(unedited.names)):
        if not unedited.same_values(name, weights):
            raise ToxmemError(
                f"{where} is not the unedited model: {name} differs, which the deletion did not touch"
            )


def _copy(weights: WeightFiles, folder: Path) -> None:
    """The files of a checkpoint: weights, configuration, tokenizer; without the paths that some have in them."""
    for name in COMPANIONS:
        file = weights.folder / name
        if file.is_file() and (name != INDEX or weights.sharded):
            shutil.copyfile(file, folder / name)
    drop_places(folder)
    for file in weights.files:
        chunks = -(-file.stat().st_size // _CHUNK)
        with open(file, "rb") as reading, open(folder / file.name, "wb") as writing:
            for _ in track(range(chunks), f"copy {file.name}", total=chunks):
                writing.write(reading.read(_CHUNK))


def _n_layers(source: Source) -> int:
    return int(read_config(source).num_hidden_layers)
