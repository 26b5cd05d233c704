"""Commands that run the chain up to a stage."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_toxmem.cli.console import prepare, summary
from tl_toxmem.cli.engine import GPUs, Kind, Workers
from tl_toxmem.cli.options import (
    Benign,
    Config,
    Device,
    Dtype,
    Host,
    Labelled,
    MaxMemory,
    MaxPerplexityIncrease,
    Model,
    Neutral,
    Out,
    Prompts,
    Scorers,
    Search,
    Seed,
    Settings,
    TrustPickle,
    given,
    within,
)
from tl_toxmem.cli.output import AsJson, Output, Quiet, speaking
from tl_toxmem.cli.settings import is_set, put_settings
from tl_toxmem.cli.words import say

if TYPE_CHECKING:
    from tl_toxmem.config import RunConfig
    from tl_toxmem.engine import EngineSettings
    from tl_toxmem.store import RunFolder

_STAGE_HELP = {
    "run": "Everything: trace, attribute, select, delete, evaluate, export, report. Resumes.",
    "trace": "Up to the causal trace: which layers and tokens mediate the target.",
    "attribute": "Up to the attribution: how much each neuron carries, what removing it costs.",
    "select": "Up to the selection: which neurons to delete, and their random controls.",
    "evaluate": "Up to the evaluation: toxicity and perplexity of base, deletion and controls.",
    "export": "Up to the export: bake into Hugging Face weights, reload, certify.",
    "report": "The report page, and whatever it still needs.",
    "compare": "Everything, and the field's methods at several strengths on the same prompts: the "
    "toxicity-perplexity front.",
}
_PUSHING = ("run", "export", "report", "compare")
_WHOLE = ("run", "compare")
"""Commands that end with the report."""


def add_to(app: typer.Typer) -> None:
    """Register one command per stage."""
    for name, text in _STAGE_HELP.items():
        app.command(name, help=text)(_stage_command(name))


def _stage_command(name: str) -> Callable[..., None]:
    until = "report" if name in _WHOLE else name

    def command(
        config: Config = None,
        model: Model = None,
        prompts: Prompts = None,
        benign: Benign = None,
        labelled: Labelled = None,
        neutral: Neutral = None,
        out: Out = None,
        scorer: Scorers = None,
        trust_pickle: TrustPickle = False,
        host: Host = None,
        dtype: Dtype = None,
        device: Device = None,
        seed: Seed = None,
        max_memory: MaxMemory = None,
        max_perplexity_increase: MaxPerplexityIncrease = None,
        search: Search = None,
        engine: Kind = "local",
        num_workers: Workers = None,
        gpus_per_worker: GPUs = 0.0,
        settings: Settings = None,
        push_to_hub: Annotated[
            str | None,
            typer.Option(
                metavar="REPO",
                hidden=name not in _PUSHING,
                help="Then push the checkpoint to this model repository (OWNER/NAME).",
            ),
        ] = None,
        private: Annotated[
            bool,
            typer.Option(
                "--private", hidden=name not in _PUSHING, help="Push to a private repository."
            ),
        ] = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
    ) -> None:
        options = given(
            model=model,
            prompts=prompts,
            benign=benign,
            labelled=labelled,
            neutral=neutral,
            out=out,
            scorer=scorer,
            trust_pickle=trust_pickle,
            host=host,
            dtype=dtype,
            device=device,
            seed=seed,
        )
        with speaking(quiet=quiet, as_json=as_json) as output:
            from tl_toxmem.engine import EngineSettings

            workers = EngineSettings(engine, num_workers, gpus_per_worker)
            more = within(
                max_memory=max_memory,
                max_perplexity_increase=max_perplexity_increase,
                search=search,
            )
            if name == "compare":
                more.append("with_comparison=true")
            cfg = gather(config, options, [*(settings or []), *more])
            if push_to_hub is not None:
                _check_push(push_to_hub, name)
            elif private:
                raise typer.BadParameter("--private goes with --push-to-hub")
            folder = _run(
                cfg, until, engine=workers, output=output, network=push_to_hub is not None
            )
            pushed = {}
            if push_to_hub is not None:
                checkpoint = folder.artefact("export")
                pushed["pushed"] = _push(checkpoint, push_to_hub, private=private, output=output)
            output.give(lambda: {**_record(name, folder, until), **pushed})

    return command


def gather(config: Path | None, options: dict[str, Any], settings: list[str]) -> "RunConfig":
    """One configuration from a file, the options and `--set`; later ones win.

    A protocol that is set brings its own values with it: what the file says in their place, as that of a run folder
    always does, goes with the protocol it was of.
    """
    from tl_toxmem.config import PROTOCOL_FIELDS, make_config, read_toml

    values: dict[str, Any] = {}
    if config is not None:
        file = config / "config.toml" if config.is_dir() else config
        values = read_toml(file)
        if config.is_dir():
            values["out"] = str(config)
    if (
        "seed" in options and config is not None and config.is_dir()
    ):  # it has the seed in every stage
        for stage in values.values():
            if isinstance(stage, dict):
                stage.pop("seed", None)
    values |= {name: str(v) if isinstance(v, Path) else v for name, v in options.items()}
    if is_set("evaluate.protocol", settings) and isinstance(values.get("evaluate"), dict):
        for name in PROTOCOL_FIELDS:
            values["evaluate"].pop(name, None)
    put_settings(values, settings, example="trace.window=5")
    if "model" not in values:
        raise typer.BadParameter("give --model, or a configuration that has it")
    values.setdefault("out", str(Path("runs") / Path(str(values["model"])).name))
    return make_config(values)


def _run(
    cfg: "RunConfig", until: str, *, engine: "EngineSettings", output: Output, network: bool
) -> "RunFolder":
    from tl_toxmem.scorers import scorer_needs_network

    judges_need_it = any(scorer_needs_network(name) for name in cfg.scorers)
    prepare(network=network or judges_need_it, model=cfg.model)
    from tl_toxmem.pipeline import run

    folder = run(cfg, until=until, announce=output.announce, tell=output.tell, engine=engine)
    output.show(lambda console: summary(console, folder, until))
    return folder


def _record(name: str, folder: "RunFolder", until: str) -> dict[str, Any]:
    from tl_toxmem.cli.records import run_record

    return run_record(name, folder, until)


def _check_push(repo_id: str, name: str) -> None:
    """What a push would fail on is known before hours are spent."""
    if name not in _PUSHING:
        raise typer.BadParameter(f"--push-to-hub goes with {', '.join(_PUSHING)}")
    from tl_toxmem.hub import check_push

    check_push(repo_id)


def _push(checkpoint: Path, repo_id: str, *, private: bool, output: Output) -> str:
    from tl_toxmem.hub import publication_notice, push_checkpoint

    for line in publication_notice(checkpoint):
        output.tell(line)
    url = push_checkpoint(checkpoint, repo_id, private=private)
    output.show(lambda console: say(console, f"pushed: {url}"))
    return url
