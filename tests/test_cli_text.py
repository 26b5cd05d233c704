"""What commands print is text: nothing in a path or a record is markup, an emoji, or a code that terminals obey."""

import io
import shutil

import pytest
from typer.testing import CliRunner

NAME = "run[old]x[/b]:bomb:\x1b[31m\u202e"
"""Of a folder: a style, the end of none, an emoji, a colour, and the mark that turns the line round."""
SHOWN = r"run[old]x[/b]:bomb:\x1b[31m\u202e"


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("text") / NAME
    shutil.copytree(finished, out)
    return out


@pytest.mark.parametrize("command", ["trace", "select", "export", "report"])
def test_a_path_is_printed_as_it_is(folder, command):
    from tl_toxmem.cli import app

    done = CliRunner().invoke(app, [command, str(folder)])
    assert done.exit_code == 0, done.output
    assert SHOWN in done.output
    assert "\x1b" not in done.output and "\u202e" not in done.output


def test_messages_of_a_run_are_inert(folder, tmp_path):
    """Other settings than before are told of on stderr, with the folder's name."""
    from tl_toxmem.cli import app

    out = shutil.copytree(folder, tmp_path / NAME)
    done = CliRunner().invoke(app, ["select", str(out), "--set", "select.k=3"])
    assert done.exit_code == 0, done.output
    assert SHOWN in done.stderr and "outdate" in done.stderr
    assert "\x1b" not in done.output and "\u202e" not in done.output


def test_cells_of_tables_are_inert():
    from rich.console import Console

    from tl_toxmem.cli.words import print_table

    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=True, color_system=None)
    print_table(console, ("a[b]", "c"), [(NAME, "1\n2"), ("[/b]", 3)], left=("a[b]",))
    printed = file.getvalue()
    assert SHOWN in printed and "a[b]" in printed and "[/b]" in printed
    assert "\x1b" not in printed
    assert r"\n" not in printed  # a cell may have lines


def test_rows_of_an_evaluation_are_inert(finished):
    """The names of edits and judges are read from a file."""
    import dataclasses

    from rich.console import Console

    from tl_toxmem.cli.console import print_evaluation
    from tl_toxmem.evaluation import Evaluation
    from tl_toxmem.store import RunFolder

    found = Evaluation.load(RunFolder(finished).artefact("evaluate"))
    rows = [dataclasses.replace(row, edit=f"x{NAME}", scorer=NAME) for row in found.rows]
    found = dataclasses.replace(found, rows=tuple(rows))
    file = io.StringIO()
    console = Console(file=file, width=300, force_terminal=True, color_system=None)
    print_evaluation(console, found, NAME)
    assert file.getvalue().count(SHOWN) == len(rows) + 1
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Ü 日本 é", "Ü 日本 é"),
        ("a\x1b]8;;http://x\x07b", r"a\x1b]8;;http://x\x07b"),
        ("\udcff", r"\udcff"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\tc\nd", r"a\rb\tc\nd"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_escaped(text, shown):
    from tl_toxmem.cli.words import inert

    assert inert(text) == shown


@pytest.mark.parametrize("command", ["trace", "attribute", "select", "evaluate", "export", "run"])
def test_what_is_printed_of_a_run_has_its_lines(finished, tmp_path, command):
    """A record that is told in a line is told by its headline: the line ends of all of it would be escapes."""
    from tl_toxmem.cli import app

    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    done = CliRunner().invoke(app, [command, str(out)])
    assert done.exit_code == 0, done.output
    assert "\\n" not in done.stdout and len(done.stdout.splitlines()) > 3
