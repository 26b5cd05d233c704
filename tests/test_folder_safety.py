"""A run folder loses nothing: failed stages, two writers, damage to each artefact, and what is kept to go on from."""

import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path

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

    plain, before = stages.STAGE_FUNCTIONS["select"], contents(copy)

    def crash(model, cfg, inputs, folder):
        plain(model, cfg, inputs, folder)
        assert folder.artefact("select").is_file()
        raise ZeroDivisionError

    monkeypatch.setitem(stages.STAGE_FUNCTIONS, "select", crash)
    with pytest.raises(ZeroDivisionError):
        run(config(copy, select={**SMALL["select"], "k": 3}))
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
    assert stages == ["load", "evaluate"]


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
            # Of a judge's cache that nothing asks, nothing was used.
            unread = (
                "8_report.html",
                "provenance.json",
                *([Path(name).name] if "cache" in name else []),
            )
            found = contents(out, without=unread)
            assert found == {n: c for n, c in whole.items() if n in found}, name
            assert len(found) >= len(whole) - 1
        shutil.rmtree(out)
    assert (
        damaged >= len(whole) - 2
    )  # the configuration, and scores of texts that are not asked for again


def spoilt(path):
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def test_a_damaged_part_of_a_trace_is_made_anew(load, prompts, tmp_path, caplog):
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    model, cfg = load(), TraceConfig(n_noise=1, sites=["mlp_out"])
    whole = causal_trace(model, prompts, cfg=cfg, resume=tmp_path)
    spoilt(next(tmp_path.glob("*.safetensors")))
    again = causal_trace(model, prompts, cfg=cfg, resume=tmp_path)
    assert again.restored.nan_to_num(7).equal(whole.restored.nan_to_num(7))
    assert caplog.text.count("is damaged (SHA-256): this part is made anew") == 1


def test_a_damaged_or_newer_part_is_no_part(tmp_path, caplog):
    from tl_toxmem.comparison.parts import Part
    from tl_toxmem.mining.parts import Parts

    Parts(tmp_path, "sampled").add({"a": [1, 2]})
    assert Parts(tmp_path, "sampled")["a"] == [1, 2]
    (file,) = (tmp_path / "parts").iterdir()
    whole = file.read_text()
    for damaged, said in (
        (whole.replace("2", "3"), "is damaged"),
        (whole[:-9], "is damaged"),
        (whole.replace('"format_version": 1', '"format_version": 2'), "has format version 2"),
        ("{}", "has format version None"),
    ):
        file.write_text(damaged)
        caplog.clear()
        assert "a" not in Parts(tmp_path, "sampled")
        assert Part.load(file) is None
        assert caplog.text.count(said) == 2 and "made anew" in caplog.text
    caplog.clear()
    assert Part.load(tmp_path / "nothing.json") is None and not caplog.text


def test_damaged_outputs_of_mining_are_refused(tmp_path):
    from tl_toxmem import Prompt, PromptSet, ToxmemError
    from tl_toxmem.mining import Mined

    some = PromptSet.of([Prompt(prompt="the town", target=" x", split="find")])
    Mined(some, PromptSet(()), {}, {"asked": 3}, {"kept": 0.5}, {}, {"seed": 0}).save(tmp_path)
    assert Mined.load(tmp_path).counts == {"asked": 3}
    for name, old, new in (
        ("prompts.jsonl", "town", "tour"),
        ("benign.jsonl", "", "\n"),
        ("mining.json", '"asked": 3', '"asked": 4'),
    ):
        whole = (tmp_path / name).read_text()
        (tmp_path / name).write_text(whole.replace(old, new, 1))
        with pytest.raises(ToxmemError, match=rf"{name} was changed .* remove .*mining\.json"):
            Mined.load(tmp_path)
        (tmp_path / name).write_text(whole)


def test_a_newer_version_is_refused_by_name_in_every_reader(copy, tmp_path):
    from tl_toxmem import (
        Deletion,
        NeuronScores,
        NeuronSet,
        PromptSet,
        ToxmemError,
        Trace,
    )
    from tl_toxmem.attribute import read_labelled
    from tl_toxmem.certificate import Certificate
    from tl_toxmem.comparison import Comparison
    from tl_toxmem.evaluation import Evaluation
    from tl_toxmem.files import read_tensors, write_tensors
    from tl_toxmem.mining import Mined
    from tl_toxmem.scorers import CachedScorer, load_scorer
    from tl_toxmem.store import RunFolder

    def newer(path):
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                kind = json.loads(file.metadata()["tl_toxmem"])["kind"]
            tensors, header = read_tensors(path, kind)
            write_tensors(path, kind, tensors, {**header, "format_version": 2})
            return path
        text = path.read_text()
        changed = text.replace('"format_version": 1', '"format_version": 2')
        changed = changed.replace("format_version = 1\n", "format_version = 2\n")
        assert changed != text, path
        path.write_text(changed)
        return path

    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text('{"format_version": 1, "text": "a", "toxic": true}\n')
    (tmp_path / "mined").mkdir()
    some = PromptSet.read(copy / "1_prompts.jsonl")
    Mined(some, some, {}, {}, {}, {}, {}).save(tmp_path / "mined")
    NeuronSet(((0, 1),), 2, 4).write(tmp_path / "neurons.json")
    judge = load_scorer("profanity")
    readers = {
        copy / "1_prompts.jsonl": PromptSet.read,
        copy / "2_trace.safetensors": Trace.load,
        copy / "3_scores.safetensors": NeuronScores.load,
        copy / "5_deletion.safetensors": Deletion.load,
        copy / "6_evaluation.json": Evaluation.load,
        copy / "7_checkpoint" / "certificate.json": lambda p: Certificate.read(p.parent),
        copy / "7_checkpoint" / "deletion.safetensors": Deletion.load,
        copy / "provenance.json": lambda p: RunFolder(p.parent).provenance(),
        copy / "config.toml": lambda p: RunFolder(p.parent).config(),
        next((copy / "cache").iterdir()): lambda p: CachedScorer(judge, p.parent).score(["a"]),
        labelled: read_labelled,
        tmp_path / "mined" / "mining.json": lambda p: Mined.load(p.parent),
        tmp_path / "neurons.json": NeuronSet.read,
        shutil.copy(copy / "6_evaluation.json", tmp_path / "c.json"): Comparison.load,
    }
    for path, read in readers.items():
        said = r" has format version 2; this tl-toxmem reads version 1"
        with pytest.raises(ToxmemError, match=path.name + r"(, line 1)?" + said):
            read(newer(path))


def test_files_without_a_version_are_of_the_first(tmp_path):
    from tl_toxmem import PromptSet
    from tl_toxmem.config import make_config, read_toml

    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "target": " b"}\n')
    read = PromptSet.read(tmp_path / "p.jsonl")
    read.write(tmp_path / "q.jsonl")
    assert PromptSet.read(tmp_path / "q.jsonl") == read
    assert (tmp_path / "q.jsonl").read_text().startswith('{"format_version": 1, "prompt": "a"')
    (tmp_path / "c.toml").write_text('model = "demo"\nout = "x"\n')
    cfg = make_config(read_toml(tmp_path / "c.toml"))
    (tmp_path / "d.toml").write_text(cfg.to_toml())
    assert "format_version = 1\n" in cfg.to_toml()
    assert make_config(read_toml(tmp_path / "d.toml")) == cfg
