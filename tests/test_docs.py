"""What README and the docs show as code is code: Python runs as it stands, commands run, or are at least ones.

Every block of the docs runs, in the order of its page, in a folder with `runs/demo` in it; a block whose title says
"not run" says why (a hub, a GPU, minutes to hours, a model of one's own), and is checked only. Commands of all pages
are parsed with their settings.
"""

import json
import os
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
DOCS = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md"))]
PAGES = ["README.md", *DOCS]
SHOWN_ONLY = ("text", "markdown")
RUN, SHELL = ("python", "sh", "console"), ("sh", "console")
NOT_RUN = re.compile(r' title="(.+): not run by the tests"')
REASONS = (
    "needs the hub",
    "needs a GPU",
    "needs SmolLM2",
    "needs a cluster",
    "needs several GPUs",
    "needs Ray",
    "installs Ray",
    "minutes",
    "hours",
    "of your own",
    "makes an environment",
)


def blocks_of(page):
    """(language, title, code) of every fenced block, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)([^\n]*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands_of(code):
    """The words of each `tl-toxmem` command of a shell block, without its name."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words and words[0] == "tl-toxmem":
            yield words[1:]


@pytest.fixture
def in_clone(tmp_path, monkeypatch):
    """A working folder where a page finds what it finds in a clone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("tl_toxmem", "examples"):
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """What `make demo` leaves, small: but as many traced prompts as a comparison needs."""
    from small import SMALL, config

    from tl_toxmem import run

    out = tmp_path_factory.mktemp("docs") / "demo"
    run(config(out, trace={**SMALL["trace"], "max_prompts": 3, "robustness": False}))
    return out


def test_python_blocks_of_the_readme_run_in_order(in_clone):
    blocks = [code for language, _, code in blocks_of("README.md") if language == "python"]
    assert blocks
    session: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), session)


def runs(title):
    """Whether a block with this title is run by the tests."""
    return "not run" not in title


def with_blocks_that_run():
    return [
        page
        for page in [*DOCS, "CONTRIBUTING.md"]
        if any(language in RUN and runs(title) for language, title, _ in blocks_of(page))
    ]


@pytest.mark.parametrize("page", with_blocks_that_run())
def test_every_block_of_a_page_runs_or_says_that_it_does_not(page, in_clone, request):
    from tl_toxmem.cli import app

    if "runs/demo" in (ROOT / page).read_text(encoding="utf-8"):
        shutil.copytree(request.getfixturevalue("demo_run"), in_clone / "runs" / "demo")
    session: dict[str, object] = {}
    for language, title, code in blocks_of(page):
        if language == "python":
            compiled = compile(code, page, "exec")
            if runs(title):
                exec(compiled, session)
        elif language in SHELL and runs(title):
            found = list(commands_of(code))
            assert len(found) == len(code.replace("\\\n", " ").strip().splitlines()), code
            for words in found:
                result = CliRunner().invoke(app, words)
                assert result.exit_code == 0, (words, result.output, result.exception)


@pytest.mark.parametrize("page", [*DOCS, "CONTRIBUTING.md"])
def test_blocks_that_are_not_run_are_few_and_say_why(page):
    """They are listed; and what runs in no language is read as what it is."""
    from tl_toxmem.config import make_config

    for language, title, code in blocks_of(page):
        assert language in (*RUN, *SHOWN_ONLY, "json", "toml"), (
            f"a block of {language!r} proves nothing"
        )
        if language == "json":
            assert all(json.loads(line) for line in code.splitlines())
        elif language == "toml":
            assert make_config(tomllib.loads(code))
        elif not runs(title):
            reason = NOT_RUN.fullmatch(title)
            print(f"{page}: {code.splitlines()[0]} ({title.strip()})")  # noqa: T201 - the list, by pytest -s
            assert reason, f"{page}: {title!r} does not say why"
            assert any(words in reason[1] for words in REASONS), reason[1]


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_every_command_is_one(page, in_clone, monkeypatch):
    """Names of commands and options, and names and values of settings."""
    import typer

    from tl_toxmem.cli import app, stages

    checked = {}
    monkeypatch.setattr(stages, "_run", lambda cfg, until, **_: checked.setdefault(until, Shown()))
    monkeypatch.setattr(stages, "_check_push", lambda *_: None)
    monkeypatch.setattr(stages, "_push", lambda *_, **__: None)
    Path("settings.toml").write_text('model = "demo"')
    for language, _, code in blocks_of(page):
        for words in commands_of(code) if language in ("sh", "console") else ():
            command = typer.main.get_command(app).commands[words[0]]
            if words[0] not in stages._STAGE_HELP:
                command.make_context(words[0], words[1:])
                continue
            for folder in (word for word in words if re.fullmatch(r"runs/[\w-]+", word)):
                Path(folder).mkdir(parents=True, exist_ok=True)
                (Path(folder) / "config.toml").write_text('model = "demo"')
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, (words, result.output, result.exception)


class Shown:
    """Stands for the folder of a run that was not made."""

    def artefact(self, stage):
        return Path(stage)


def test_the_model_card_shown_is_the_one_that_is_written(demo_run):
    """But for numbers, what is in brackets, and what is left out at [...]."""
    _, _, shown = next(block for block in blocks_of("docs/model_card.md") if block[0] == "markdown")
    written = (demo_run / "7_checkpoint" / "README.md").read_text(encoding="utf-8")
    known = set(map(without_numbers, written.splitlines()))
    lines = [line for line in shown.splitlines() if line != "[...]"]
    assert len(lines) > 30
    assert [line for line in lines if without_numbers(line) not in known] == []


def without_numbers(line):
    line = re.sub(r"; ONLY \d+ PROMPTS: [^.;]*", "", line)  # said of a run as small as this one
    return re.sub(r"\d[\d.,]*", "0", re.sub(r" ?\([^)]*\)", "", line))


def test_formats_name_every_field_that_is_written(demo_run):
    from dataclasses import fields

    from tl_toxmem.certificate import Certificate
    from tl_toxmem.comparison import Comparison, Entry
    from tl_toxmem.comparison.regression import TraceRegression
    from tl_toxmem.evaluation import EditResult, Example
    from tl_toxmem.files import read_json
    from tl_toxmem.mining import Mined
    from tl_toxmem.scorers import Agreement, Disagreement

    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    parts = re.split(r"^##+ ", text, flags=re.MULTILINE)
    sections = {part.split("\n", 1)[0]: part for part in parts}
    selection = read_json(demo_run / "4_neurons.json")
    evaluation = read_json(demo_run / "6_evaluation.json")
    card = selection["cards"][0]
    settings = set(evaluation["protocol"]["measures"]) | set(evaluation["protocol"])
    written = {
        "mining.json": {f.name for f in fields(Mined)} - {"prompts", "benign"},
        "4_neurons.json": {*selection, *card, *card["excited"][0], *selection["curve"][0]},
        "6_evaluation.json": {
            *(f.name for kind in (EditResult, Example, Agreement, Disagreement) for f in fields(kind)),
            *evaluation,
            *(settings - {*evaluation_settings(), *evaluation["protocol"]["measures"]}),
        },
        "9_comparison.json": {f.name for kind in (Comparison, Entry, TraceRegression) for f in fields(kind)},
        "provenance.json": set(read_json(demo_run / "provenance.json")),
        "certificate.json": {f.name for f in fields(Certificate)},
    }  # fmt: skip
    for name, own in written.items():
        quoted = " ".join(re.findall(r"`([^`]+)`", sections[name]))
        lacking = own - {"format_version"} - set(re.findall(r"\w+", quoted))
        assert not lacking, f"docs/formats.md, {name}: {sorted(lacking)}"


def evaluation_settings():
    """Said to be those of `EvaluateConfig`, without naming each."""
    from tl_toxmem.config import EvaluateConfig

    return EvaluateConfig.model_fields


def test_failure_modes_quote_what_the_code_says():
    """In the first column of the tables: pieces of messages, and names of settings."""
    code = " ".join(p.read_text(encoding="utf-8") for p in (ROOT / "tl_toxmem").rglob("*.py"))
    code = re.sub(r'"\s+f?"', "", code)  # messages run over several literals
    text = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8").split("## Failure modes")[1]
    seen = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    quoted = [words for cell in seen for words in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 20
    assert [words for words in quoted if words not in code] == []


def test_places_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:tl_toxmem|tests|docs|scripts|benchmarks)/[\w/.]+)`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_citation_names_this_version():
    import yaml

    from tl_toxmem.certify import library_versions

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license", "references"} <= set(citation)
    assert citation["version"] == library_versions()["tl-toxmem"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{citation['version']}]" in changes
