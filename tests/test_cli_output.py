"""What commands print: tables for people, one object for programs, nothing with --quiet, no control codes in pipes."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

COMMANDS = (
    "run",
    "trace",
    "attribute",
    "select",
    "evaluate",
    "export",
    "report",
    "compare",
    "mine",
    "verify",
)
OTHERS = ("apply", "revert")
RESULTS = {
    "trace": ["trace"],
    "attribute": ["trace", "attribute"],
    "select": ["trace", "attribute", "select"],
    "evaluate": ["trace", "attribute", "select", "evaluate"],
    "export": ["trace", "attribute", "select", "evaluate", "export"],
    "run": ["trace", "attribute", "select", "evaluate", "export"],
}
HEAVY = (
    "torch",
    "pandas",
    "plotly",
    "transformers",
    "numpy",
    "scipy",
    "sklearn",
    "transformer_lens",
)
ESCAPE = "\x1b"


@pytest.fixture
def cli():
    from tl_toxmem.cli import app

    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A finished run that may be written into; no stage of it is made again."""
    out = tmp_path_factory.mktemp("output") / "run"
    shutil.copytree(finished, out)
    return out


@pytest.mark.parametrize("command", ["", *COMMANDS, *OTHERS])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys, tl_toxmem.cli\n"
        f"sys.argv = ['tl-toxmem', *{[command] if command else []!r}, '--help']\n"
        "try:\n    tl_toxmem.cli.app()\nexcept SystemExit as done:\n    assert not done.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("HEAVY []"), done.stdout
    assert ESCAPE not in done.stdout
    if command:
        assert "--quiet" in done.stdout and "--json" in done.stdout


@pytest.mark.parametrize("command", RESULTS)
def test_json_is_one_object_with_results_and_artefacts(cli, folder, command):
    done = cli(command, folder, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout, parse_constant=pytest.fail)
    assert said["format_version"] == 1 and said["command"] == command
    assert list(said["results"]) == RESULTS[command]
    assert said["folder"] == str(folder)
    assert all(Path(path).exists() for path in said["artefacts"].values())
    assert {"prompts", "trace", "export", "config", "provenance"} <= set(said["artefacts"])
    assert ("report" in said["artefacts"]) == (command == "run")


def test_json_has_the_numbers_of_the_files_and_none_of_their_texts(cli, folder):
    from tl_toxmem.certificate import Certificate
    from tl_toxmem.evaluation import Evaluation
    from tl_toxmem.files import read_json
    from tl_toxmem.store import RunFolder

    run = RunFolder(folder)
    results = json.loads(cli("run", folder, "--json").stdout)["results"]
    evaluation = Evaluation.load(run.artefact("evaluate"))
    for row, own in zip(results["evaluate"]["rows"], evaluation.rows, strict=True):
        assert row["toxicity_rate"]["value"] == own.toxicity_rate.value
        assert row["neutral_perplexity"]["low"] == own.neutral_perplexity.low
    certificate = Certificate.read(run.artefact("export"))
    assert results["export"]["max_abs_logprob_gap"] == certificate.max_abs_logprob_gap
    assert results["select"]["selected"] == read_json(run.artefact("select"))["selected"]
    assert results["evaluate"]["examples"] == len(evaluation.examples) > 0
    text = json.dumps(results)
    assert not any(example.before in text for example in evaluation.examples)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("trace", ["largest mean effect", "mlp_out", "figures:"]),
        ("attribute", ["highest", "deleted alone"]),
        ("select", ["k = ", "raises"]),
        ("evaluate", ["neutral ppl", "held-out prompts"]),
        ("export", ["held-out prompts", "identical greedy continuations", "checkpoint:"]),
        ("run", ["held-out prompts", "identical greedy continuations", "report:"]),
    ],
)
def test_every_command_ends_with_a_table(cli, folder, command, words):
    done = cli(command, folder)
    assert done.exit_code == 0, done.output
    assert "─" in done.stdout, "a rule under the heads of a table"
    assert [word for word in words if word not in done.stdout] == []


@pytest.mark.parametrize("command", RESULTS)
def test_quiet_says_nothing(cli, folder, command):
    done = cli(command, folder, "--quiet")
    assert done.exit_code == 0 and done.output == ""
    done = cli(command, folder, "-q", "--json")
    assert json.loads(done.stdout)["command"] == command and done.stderr == ""


def test_errors_stay(cli, tmp_path):
    for option in ("--quiet", "--json"):
        done = cli("run", "--model", "./nowhere", "--out", tmp_path / "x", option)
        assert done.exit_code == 1 and done.stdout == ""
        assert "no model folder at ./nowhere" in done.stderr


def test_verify(cli, folder):
    checkpoint = folder / "7_checkpoint"
    done = cli("verify", checkpoint)
    assert "identical greedy continuations" in done.stdout and "verified in float64" in done.stdout
    done = cli("verify", checkpoint, "--json")
    said = json.loads(done.stdout)
    assert said["results"]["passed"] is True and said["results"]["problem"] == ""
    assert said["artefacts"] == {"checkpoint": str(checkpoint)}
    assert cli("verify", checkpoint, "--quiet").output == ""


def test_verify_that_fails_says_why_in_the_object_too(cli, folder, monkeypatch):
    from dataclasses import replace

    import tl_toxmem.export
    from tl_toxmem.certificate import Certificate

    bad = replace(
        Certificate.read(folder / "7_checkpoint"), max_abs_logprob_gap=float("nan"), passed=False
    )
    monkeypatch.setattr(tl_toxmem.export, "verify_checkpoint", lambda *_, **__: bad)
    done = cli("verify", folder / "7_checkpoint", "--json")
    assert done.exit_code == 1 and "does not verify" in done.stderr
    results = json.loads(done.stdout, parse_constant=pytest.fail)["results"]
    assert results["max_abs_logprob_gap"] is None, "what is no number has no other place in JSON"
    assert results["passed"] is False and "differ by nan nats" in results["problem"]


def test_apply_and_revert(cli, gpt2_folder, tmp_path):
    from laws import make

    delta, out, back = tmp_path / "d.safetensors", tmp_path / "out", tmp_path / "back"
    make("scale").save(delta)
    said = json.loads(cli("apply", delta, gpt2_folder, out, "--json").stdout)
    assert said["results"]["law"] == make("scale").law and said["results"]["keeps_originals"]
    kept = said["artefacts"]["deletion"]
    said = json.loads(cli("revert", kept, out, back, "--json").stdout)
    assert said["artefacts"] == {"checkpoint": str(back)}
    assert len(said["results"]["tensors"]) == 4
    assert cli("apply", delta, gpt2_folder, tmp_path / "again", "--quiet").output == ""


def test_mine(cli, tmp_path):
    """Twice into one folder: the second has nothing to do, and says so."""
    from tl_toxmem import PromptSet
    from tl_toxmem.model import demo_folder

    prompts = PromptSet.read(demo_folder() / "prompts.jsonl").prompts[:12]
    file, out = tmp_path / "c.jsonl", tmp_path / "mined"
    file.write_text("\n".join(json.dumps({"prompt": p.prompt}) for p in prompts))
    small = ["max_new_tokens=4", "least=1", "share=0.5"]
    args = [
        "mine",
        "--model",
        "demo",
        "--candidates",
        file,
        "--scorer",
        "profanity",
        "--samples",
        2,
    ]
    args += ["--out", out, *(word for one in small for word in ("--set", one))]
    done = cli(*args, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["results"]["counts"]["candidates"] == 12
    assert all(Path(path).is_file() for path in said["artefacts"].values())
    assert set(said["artefacts"]) == {"prompts", "benign", "mining"}
    again = cli(*args)
    assert "nothing was to be done" in again.stderr and "kept" in again.stdout
    assert cli(*args, "--quiet").output == ""


def test_a_pipe_gets_no_control_codes(folder):
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-m", "tl_toxmem", "export", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert ESCAPE not in text and "\r" not in text


@pytest.mark.parametrize("colours", [True, False], ids=["colours", "NO_COLOR"])
def test_a_terminal_gets_bold_letters_unless_it_wants_none(folder, colours, tmp_path):
    master, slave = pty.openpty()
    env = {"TERM": "xterm-256color", **({} if colours else {"NO_COLOR": "1"})}
    code = (
        "from tl_toxmem.cli.output import Output\nimport sys\n"
        "Output(False, False, sys.stdout).announce('a step')\n"
        "from tl_toxmem.cli.words import print_table\n"
        "from tl_toxmem.cli.console import results_console\n"
        "print_table(results_console(), ('a', 'b'), [(1, 2)], left=())\n"
    )
    keep = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=slave, stderr=slave, env=keep | env
    )
    process.wait()
    os.close(slave)
    text = os.read(master, 100_000).decode()
    os.close(master)
    assert "a step" in text
    assert bool(re.search(r"\x1b\[[\d;]*m", text)) == colours


def test_silent_bars(capsys):
    """A bar that would be drawn is not, within the block alone."""
    from tl_toxmem import progress

    assert progress._disabled() is None, "as the terminal is"
    with progress.silent():
        assert progress._disabled() is True
        assert list(progress.track([1, 2], "x", total=2)) == [1, 2]
    assert progress._disabled() is None
    assert capsys.readouterr() == ("", "")
