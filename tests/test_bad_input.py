"""Bad input by the hundred: no traceback, exit 1 or 2, one clear line on stderr, nothing written, nothing lost."""

from collections import Counter

import jaxtyping
import pytest
from bad_input import CASES
from bad_input.case import snapshot
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def good():
    return {}


@pytest.fixture(autouse=True)
def as_installed(monkeypatch):
    """Without the tests' type checks, which would be first to refuse."""
    from tl_toxmem import LensModel

    def loaded(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(LensModel, "from_pretrained", loaded)


def check(case, code, stderr):
    """One line that says what is wrong; of wrong usage, the last of typer's."""
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
