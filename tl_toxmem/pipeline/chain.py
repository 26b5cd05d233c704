"""The chain: prompts -> trace -> attribute -> select -> delete -> evaluate -> export -> report.

Every input is read and checked, and the model loaded, before the first byte is written. Each stage reads what
it needs from the artefacts on disk, also in an uninterrupted run, so a resumed run gives the same numbers.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from tl_toxmem.certify import library_versions
from tl_toxmem.config import STAGES, RunConfig
from tl_toxmem.engine import Engine, EngineSettings
from tl_toxmem.errors import ToxmemError
from tl_toxmem.locking import one_writer
from tl_toxmem.model import LensModel
from tl_toxmem.pipeline.inputs import Inputs, load_model, read_inputs
from tl_toxmem.pipeline.opening import check_folder, open_folder
from tl_toxmem.pipeline.stages import STAGE_FUNCTIONS
from tl_toxmem.report import write_report
from tl_toxmem.store import RunFolder

Announce = Callable[[str], object]


def run(
    cfg: RunConfig,
    *,
    until: str = "report",
    announce: Announce = str,
    tell: Announce = str,
    engine: EngineSettings | None = None,
) -> RunFolder:
    """Do what is not yet done under these settings, up to and including the stage `until`.

    Args:
        cfg: the run; in a folder `cfg.out` of the same model, split and inputs, the stages whose settings, and whose
            predecessors' settings, are the same are kept.
        until: a stage, or `report` for all of them.
        announce: called with each stage's name as it begins, and before them with `load`.
        tell: called with a sentence: how many prompts there are, what is still to be made, and where other settings
            than before outdate what was made.
        engine: what does the work over prompts; no result depends on it. Default: this process.

    Raises:
        ToxmemError: any mistake in the input, or a folder that another process writes to, before anything is written;
            or a stage that cannot be done with these settings, which leaves the folder as it was before that stage.
    """
    wanted = _wanted(cfg, until)
    inputs = read_inputs(cfg)
    versions = library_versions()
    check_folder(cfg, inputs.hashes, versions=versions)
    with one_writer(cfg.out), ExitStack() as stack:
        check_folder(cfg, inputs.hashes, versions=versions)  # another process may just have left it
        folder = RunFolder(cfg.out)
        missing = [stage for stage in wanted if not folder.is_done(stage, cfg, inputs.hashes)]
        if missing:
            announce("load")
        model = load_model(cfg, inputs, missing) if missing else None
        working = (
            None if model is None else stack.enter_context((engine or EngineSettings()).on(model))
        )
        outdated = folder.outdated(cfg, inputs.hashes)
        if outdated:
            names = ", ".join(folder.differences(cfg, inputs.hashes))
            tell(
                f"{cfg.out}: other settings than before in {names} outdate {', '.join(outdated)}; what is there stays "
                "until it is replaced"
            )
        elif missing and len(missing) < len(wanted):
            tell(f"{cfg.out}: still to be made: {', '.join(missing)}")
        done = [stage for stage in wanted if stage not in missing]
        folder = open_folder(cfg, inputs.hashes, versions=versions, done=done)
        inputs = inputs.cached(folder)
        if "prompts" in missing:
            find, report = inputs.prompts.find, inputs.prompts.report
            tell(f"{len(find)} prompts find neurons, {len(report)} others report")
        if model is not None and working is not None:
            folder.note(revision=inputs.source.revision)
            before, stale = folder.config(), _stale(missing)
            for stage in (stage for stage in wanted if stage in stale):
                announce(stage)
                try:
                    _make(stage, model, cfg, inputs, folder, stale, working)
                except ToxmemError as error:
                    folder.withdraw(stage, before)
                    raise ToxmemError(
                        f"{error} [stage {stage}; {folder.path} keeps what was made before it, and goes on from there "
                        "with other settings]"
                    ) from error
        folder.adopt(cfg, inputs.hashes)
        if until == "report":
            announce("report")
            write_report(folder.path)
    return folder


def _make(
    stage: str,
    model: LensModel,
    cfg: RunConfig,
    inputs: Inputs,
    folder: RunFolder,
    stale: Sequence[str],
    engine: Engine,
) -> None:
    """One stage, whole or not at all."""
    with folder.making(stage) as aside:
        STAGE_FUNCTIONS[stage](model, cfg, inputs, aside)
        outdated = stale[stale.index(stage) :]
        folder.commit(stage, cfg, inputs.hashes, outdated, engine=engine)


def _stale(missing: Sequence[str]) -> Sequence[str]:
    """A stage made anew makes everything that follows it stale, also what is not wanted now.

    Nothing follows the export, and nothing the comparison.
    """
    if missing[0] in ("export", "compare"):
        return missing
    return STAGES[STAGES.index(missing[0]) :]


def _wanted(cfg: RunConfig, until: str) -> tuple[str, ...]:
    """Which stages, in their order; a comparison needs no checkpoint, and a run no comparison."""
    if until not in (*STAGES, "report"):
        raise ToxmemError(f"unknown stage {until!r}: choose from {', '.join(STAGES)}, report")
    if until == "compare":
        return tuple(stage for stage in STAGES if stage != "export")
    if until == "report":
        return STAGES if cfg.with_comparison else STAGES[:-1]
    return STAGES[: STAGES.index(until) + 1]
