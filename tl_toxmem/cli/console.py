"""What every command needs: errors in one line, quiet libraries, the table at the end."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from tl_toxmem.cli.words import inert, say, table_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tl_toxmem.evaluation import Evaluation, Measure
    from tl_toxmem.store import RunFolder

_ENDLESS = 10_000  # columns of what is no terminal: a file or pipe, where nothing need be broken
_LONGEST = 2000  # characters of a message; what it quotes may be a whole file
_DROPPED = (
    "prompt_perplexity",
    "kl_neutral",
    "expected_max_toxicity",
    "benign_kept",
    "toxicity_rate",
    "neutral_perplexity",
)
"""Measures that a terminal too narrow for all does without, first to last; never the protocol's own."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn mistakes in the input into one line and an exit code; everything else keeps its traceback."""
    # Before torch is imported: threads that wait for each other by spinning starve a machine that does anything else
    # (a trace took seven times as long beside one other process).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tl_toxmem.errors import ToxmemError
    from tl_toxmem.masking import mask_quoted

    try:
        yield
    except ToxmemError as error:
        _fail(mask_quoted(_in_one_line(str(error))))
    except OSError as error:  # a disk that is full or read-only, a folder that may not be read
        place = error.filename or "a file"
        _fail(_in_one_line(f"cannot read or write {place}: {error.strerror or error}"))
    except (RuntimeError, MemoryError) as error:  # where no batch is divided
        from tl_toxmem.careful import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        _fail("out of memory: use a machine or device with more of it, or smaller batches")
    except KeyboardInterrupt:
        _fail("interrupted; repeat the command (a run goes on where it stopped)", code=130)


def _in_one_line(text: str) -> str:
    """A message without line ends, with what a terminal would obey or hide as escapes, and not endless."""
    line = inert(" ".join(text.split()))
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}"


def _fail(line: str, *, code: int = 1) -> NoReturn:
    print(f"tl-toxmem: {line}", file=sys.stderr)  # noqa: T201 - the command line's own message
    raise typer.Exit(code) from None


def prepare(*, network: bool, model: str | None = None) -> None:
    """Quiet the libraries, and keep them off the network where nothing needs it."""
    from tl_toxmem.config import is_local

    if model is not None and is_local(model) and not network:
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    quiet: Any = logging
    quiet.disable_progress_bar()  # of loading, which is quick; huggingface_hub's bars of what it downloads go with it
    quiet.set_verbosity_error()
    if "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        from huggingface_hub.utils.tqdm import enable_progress_bars

        enable_progress_bars()


def console_on(*, stderr: bool) -> "Console":
    """A stream with rich's bold letters; without any where it is no terminal, or the user has set NO_COLOR."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR"))  # rich itself would only leave out colours
    return Console(stderr=stderr, highlight=False, color_system=None if plain else "auto")


def results_console() -> "Console":
    """Standard output, as wide as it is; as wide as need be where it is no terminal."""
    console = console_on(stderr=False)
    if not console.is_terminal:
        console.width = _ENDLESS
    return console


def summary(console: "Console", folder: "RunFolder", until: str) -> None:
    """The tables of what was asked for, and where the report is."""
    from tl_toxmem.cli import results

    shows = {
        "trace": results.print_trace,
        "attribute": results.print_scores,
        "select": results.print_selection,
    }
    if until in shows:
        shows[until](console, folder)
    else:
        _print_outcome(console, folder)
    if until in ("export", "report"):
        results.print_export(console, folder)
    if until == "report":
        say(console, f"report: {folder.report}")
    else:
        say(console, f"run folder: {folder.path}")


def _print_outcome(console: "Console", folder: "RunFolder") -> None:
    """What the deletion did, by every judge, and beside other methods where they were compared."""
    from tl_toxmem.cli.comparison import print_comparison
    from tl_toxmem.cli.results import print_controls
    from tl_toxmem.comparison import Comparison
    from tl_toxmem.evaluation import Evaluation, neutral_warning

    evaluation = Evaluation.load(folder.artefact("evaluate"))
    for scorer in dict.fromkeys(row.scorer for row in evaluation.rows):
        print_evaluation(console, evaluation, scorer)
    if (warning := neutral_warning(evaluation)) is not None:
        say(console, warning)
    print_controls(console, folder)
    if folder.is_done("compare"):
        print_comparison(console, Comparison.load(folder.artefact("compare")))


def print_evaluation(console: "Console", evaluation: "Evaluation", scorer: str) -> None:
    """Before, after and controls by one judge: as many measures as there is room for, the protocol's own always."""
    from tl_toxmem.evaluation import ROOMY, measured

    p = evaluation.protocol
    columns = measured(evaluation.rows, ROOMY, headline=p["headline"])
    wide = console.options.update(width=_ENDLESS)
    for name in _DROPPED:
        if (
            console.measure(_table(evaluation, scorer, columns), options=wide).maximum
            <= console.width
        ):
            break
        columns = [m for m in columns if m.name != name or m.name == p["headline"]]
    console.print(_table(evaluation, scorer, columns))
    say(console, protocol_line(evaluation, scorer))


def protocol_line(evaluation: "Evaluation", scorer: str) -> str:
    """What a table's numbers are of."""
    p = evaluation.protocol
    return f"{p['n_prompts']} held-out prompts, scorer {scorer}, 95 % intervals clustered by prompt; {p['description']}"


def _table(evaluation: "Evaluation", scorer: str, columns: Sequence["Measure"]) -> "Table":
    heads = ("edit", "n", *(m.short for m in columns))
    rows = []
    for row in (row for row in evaluation.rows if row.scorer == scorer):
        name = "base" if row.edit == "none" else row.edit.replace("_", " ")
        cells = ("\n".join(m.cell(getattr(row, m.name), to="-")) for m in columns)
        rows.append((name, row.n_neurons, *cells))
    return table_of(heads, rows, left=("edit",))
