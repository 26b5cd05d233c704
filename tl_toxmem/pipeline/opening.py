"""A run folder is opened: refused if it is another run's, begun if it is new, cleared of what a kill left."""

import shutil
from collections.abc import Sequence

from tl_toxmem.config import FOLDER, STAGES, RunConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import TEMPORARY, write_json
from tl_toxmem.locking import LOCK, check_out
from tl_toxmem.store import CONFIG, LATER, PROVENANCE, RunFolder


def check_folder(cfg: RunConfig, inputs: dict[str, str], *, versions: dict[str, str]) -> None:
    """Refuse, before anything is written, a folder that this run may not use.

    Args:
        cfg: the run.
        inputs: name and SHA-256 of every input.
        versions: of the libraries.

    Raises:
        ToxmemError: see `check_out`; or a folder that has something else in it, another model or split,
            changed inputs, other versions.
    """
    path = cfg.out
    check_out(path)
    inside = [p.name for p in path.iterdir()] if path.exists() else []
    if all(name == LOCK or name.endswith(TEMPORARY) for name in inside):
        return
    if not (path / CONFIG).is_file():
        raise ToxmemError(f"{path} is not empty and is no run folder: give another --out")
    folder = RunFolder(path)
    before = folder.config()
    differing = [name for name in FOLDER if getattr(before, name) != getattr(cfg, name)]
    if differing:
        raise ToxmemError(
            f"{path} holds a run of another configuration (differs in {', '.join(differing)}): give another --out"
        )
    if not (path / PROVENANCE).is_file():
        return
    recorded = folder.provenance()
    theirs, ours = (
        {k: v for k, v in i.items() if k != LATER} for i in (recorded["inputs"], inputs)
    )
    changed = [name for name in ours if theirs.get(name) != ours[name]]
    if changed or set(theirs) != set(ours):
        raise ToxmemError(
            f"{path} holds a run on other content of {', '.join(changed) or 'its inputs'}: give another --out"
        )
    other = [name for name, value in versions.items() if recorded["versions"].get(name) != value]
    if other:
        raise ToxmemError(
            f"{path} was begun with another version of {', '.join(other)} (see {PROVENANCE}): give another --out"
        )


def open_folder(
    cfg: RunConfig, inputs: dict[str, str], *, versions: dict[str, str], done: Sequence[str]
) -> RunFolder:
    """The folder of a run, begun if there is none, cleared of what a kill left.

    The settings of one that is there stay until something was made under the new ones (`RunFolder.commit`).

    Args:
        cfg: the run.
        inputs: name and SHA-256 of every input.
        versions: of the libraries.
        done: stages that have nothing to go on from.
    """
    folder = RunFolder(cfg.out)
    for place in (cfg.out, folder.cache, *map(folder.parts, STAGES)):
        for leftover in place.glob(f"*{TEMPORARY}"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    if not (cfg.out / PROVENANCE).is_file():
        folder.write_config(cfg)
        facts = {"model": cfg.model, "revision": None, "config_hash": cfg.hash(), "inputs": inputs}
        made = {"versions": versions, "stages": {}, "outputs": {}}
        write_json(cfg.out / PROVENANCE, {**facts, "seed": cfg.seed, **made})
    folder.forget_parts(done)
    return folder
