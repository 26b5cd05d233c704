"""Bad input by the hundred: no traceback, exit 1 or 2, one clear line on stderr, nothing written, nothing lost."""

import subprocess
import sys
from collections import Counter

import jaxtyping
import pytest
from bad_input import CASES
from bad_input.case import snapshot
from bad_input.good import make
from typer.testing import CliRunner

IN_A_PROCESS = ("prompts-deep-run", "weights-huge-length", "certificate-lists-up")


@pytest.fixture(scope="session")
def good(tmp_path_factory, gpt2_folder):
    return make(tmp_path_factory.mktemp("good"), gpt2_folder)


@pytest.fixture(autouse=True)
def as_installed(monkeypatch, good):
    """Without the tests' type checks, which would be first to refuse, and with no model but the tiny one."""
    from tl_toxmem.model.load import AutoModelForCausalLM, demo_folder

    load = AutoModelForCausalLM.from_pretrained

    def from_pretrained(folder, **options):
        assert folder != demo_folder(), "the bad input went as far as the model"
        return load(folder, **options)

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)


def check(case, code, stderr):
    """One line that says what is wrong; of wrong usage, the last of typer's."""
    stderr = stderr.removeprefix("load\n")  # what is found while the model is loaded
    assert "Traceback" not in stderr
    assert code == case.code, stderr
    assert case.says in stderr
    if code == 1:
        assert len(stderr.splitlines()) == 1, stderr
        assert stderr.startswith("tl-toxmem: ")
        assert not [c for c in stderr[:-1] if not c.isprintable()], "no control characters"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case, good, tmp_path, monkeypatch):
    from tl_toxmem.cli import app

    case.lay_out(tmp_path, good)
    before = snapshot(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, case.words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    check(case, result.exit_code, result.stderr)
    assert snapshot(tmp_path) == before


def test_the_corpus_is_large_and_has_no_case_twice():
    assert len(CASES) >= 200
    assert max(Counter(case.name for case in CASES).values()) == 1


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_a_process_says_the_same(name, good, tmp_path):
    """Not only as Typer's runner sees it: what the shell sees, with no Python around that swallows anything."""
    case = next(case for case in CASES if case.name == name)
    case.lay_out(tmp_path, good)
    before = snapshot(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tl_toxmem", *case.words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    check(case, done.returncode, done.stderr)
    assert done.stdout == ""
    assert snapshot(tmp_path) == before
