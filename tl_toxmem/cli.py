"""The command line: parse, call, print. Torch is imported only once there is work to do."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from tl_toxmem.certificate import Certificate
    from tl_toxmem.config import RunConfig
    from tl_toxmem.evaluation import Evaluation
    from tl_toxmem.store import RunFolder

app = typer.Typer(
    name="tl-toxmem",
    help="Find the MLP neurons that mediate toxic continuations, delete them, measure, and export the edited model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_STAGE_HELP = {
    "run": "Everything: trace, attribute, select, delete, evaluate, export, report. Resumes.",
    "trace": "Up to the causal trace: which layers and tokens mediate the target.",
    "attribute": "Up to the attribution: how much each neuron carries, what removing it costs.",
    "select": "Up to the selection: which neurons to delete, and their random controls.",
    "evaluate": "Up to the evaluation: toxicity and perplexity of base, deletion and controls.",
    "export": "Up to the export: bake into Hugging Face weights, reload, certify.",
    "report": "The report page, and whatever it still needs.",
}
_PUSHING = ("run", "export", "report")


def _stage_command(name: str) -> Callable[..., None]:
    until = "report" if name == "run" else name

    def command(
        config: Annotated[
            Path | None, typer.Argument(help="A TOML file, or a run folder to go on with.")
        ] = None,
        model: Annotated[
            str | None, typer.Option(help="Local folder, hub id (gpt2-xl), or 'demo'.")
        ] = None,
        prompts: Annotated[
            Path | None, typer.Option(help="Prompts as JSONL: prompt, target, subject, ...")
        ] = None,
        benign: Annotated[
            Path | None, typer.Option(help="Benign prompts with their right continuations, JSONL.")
        ] = None,
        neutral: Annotated[
            Path | None, typer.Option(help="Neutral text, one document a line.")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="The run folder.")] = None,
        scorer: Annotated[
            str | None, typer.Option(help="'profanity', 'detoxify:NAME' or 'detoxify:FILE.ckpt'.")
        ] = None,
        host: Annotated[str | None, typer.Option(help="auto, hooked or bridge.")] = None,
        dtype: Annotated[str | None, typer.Option(help="float32, float64 or bfloat16.")] = None,
        device: Annotated[str | None, typer.Option(help="cpu, cuda:0, ...")] = None,
        seed: Annotated[int | None, typer.Option(help="Seed of every stage.")] = None,
        settings: Annotated[
            list[str] | None,
            typer.Option(
                "--set", help="Any other setting, such as --set trace.window=5. Repeatable."
            ),
        ] = None,
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
    ) -> None:
        options = {
            "model": model,
            "prompts": prompts,
            "benign": benign,
            "neutral": neutral,
            "out": out,
            "scorer": scorer,
            "host": host,
            "dtype": dtype,
            "device": device,
            "seed": seed,
        }
        with _one_line_errors():
            given = {key: value for key, value in options.items() if value is not None}
            cfg = _gather(config, given, settings or [])
            if push_to_hub is not None:
                _check_push(push_to_hub, name)
            elif private:
                raise typer.BadParameter("--private goes with --push-to-hub")
            folder = _run(cfg, until, network=push_to_hub is not None)
            if push_to_hub is not None:
                _push(folder.artefact("export"), push_to_hub, private=private)

    return command


for _name, _help in _STAGE_HELP.items():
    app.command(_name, help=_help)(_stage_command(_name))


@app.command()
def verify(
    checkpoint: Annotated[Path, typer.Argument(help="A folder made by export.")],
    base: Annotated[
        str | None,
        typer.Option(help="The unedited model, if it is not where the certificate says."),
    ] = None,
) -> None:
    """Repeat the comparison of an exported folder with the hooked model; exit 1 if it fails."""
    with _one_line_errors():
        _prepare(network=False)
        from rich.console import Console

        from tl_toxmem.errors import ToxmemError
        from tl_toxmem.export import verify_checkpoint

        certificate = verify_checkpoint(checkpoint, base=base)
        if not certificate.passed:
            raise ToxmemError(f"{checkpoint} does not verify: {certificate.problem()}")
        Console(highlight=False).print(_words(certificate), soft_wrap=True)


def _words(certificate: "Certificate") -> str:
    """What a certificate that passed says, in one line."""
    c = certificate
    same, n = c.greedy_identical
    rounding = (
        ""
        if c.storage_rounding is None
        else f" (storing the edit in {c.stored} alone makes {c.storage_rounding:.2e})"
    )
    forced = ", FORCED onto another model than it was made for" if c.forced else ""
    return (
        f"verified in {c.precision}: largest log-probability gap {c.max_abs_logprob_gap:.2e} nats "
        f"(bound {c.bound:.0e}){rounding}, {same} of {n} greedy continuations identical, effect against base "
        f"{c.max_abs_logprob_effect:.3g} nats{forced}"
    )


@app.command(name="apply")
def apply_deletion(
    deletion: Annotated[Path, typer.Argument(help="A deletion file (5_deletion.safetensors).")],
    checkpoint: Annotated[
        str, typer.Argument(help="The unedited model: local folder, hub id, or 'demo'.")
    ],
    out: Annotated[Path, typer.Argument(help="The edited checkpoint; a folder that is not there.")],
    certify: Annotated[
        Path | None,
        typer.Option(help="Also load and compare both models on these prompts (JSONL)."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Apply it to another model than it was made for."),
    ] = False,
) -> None:
    """Bake a deletion into a checkpoint, file to file: no model is loaded, little memory is needed."""
    with _one_line_errors():
        _prepare(network=False, model=checkpoint)
        from rich.console import Console

        from tl_toxmem.deletion import Deletion

        console = Console(highlight=False)
        law = Deletion.load(deletion)
        if certify is not None:
            from tl_toxmem.export import export_checkpoint
            from tl_toxmem.model import LensModel
            from tl_toxmem.prompts import PromptSet

            texts = [prompt.prompt for prompt in PromptSet.read(certify)]
            model = LensModel.from_pretrained(checkpoint)
            done = export_checkpoint(model, law, out, prompts=texts, force=force)
            console.print(f"{out}: {_words(done.certificate)}", soft_wrap=True)
            return
        from tl_toxmem.filebake import bake_checkpoint

        applied = bake_checkpoint(checkpoint, out, law, force=force)
        n = applied.original_bytes
        size = f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"
        undo = (
            f"its deletion.safetensors keeps the {size} that were overwritten"
            if applied.keeps_originals
            else f"the {size} that were overwritten are not kept: to revert, name the unedited model with --base"
        )
        forced = "; FORCED onto another model than it was made for" if applied.forced else ""
        console.print(
            f"{out}: {law.law} on {len(law.neurons)} neurons{forced}; {undo}", soft_wrap=True
        )


@app.command()
def revert(
    deletion: Annotated[
        Path, typer.Argument(help="The deletion.safetensors of the edited checkpoint.")
    ],
    checkpoint: Annotated[str, typer.Argument(help="The edited checkpoint.")],
    out: Annotated[Path, typer.Argument(help="The restored one; a folder that is not there.")],
    base: Annotated[
        str | None,
        typer.Option(help="The unedited model, where the deletion did not keep what it overwrote."),
    ] = None,
) -> None:
    """Put the original weights back into an edited checkpoint, bit for bit, and prove it by their hashes."""
    with _one_line_errors():
        _prepare(network=False, model=checkpoint)
        from rich.console import Console

        from tl_toxmem.filebake import revert_checkpoint

        restored = revert_checkpoint(deletion, checkpoint, out, base=base)
        Console(highlight=False).print(
            f"{out}: {restored.name} again; all {len(restored.tensors)} restored tensors have their SHA-256",
            soft_wrap=True,
        )


def _gather(config: Path | None, options: dict[str, Any], settings: list[str]) -> "RunConfig":
    """One configuration from a file, the options and `--set`; later ones win."""
    import tomllib

    from tl_toxmem.config import make_config, read_toml
    from tl_toxmem.errors import ToxmemError

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
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ToxmemError(f"--set {setting!r}: write KEY=VALUE, such as --set trace.window=5")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *tables, name = key.strip().split(".")
        place = values
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ToxmemError(
                    f"--set {setting!r}: {table} is a value, and has no settings in it"
                )
        place[name] = value
    for needed in ("model", "out"):
        if needed not in values:
            raise typer.BadParameter(f"give --{needed}, or a configuration that has it")
    return make_config(values)


def _run(cfg: "RunConfig", until: str, *, network: bool) -> "RunFolder":
    from rich.console import Console

    from tl_toxmem.scorers import scorer_needs_network

    console = Console(stderr=True, highlight=False)
    _prepare(network=network or scorer_needs_network(cfg.scorer), model=cfg.model)
    from tl_toxmem.pipeline import run

    folder = run(cfg, until=until, announce=lambda stage: console.print(f"[bold]{stage}[/bold]"))
    _summary(folder, until)
    return folder


def _check_push(repo_id: str, name: str) -> None:
    """What a push would fail on is known before hours are spent."""
    if name not in _PUSHING:
        raise typer.BadParameter(f"--push-to-hub goes with {', '.join(_PUSHING)}")
    from tl_toxmem.hub import check_push

    check_push(repo_id)


def _push(checkpoint: Path, repo_id: str, *, private: bool) -> None:
    from rich.console import Console

    from tl_toxmem.hub import publication_notice, push_checkpoint

    for line in publication_notice(checkpoint):
        Console(stderr=True, highlight=False).print(line, soft_wrap=True)
    url = push_checkpoint(checkpoint, repo_id, private=private)
    Console(highlight=False).print(f"pushed: {url}", soft_wrap=True)


def _prepare(*, network: bool, model: str | None = None) -> None:
    """Quiet the libraries, and keep them off the network where nothing needs it."""
    from tl_toxmem.config import is_local

    if model is not None and is_local(model) and not network:
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    quiet: Any = logging
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()


_SHARES = ("toxicity_rate", "benign_kept")
_COLUMNS = {
    "toxicity_rate": "toxic",
    "expected_max_toxicity": "max tox.",
    "neutral_perplexity": "neutral ppl",
    "benign_kept": "benign kept",
    "prompt_perplexity": "prompt ppl",
    "kl_neutral": "KL neutral",
}
_ROOMY = 104  # columns of a terminal that the whole table fits into


def _summary(folder: "RunFolder", until: str) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _ROOMY
    if folder.is_done("evaluate"):
        from tl_toxmem.evaluation import Evaluation

        _print_table(console, Evaluation.load(folder.artefact("evaluate")))
    if until == "report":
        console.print(f"report: {folder.report}", soft_wrap=True)
    else:
        console.print(f"run folder: {folder.path}", soft_wrap=True)


def _print_table(console: Any, evaluation: "Evaluation") -> None:
    """Before, after and controls; the two least measures are left out where there is no room."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = [m for m in _COLUMNS if any(getattr(row, m) is not None for row in evaluation.rows)]
    if console.width < _ROOMY:
        shown = [m for m in shown if m not in ("prompt_perplexity", "kl_neutral")]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("edit", "n", *(_COLUMNS[m] for m in shown)):
        table.add_column(name, no_wrap=True, justify="left" if name == "edit" else "right")
    for row in evaluation.rows:
        cells = [_cell(m, getattr(row, m)) for m in shown]
        name = "base" if row.edit == "none" else row.edit.replace("_", " ")
        table.add_row(name, str(row.n_neurons), *cells)
    console.print(table)
    p = evaluation.protocol
    console.print(
        f"{p['n_prompts']} held-out prompts x {p['n_continuations']} samples, scorer "
        f"{evaluation.rows[0].scorer}, seed {p['seed']}; 95 % intervals clustered by prompt"
    )


def _cell(measure: str, estimate: Any) -> str:
    if estimate is None:
        return ""

    share = measure in _SHARES

    def text(value: float) -> str:
        return f"{100 * value:.1f}" if share else f"{value:.3f}"

    low = "" if estimate.low is None else f"\n{text(estimate.low)}-{text(estimate.high)}"
    return text(estimate.value) + ("%" if share else "") + low


@contextmanager
def _one_line_errors() -> Iterator[None]:
    # Before torch is imported: threads that wait for each other by spinning starve a machine that does anything else
    # (a trace took seven times as long beside one other process).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tl_toxmem.errors import ToxmemError
    from tl_toxmem.masking import mask_slurs

    try:
        yield
    except ToxmemError as error:
        line = mask_slurs(" ".join(str(error).split()))
        _fail(line)
    except OSError as error:  # a disk that is full or read-only, a folder that may not be read
        _fail(f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        _fail("interrupted; repeat the command to go on where it stopped", code=130)


def _fail(line: str, *, code: int = 1) -> NoReturn:
    print(f"tl-toxmem: {line}", file=sys.stderr)  # noqa: T201 - the command line's own message
    raise typer.Exit(code) from None
