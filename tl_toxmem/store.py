"""The run folder: numbered artefacts, each whole or absent, with their hashes in `provenance.json`.

A stage is done when its artefact is there, has the hash that provenance recorded, and was made under the settings that
are asked for. An artefact is made aside and takes the place of the one that was there once it is whole: a stage that
fails leaves the folder as it was, and what a kill leaves half-way has no record and is made again. A folder belongs to
one model, one way of running it, one split, and inputs of fixed content; anything else is refused before it is touched.
Other settings of a stage outdate it and what follows it, and so does other labelled text, which may be given later.
"""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tl_toxmem.config import OWN, PLACES, STAGES, RunConfig, make_config, read_toml, stage_hash
from tl_toxmem.engine import LOCAL, Engine
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import TEMPORARY, read_json, sha256_file, sync, write_bytes, write_json
from tl_toxmem.reading import record

CONFIG = "config.toml"
PROVENANCE = "provenance.json"
REPORT = "8_report.html"
CACHE = "cache"
OURS = "tl-toxmem"
"""By which name versions list this library."""
_ASIDE = f"making{TEMPORARY}"
LATER = "labelled"
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
class _Provenance:
    """What there must be in `provenance.json`: hashes by name, of files or of settings, and versions."""

    model: str
    revision: str | None
    config_hash: str
    inputs: dict[str, str]
    seed: int
    versions: dict[str, str]
    stages: dict[str, str]
    outputs: dict[str, str | dict[str, str]]
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """A folder with the results of one configuration."""

    path: Path
    made: str | None = None
    """The stage whose artefact is being made aside; see `making`."""

    def artefact(self, stage: str) -> Path:
        """Where a stage's result lies."""
        return (self.path / _ASIDE if stage == self.made else self.path) / ARTEFACTS[stage]

    def parts(self, stage: str) -> Path:
        """Where a stage keeps what is done of it, to go on from there; each part is known by what it was made from."""
        return (self.path / ARTEFACTS[stage]).with_suffix(".parts")

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / REPORT

    @property
    def cache(self) -> Path:
        """Where scores of texts are kept (see `scorers/cached.py`); no result, and safe to remove."""
        return self.path / CACHE

    def provenance(self) -> dict[str, Any]:
        """What `provenance.json` says.

        Raises:
            ToxmemError: missing or damaged.
        """
        values = read_json(self.path / PROVENANCE)
        found = record(_Provenance, values, self.path / PROVENANCE)
        if OURS not in found.versions:
            raise ToxmemError(f"{self.path / PROVENANCE} is damaged: no version of {OURS}")
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
        wanted = hash_of(cfg or self.config(), stage, inputs or values["inputs"])
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
        return [s for s in STAGES if s in made and made[s] != hash_of(cfg, s, inputs)]

    def differences(self, cfg: RunConfig, inputs: Mapping[str, str]) -> list[str]:
        """The settings and tables that differ from the folder's, places aside; and whether the labelled text does."""
        ours, theirs = (
            c.model_dump(mode="json", exclude=set(PLACES)) for c in (self.config(), cfg)
        )
        names = [name for name in ours if ours[name] != theirs[name]]
        same = self.provenance()["inputs"].get(LATER) == inputs.get(LATER)
        return names if same else [*names, LATER]

    @contextmanager
    def making(self, stage: str) -> Iterator["RunFolder"]:
        """The folder as a stage sees it, whose own artefact is made aside: the one that is there stays until `commit`.

        What is not committed is gone in the end.
        """
        aside = self.path / _ASIDE
        aside.mkdir()
        try:
            yield replace(self, made=stage)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def commit(
        self,
        stage: str,
        cfg: RunConfig,
        inputs: Mapping[str, str],
        stale: Sequence[str],
        *,
        engine: Engine = LOCAL,
    ) -> None:
        """Put what a stage made in the place of what was there, and note under which settings it was made.

        What follows it is struck from the record first, so that a kill in between leaves nothing that does not fit.

        Args:
            stage: whose artefact is whole.
            cfg: the settings that it was made under.
            inputs: name and SHA-256 of every input.
            stale: the stages that its new artefact outdates, itself among them.
            engine: what did the work, for the provenance; the result does not depend on it.
        """
        self.adopt(cfg, inputs, stale)
        place, new = self.artefact(stage), replace(self, made=stage).artefact(stage)
        if place.is_dir():
            place.rename(new.with_name("replaced"))
        new.replace(place)
        sync(self.path)
        values = self.provenance()
        values["stages"][stage] = hash_of(cfg, stage, inputs)
        values["outputs"][ARTEFACTS[stage]] = _hash(place)
        values["engines"] = {**values.get("engines", {}), stage: engine.facts()}
        self._write_provenance(values)
        # A trace's parts are known by their settings, and hold for other prompts before it too.
        self.forget_parts({stage} | set(stale) - {"trace"})

    def adopt(self, cfg: RunConfig, inputs: Mapping[str, str], stale: Sequence[str] = ()) -> None:
        """Put settings in the place of the folder's; what was made under others, and `stale`, is struck first."""
        values = self.provenance()
        struck = {*stale, *self.outdated(cfg, inputs)} & set(values["stages"])
        if struck:
            for stage in struck:
                values["outputs"].pop(ARTEFACTS[stage], None)
                values["stages"].pop(stage, None)
                values.get("engines", {}).pop(stage, None)
            self._write_provenance(values)
        if self.differences(cfg, inputs):
            self.write_config(cfg)
        self.note(config_hash=cfg.hash(), inputs=dict(inputs))

    def withdraw(self, stage: str, before: RunConfig) -> None:
        """Take back the settings of a stage that failed and of those after it, if others were adopted for the sake of
        stages before it, as far as nothing rests on them that was made.
        """
        own = {name for one in STAGES[STAGES.index(stage) :] for name in OWN[one]}
        now, values = self.config(), self.provenance()
        back = now.model_copy(update={name: getattr(before, name) for name in own})
        inputs = values["inputs"]
        rests = any(hash_of(back, one, inputs) != made for one, made in values["stages"].items())
        if back != now and not rests:
            self.write_config(back)
            self.note(config_hash=back.hash())

    def write_config(self, cfg: RunConfig) -> None:
        """Write `config.toml`."""
        write_bytes(self.path / CONFIG, cfg.to_toml().encode())

    def forget_parts(self, stages: Collection[str]) -> None:
        """Remove what stages that were stopped half-way keep to go on from."""
        for stage in stages:
            shutil.rmtree(self.parts(stage), ignore_errors=True)

    def note(self, **facts: Any) -> None:
        """Add facts to the provenance, where they are not what it says."""
        values = self.provenance()
        if any(values.get(name, ...) != value for name, value in facts.items()):
            self._write_provenance({**values, **facts})

    def _write_provenance(self, values: dict[str, Any]) -> None:
        write_json(
            self.path / PROVENANCE, {k: v for k, v in values.items() if k != "format_version"}
        )

    def config(self) -> RunConfig:
        """The configuration that the folder belongs to; `out` is where the folder now is."""
        values = {**read_toml(self.path / CONFIG), "out": str(self.path)}
        try:
            return make_config(values)
        except ToxmemError as error:
            raise ToxmemError(f"{self.path / CONFIG}: {error}") from None


def hash_of(cfg: RunConfig, stage: str, inputs: Mapping[str, str]) -> str:
    """Of what a stage's result depends on."""
    return stage_hash(cfg, stage, labelled=inputs.get(LATER))


def _hash(path: Path) -> str | dict[str, str]:
    if path.is_dir():
        return {p.name: sha256_file(p) for p in sorted(path.iterdir())}
    return sha256_file(path)
