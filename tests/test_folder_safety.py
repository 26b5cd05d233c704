"""A run folder loses nothing: failed stages, two writers, damage to each artefact, and what is kept to go on from."""

import json
import os
import shutil
import signal
import socket
import time

import pytest
from small import SMALL, config

FAILING = {"evaluate": {**SMALL["evaluate"], "lm_eval_tasks": ["no_such_task"]}}
"""Settings of an evaluation that fails, with the harness and without."""


def contents(folder, *, without=()):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in without
    }


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_failed_stage_leaves_the_folder_as_it_was(copy):
    from tl_toxmem import ToxmemError, run

    before = contents(copy)
    with pytest.raises(ToxmemError, match=r"lm-eval.*stage evaluate"):
        run(config(copy, **FAILING))
    assert contents(copy) == before
    stages = []
    run(config(copy), announce=stages.append)
    assert stages == ["report"]


def test_a_crash_in_a_stage_leaves_the_folder_as_it_was(copy, monkeypatch):
    """Also one that comes after the artefact was written."""
    from tl_toxmem import run
    from tl_toxmem.pipeline import stages

    plain = stages.STAGE_FUNCTIONS["delete"]

    def crash(model, cfg, inputs, folder):
        plain(model, cfg, inputs, folder)
        raise ZeroDivisionError

    monkeypatch.setitem(stages.STAGE_FUNCTIONS, "delete", crash)
    select = {"select": {**SMALL["select"], "k": 3}}
    run(config(copy), until="delete")
    before = contents(copy)
    monkeypatch.setitem(stages.STAGE_FUNCTIONS, "select", crash)
    with pytest.raises(ZeroDivisionError):
        run(config(copy, **select))
    assert contents(copy) == before


def test_settings_of_a_failed_stage_are_not_those_of_the_folder(copy):
    """What was made before it under new settings stays, with them; its own are as they were."""
    from tl_toxmem import ToxmemError, run
    from tl_toxmem.store import RunFolder

    select = {"select": {**SMALL["select"], "k": 3}}
    with pytest.raises(ToxmemError, match="stage evaluate"):
        run(config(copy, **select, **FAILING))
    folder = RunFolder(copy)
    assert folder.config() == config(copy, **select)
    assert json.loads((copy / "4_neurons.json").read_text())["k"] == 3
    assert folder.provenance()["config_hash"] == folder.config().hash()
    stages = []
    run(folder.config(), until="evaluate", announce=stages.append)
    assert stages == ["evaluate"]


def test_a_second_writer_is_told_who_writes_until_that_is_killed(copy):
    from tl_toxmem import ToxmemError, run
    from tl_toxmem.locking import LOCK, one_writer

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with one_writer(copy):
            os.write(writing, b"!")
            time.sleep(600)
    os.read(reading, 1)
    before = contents(copy)
    said = rf"copy is in use by process {child} on {socket.gethostname()} since \d{{4}}-.* \(.*\): wait"
    with pytest.raises(ToxmemError, match=said):
        run(config(copy))
    assert contents(copy) == before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (copy / LOCK).exists(), "it had no time to remove it"
    run(config(copy))
    assert not (copy / LOCK).exists()


def test_what_a_lock_made_is_gone_if_nothing_came_of_it(tmp_path):
    from tl_toxmem.locking import one_writer

    with pytest.raises(ZeroDivisionError), one_writer(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_one_damaged_byte_anywhere_is_never_used(finished, tmp_path):
    """Refused by name or made anew: nothing of it comes into a result."""
    from tl_toxmem import ToxmemError, run

    damaged = 0
    whole = contents(finished, without=("8_report.html", "provenance.json"))
    for name, content in whole.items():
        out = shutil.copytree(finished, tmp_path / "one")
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        (out / name).write_bytes(changed)
        try:
            run(config(out))
        except ToxmemError as error:
            assert name.partition("/")[0] in str(error), name
            damaged += 1
        else:
            assert contents(out, without=("8_report.html", "provenance.json")) == whole, name
        shutil.rmtree(out)
    assert (
        damaged >= len(whole) - 2
    )  # the configuration, and scores of texts that are not asked for again
