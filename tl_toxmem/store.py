"""The run folder: numbered artefacts, each whole or absent, with their hashes in `provenance.json`.

A stage is done when its artefact is there, has the hash that provenance recorded, and was made under the settings that
are asked for; an artefact that was written just before a kill has no such record and is made again. A folder belongs to
one model, one way of running it, one split, and inputs of fixed content; anything else is refused before it is touched.
Other settings of a stage outdate it and what follows it, and so does other labelled text, which may be given later.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_toxmem.config import (
    FOLDER,
    PLACES,
    STAGES,
    RunConfig,
    make_config,
    read_toml,
    stage_hash,
)
from tl_toxmem.engine import Engine
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import TEMPORARY, read_json, sha256_file, write_bytes, write_json

CONFIG = "config.toml"
PROVENANCE = "provenance.json"
REPORT = "8_report.html"
CACHE = "cache"
_LATER = "labelled"
"""The input that a folder may be given later, or other content of: stages that read it know it by their hash."""
ARTEFACTS: dict[str, str] = {
    "prompts": "1_prompts.jsonl",
    "trace": "2_trace.safetensors",
    "attribute": "3_scores.safetensors",
    "select": "4_neurons.json",
    "delete": "5_deletion.safetensors",
    "evaluate": "6_evaluation.json",
    "export": "7_checkpoint",
    "compare": "9_comparison.json",
}


@dataclass(frozen=True)
class RunFolder:
    """A folder with the results of one configuration."""

    path: Path

    def artefact(self, stage: str) -> Path:
        """Where a stage's result lies."""
        return self.path / ARTEFACTS[stage]

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / REPORT

    @property
    def cache(self) -> Path:
        """Where scores of texts are kept (see `scorers/cached.py`); no result, and safe to remove."""
        return self.path / CACHE

    def provenance(self) -> dict[str, Any]:
        """What `provenance.json` says."""
        values = read_json(self.path / PROVENANCE)
        lacking = {"inputs", "outputs", "stages", "versions", "revision"} - set(values)
        if lacking:
            raise ToxmemError(
                f"{self.path / PROVENANCE} is damaged: it lacks {', '.join(sorted(lacking))}"
            )
        return values

    def is_done(
        self, stage: str, cfg: RunConfig | None = None, inputs: Mapping[str, str] | None = None
    ) -> bool:
        """Whether a stage's artefact is there, as it was recorded and under the same settings.

        Args:
            stage: which.
            cfg: the settings that are asked for; None: those of the folder.
            inputs: name and SHA-256 of every input; None: those of the folder.

        Raises:
            ToxmemError: it is there, but was changed since.
        """
        if not (self.path / PROVENANCE).is_file() or not self.artefact(stage).exists():
            return False
        values = self.provenance()
        recorded = values["outputs"].get(ARTEFACTS[stage])
        wanted = _stage_hash(cfg or self.config(), stage, inputs or values["inputs"])
        if recorded is None or values["stages"].get(stage) != wanted:
            return False
        if recorded != _hash(self.artefact(stage)):
            raise ToxmemError(
                f"{self.artefact(stage)} was changed since it was made: delete it and what follows to make it anew"
            )
        return True

    def outdated(self, cfg: RunConfig, inputs: Mapping[str, str]) -> list[str]:
        """The stages that were made under other settings, or of other labelled text, than these."""
        if not (self.path / PROVENANCE).is_file():
            return []
        made = self.provenance()["stages"]
        return [s for s in STAGES if s in made and made[s] != _stage_hash(cfg, s, inputs)]

    def differences(self, cfg: RunConfig, inputs: Mapping[str, str]) -> list[str]:
        """The settings and tables that differ from the folder's, places aside; and whether the labelled text does."""
        ours, theirs = (
            c.model_dump(mode="json", exclude=set(PLACES)) for c in (self.config(), cfg)
        )
        names = [name for name in ours if ours[name] != theirs[name]]
        same = self.provenance()["inputs"].get(_LATER) == inputs.get(_LATER)
        return names if same else [*names, _LATER]

    def record(self, stage: str) -> None:
        """Note that a stage is done, and under which settings."""
        values = self.provenance()
        values["stages"][stage] = _stage_hash(self.config(), stage, values["inputs"])
        values["outputs"][ARTEFACTS[stage]] = _hash(self.artefact(stage))
        self._write_provenance(values)

    def outdate(self, stages: Sequence[str]) -> None:
        """Strike stages from the record, so that they are made again; their artefacts stay until then."""
        values = self.provenance()
        for stage in stages:
            values["outputs"].pop(ARTEFACTS[stage], None)
            values["stages"].pop(stage, None)
        self._write_provenance(values)

    def forget(self, stage: str) -> None:
        """Remove an artefact that is not recorded: outdated, or left by a kill."""
        path = self.artefact(stage)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def forget_parts(self, stages: Sequence[str]) -> None:
        """Remove what stages that were stopped half-way keep to go on from; a trace's is known by its settings."""
        for stage in set(stages) - {"trace"}:
            shutil.rmtree(self.artefact(stage).with_suffix(".parts"), ignore_errors=True)

    def note(self, **facts: Any) -> None:
        """Add facts to the provenance."""
        self._write_provenance({**self.provenance(), **facts})

    def note_engine(self, stage: str, engine: Engine) -> None:
        """Say in the provenance what did a stage's work; its result does not depend on it."""
        self.note(engines={**self.provenance().get("engines", {}), stage: engine.facts()})

    def _write_provenance(self, values: dict[str, Any]) -> None:
        write_json(
            self.path / PROVENANCE, {k: v for k, v in values.items() if k != "format_version"}
        )

    def config(self) -> RunConfig:
        """The configuration that the folder belongs to; `out` is where the folder now is."""
        return make_config({**read_toml(self.path / CONFIG), "out": str(self.path)})


def check_folder(cfg: RunConfig, inputs: dict[str, str], *, versions: dict[str, str]) -> None:
    """Refuse, before anything is written, a folder that this run may not use.

    Args:
        cfg: the run.
        inputs: name and SHA-256 of every input.
        versions: of the libraries.

    Raises:
        ToxmemError: a file, a folder that cannot be written or has something else in it, another model or split,
            changed inputs, other versions.
    """
    path = cfg.out
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise ToxmemError(f"{nearest} is a file: give another --out")
    if not os.access(nearest, os.W_OK):
        raise ToxmemError(f"{nearest} cannot be written to: give another --out")
    if not path.exists() or not any(p for p in path.iterdir() if not p.name.endswith(TEMPORARY)):
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
        {k: v for k, v in i.items() if k != _LATER} for i in (recorded["inputs"], inputs)
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


def open_folder(cfg: RunConfig, inputs: dict[str, str], *, versions: dict[str, str]) -> RunFolder:
    """The folder of a run, made if it is not there, cleared of what a kill left half-written.

    What was made under other settings is struck from the record first, and only then do the new settings take the old
    ones' place.
    """
    check_folder(cfg, inputs, versions=versions)
    folder = RunFolder(cfg.out)
    cfg.out.mkdir(parents=True, exist_ok=True)
    for leftover in cfg.out.glob(f"*{TEMPORARY}"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    stale = folder.outdated(cfg, inputs)
    if stale:
        folder.outdate(stale)
    begun = (cfg.out / PROVENANCE).is_file()
    if not begun:
        write_bytes(cfg.out / CONFIG, cfg.to_toml().encode())
    elif folder.differences(cfg, inputs):
        before, known = folder.config(), folder.provenance()["inputs"]
        folder.forget_parts(
            [s for s in STAGES if _stage_hash(before, s, known) != _stage_hash(cfg, s, inputs)]
        )
        write_bytes(cfg.out / CONFIG, cfg.to_toml().encode())
    noted = {"config_hash": cfg.hash(), "inputs": inputs}
    if not begun:
        facts = {"model": cfg.model, "revision": None, **noted, "seed": cfg.seed}
        write_json(
            cfg.out / PROVENANCE, {**facts, "versions": versions, "stages": {}, "outputs": {}}
        )
    elif any(folder.provenance().get(name) != value for name, value in noted.items()):
        folder.note(**noted)
    return folder


def _stage_hash(cfg: RunConfig, stage: str, inputs: Mapping[str, str]) -> str:
    return stage_hash(cfg, stage, labelled=inputs.get(_LATER))


def _hash(path: Path) -> str | dict[str, str]:
    if path.is_dir():
        return {p.name: sha256_file(p) for p in sorted(path.iterdir())}
    return sha256_file(path)
