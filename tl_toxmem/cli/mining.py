"""The command that makes prompts: mine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_toxmem.cli.console import prepare
from tl_toxmem.cli.engine import GPUs, Kind, Workers
from tl_toxmem.cli.output import AsJson, Quiet, speaking
from tl_toxmem.cli.settings import put_settings
from tl_toxmem.cli.words import say

if TYPE_CHECKING:
    from rich.console import Console

    from tl_toxmem.config import MineConfig, RunConfig
    from tl_toxmem.mining import Candidates, Mined
    from tl_toxmem.model import LensModel
    from tl_toxmem.scorers import ToxicityScorer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("mine")(mine)


def mine(
    model: Annotated[str, typer.Option(help="Local folder, hub id (gpt2-xl), or 'demo'.")],
    candidates: Annotated[
        str, typer.Option(help="A .jsonl, .csv or .tsv file, or hub:NAME@REVISION[:SPLIT].")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the outputs; a stopped mining goes on.")],
    column: Annotated[str, typer.Option(help="Column or field with the prompts.")] = "prompt",
    scorer: Annotated[
        str | None,
        typer.Option(
            help="'profanity', 'detoxify:NAME', 'detoxify:FILE.ckpt' or 'hf:NAME_OR_FOLDER#LABEL'; default: as for run."
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Continuations sampled of each innocuous candidate.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Keep prompts with at least this share of them toxic.")
    ] = None,
    host: Annotated[str, typer.Option(help="auto, hooked or bridge.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda:0, ...")] = "cpu",
    prepend_bos: Annotated[
        bool, typer.Option("--prepend-bos", help="Put the beginning-of-text token before texts.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of the samples and the split.")] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Open a judge's file whose SHA-256 is not known."),
    ] = False,
    engine: Kind = "local",
    num_workers: Workers = None,
    gpus_per_worker: GPUs = 0.0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other setting, such as --set max_tokens=32; =default for its default. Repeatable.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make prompts: innocuous candidates that the model continues toxically, and benign ones to match. Resumes."""
    given = {"samples": samples, "share": share, "seed": seed}
    with speaking(quiet=quiet, as_json=as_json) as output:
        from tl_toxmem.engine import EngineSettings

        workers = EngineSettings(engine, num_workers, gpus_per_worker)
        cfg = gather_mining({k: v for k, v in given.items() if v is not None}, settings or [])
        from tl_toxmem.config import make_config

        # What a run would make of the same options, its default judge included.
        run: dict[str, Any] = {"model": model, "out": str(out), "scorer": scorer, "host": host}
        run |= {
            "dtype": dtype,
            "device": device,
            "prepend_bos": prepend_bos,
            "trust_pickle": trust_pickle,
        }
        loaded, read, judge = load_for_mining(make_config(run), candidates, column, out=out)
        from tl_toxmem.cli.records import mine_record
        from tl_toxmem.mining import mine as start

        with workers.on(loaded):
            found = start(loaded, read, scorer=judge, cfg=cfg, folder=out, announce=output.announce)
        output.show(lambda console: _print(console, found, out))
        output.give(lambda: mine_record(found, out))


def load_for_mining(
    like: "RunConfig", candidates: str, column: str, *, out: Path | None = None
) -> "tuple[LensModel, Candidates, ToxicityScorer]":
    """Model, candidates and judge of a mining, as such a run would take them; what is quick to find wrong first."""
    from tl_toxmem.scorers import load_scorer, scorer_needs_network

    hub = candidates.startswith("hub:")
    prepare(network=hub or scorer_needs_network(like.scorers[0]), model=like.model)
    from tl_toxmem.mining import read_candidates
    from tl_toxmem.mining.parts import check_place
    from tl_toxmem.model import LensModel

    judge = load_scorer(like.scorers[0], device=like.device, trust_pickle=like.trust_pickle)
    read = read_candidates(candidates, column=column)
    if out is not None:
        check_place(out)
    model = LensModel.from_pretrained(
        like.model,
        host=like.host,
        dtype=like.dtype,
        device=like.device,
        prepend_bos=like.prepend_bos,
    )
    return model, read, judge


def _print(console: "Console", found: "Mined", out: Path) -> None:
    for line in (
        *str(found).split("\n"),
        f"{out}: give --prompts {out / 'prompts.jsonl'} --benign {out / 'benign.jsonl'} to run",
    ):
        say(console, line)


def gather_mining(given: dict[str, Any], settings: list[str]) -> "MineConfig":
    """The configuration from options and `--set`; the latter win."""
    from pydantic import ValidationError

    from tl_toxmem.config import MineConfig, describe_validation
    from tl_toxmem.errors import ToxmemError

    values = dict(given)
    put_settings(values, settings, example="max_tokens=32")
    try:
        return MineConfig.model_validate(values)
    except ValidationError as error:
        reason = describe_validation(error, root=MineConfig)
        raise ToxmemError(f"configuration of mine: {reason}") from None
