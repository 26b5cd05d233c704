"""How a command speaks: its results on stdout, as tables or as one JSON object; progress and messages on stderr."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from tl_toxmem.cli.console import one_line_errors, results_console
from tl_toxmem.cli.words import say

if TYPE_CHECKING:
    from rich.console import Console

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no tables: only errors.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output in place of tables.")
]


@dataclass(frozen=True)
class Output:
    """Where a command's words go.

    Attributes:
        quiet: say nothing but errors, and the object if there is to be one.
        as_json: give one object, and no tables.
        stdout: where results go.
    """

    quiet: bool
    as_json: bool
    stdout: TextIO

    def announce(self, step: str) -> None:
        """Say on stderr that a step begins."""
        self._say(step, style="bold")

    def tell(self, words: str) -> None:
        """Say something on stderr."""
        self._say(words)

    def show(self, draw: Callable[["Console"], object]) -> None:
        """Print results for people."""
        if not self.quiet and not self.as_json:
            draw(results_console())

    def give(self, values: Callable[[], Mapping[str, Any]]) -> None:
        """Print results for programs."""
        if self.as_json:
            from tl_toxmem.config import FORMAT_VERSION

            text = json.dumps(plain({"format_version": FORMAT_VERSION, **values()}), indent=1)
            self.stdout.write(text + "\n")

    def _say(self, words: str, *, style: str = "") -> None:
        if not self.quiet:
            from tl_toxmem.cli.console import console_on

            say(console_on(stderr=True), words, style=style)


@contextmanager
def speaking(*, quiet: bool, as_json: bool) -> Iterator[Output]:
    """Errors in one line, and an output that keeps stdout for the results alone.

    Args:
        quiet: no progress, no messages, no tables.
        as_json: whatever libraries print goes to stderr, so that stdout has one object or, after an error, nothing.
    """
    with one_line_errors(), ExitStack() as stack:
        output = Output(quiet, as_json, sys.stdout)
        if as_json:
            stack.enter_context(redirect_stdout(sys.stderr))
        if quiet:
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = (
                "1"  # read when huggingface_hub is imported
            )
            from tl_toxmem.progress import silent

            stack.enter_context(silent())
        yield output


def plain(value: Any) -> Any:
    """A value as JSON has it: paths as text, tuples as lists, and null for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(name): plain(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain(own) for own in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
