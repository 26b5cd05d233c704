"""The whole way on the demo model, small: resume, kills, other configurations, tampering, verification."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small import SMALL, config

NUMBERS = ["2_trace.safetensors", "3_scores.safetensors", "4_neurons.json", "6_evaluation.json"]


def test_every_artefact_is_there_and_named_in_the_provenance(finished):
    from tl_toxmem.store import ARTEFACTS

    provenance = json.loads((finished / "provenance.json").read_text())
    made = set(ARTEFACTS.values()) - {ARTEFACTS["compare"]}
    assert set(provenance["outputs"]) == made
    assert set(provenance["inputs"]) == {"prompts", "benign", "neutral", "model"}
    assert sorted(p.name for p in finished.iterdir()) == sorted(
        [*made, "8_report.html", "cache", "config.toml", "provenance.json"]
    )
    rows = json.loads((finished / "6_evaluation.json").read_text())["rows"]
    assert [row["edit"] for row in rows] == [
        "none",
        "deletion",
        "random_neurons",
        "random_early_layers",
        "random_anywhere",
        "decoy",
    ]
    for row in rows:
        assert {"value", "low", "high", "n"} == set(row["toxicity_rate"])
    page = (finished / "8_report.html").read_text()
    assert "loudness on neutral text" in page
    assert "not measured" not in page, "every selected neuron is deleted alone as well"


def test_a_second_call_does_nothing_again(finished):
    from tl_toxmem import run

    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    stages = []
    run(config(finished), announce=stages.append)
    assert stages == ["report"]
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed <= {"8_report.html"}


def test_killed_at_every_stage_and_resumed(finished, tmp_path):
    """SIGKILL as each stage ends, written but not recorded, in one run; repeated, it gives the same numbers.

    The processes that are killed are forks of one that has only imported, which is what takes time.
    """
    from tl_toxmem import run
    from tl_toxmem.config import STAGES

    out = tmp_path / "killed"
    code = (
        "import json, os, signal, sys, torch\n"
        "from tl_toxmem import run\n"
        "from tl_toxmem.config import make_config\n"
        "import tl_toxmem.pipeline.stages as stages\n"
        "cfg = make_config(json.loads(sys.argv[1]))\n"
        "for stage in sys.argv[2:]:\n"
        "    if not os.fork():\n"
        "        torch.set_num_threads(1)\n"
        "        true = stages.STAGE_FUNCTIONS[stage]\n"
        "        def killed(model, cfg, inputs, folder):\n"
        "            true(model, cfg, inputs, folder)\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        stages.STAGE_FUNCTIONS[stage] = killed\n"
        "        run(cfg, announce=lambda name: print(name, end=' ', flush=True))\n"
        "    _, status = os.wait()\n"
        "    print(os.WTERMSIG(status), (cfg.out / '8_report.html').exists(), flush=True)\n"
    )
    values = json.dumps({"model": "demo", "out": str(out), **SMALL})
    stages = STAGES[: STAGES.index("compare")]
    done = subprocess.run(
        [sys.executable, "-c", code, values, *stages],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    for before, stage, line in zip(("prompts", *stages), stages, lines, strict=False):
        # What was recorded is kept, what was not is made again.
        began = list(dict.fromkeys([before, stage]))
        assert line == ["load", *began, str(signal.SIGKILL.value), "False"], done.stderr
    assert len(lines) == len(stages)
    again = []
    run(config(out), announce=again.append)
    assert again == ["load", "export", "report"]
    for name in NUMBERS:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_stage_made_anew_outdates_all_that_follows(finished, tmp_path):
    import shutil

    from tl_toxmem import run

    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    (out / "3_scores.safetensors").unlink()
    run(config(out), until="select")
    recorded = json.loads((out / "provenance.json").read_text())["outputs"]
    assert "4_neurons.json" in recorded
    assert not {"5_deletion.safetensors", "6_evaluation.json", "7_checkpoint"} & set(recorded)
    stages = []
    run(config(out), announce=stages.append)
    assert stages == ["load", "delete", "evaluate", "export", "report"]


def test_other_weights_or_versions_under_a_begun_run_are_refused(tmp_path):
    import shutil

    from tl_toxmem import ToxmemError, run
    from tl_toxmem.model import demo_folder

    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(demo_folder(), model)
    changes = {"model": str(model), "scorer": "profanity", "prompts": str(model / "prompts.jsonl")}
    run(config(out, **changes), until="prompts")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(ToxmemError, match="a run on other content of model"):
        run(config(out, **changes), until="trace")
    weights[-100] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    provenance = json.loads((out / "provenance.json").read_text())
    provenance["versions"]["torch"] = "1.0"
    (out / "provenance.json").write_text(json.dumps(provenance))
    with pytest.raises(ToxmemError, match="another version of torch"):
        run(config(out, **changes), until="trace")


def test_a_trace_killed_between_prompts_goes_on(finished, tmp_path, monkeypatch):
    """What was traced is kept beside the artefact until that is whole, and is not traced again."""
    import torch

    from tl_toxmem import Trace, run
    from tl_toxmem.trace import causal
    from tl_toxmem.trace.results import Kept

    monkeypatch.setattr(causal, "_MOST_PROMPTS", 1)
    out, added, plain = tmp_path / "killed", [], Kept.add

    def add(self, item, result):
        plain(self, item, result)
        added.append(item.prompt.id)
        if len(added) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Kept, "add", add)
    with pytest.raises(KeyboardInterrupt):
        run(config(out), until="trace")
    assert len(list((out / "2_trace.parts").iterdir())) == 1
    assert not (out / "2_trace.safetensors").exists()
    run(config(out), until="trace")
    whole = Trace.load(finished / "2_trace.safetensors")
    both = [*whole.prompt_ids, *whole.benign.prompt_ids]
    assert sorted(added[: len(both)]) == sorted(both)
    assert not (out / "2_trace.parts").exists()
    found = Trace.load(out / "2_trace.safetensors")
    assert torch.allclose(found.effect.nan_to_num(7), whole.effect.nan_to_num(7), atol=1e-4)
    assert found.robustness.place == whole.robustness.place


def test_another_model_or_split_is_refused(finished):
    from tl_toxmem import ToxmemError, run

    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(ToxmemError, match=r"another configuration \(differs in split\)"):
        run(config(finished, split={"max_find": 3}))
    with pytest.raises(ToxmemError, match=r"another configuration \(differs in dtype\)"):
        run(config(finished, dtype="bfloat16"))
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({}, None),
        ({"prompts": "elsewhere.jsonl"}, None),
        ({"seed": 1}, "prompts"),
        ({"dtype": "float64"}, "prompts"),
        ({"trace": {"n_noise": 3}}, "trace"),
        ({"attribute": {"method": "ablation"}}, "attribute"),
        ({"select": {"k": 3}}, "select"),
        ({"delete": {"law": "mean"}}, "select"),
        ({"scorer": "detoxify:original"}, "select"),  # it judges how many
        ({"evaluate": {"threshold": 0.4}}, "select"),
        ({"evaluate": {"n_continuations": 4}}, "evaluate"),
        ({"select": {"k": 5}, "evaluate": {"threshold": 0.4}}, "evaluate"),
        ({"export": {"n_prompts": 2}}, "export"),
        ({"compare": {"methods": ["x"]}}, "compare"),
    ],
    ids=str,
)
def test_a_stage_rests_on_its_own_settings_and_those_before_it(change, first):
    from tl_toxmem.config import STAGES, make_config, stage_hash

    own = {"model": "demo", "out": "x"}
    base = {**own, "select": {"k": 5}} if change.get("select", {}).get("k") == 5 else own
    changed, before = make_config({**own, **change}), make_config(base)
    differ = {s for s in STAGES if stage_hash(changed, s) != stage_hash(before, s)}
    expected = set(STAGES[STAGES.index(first) :]) if first else set()
    if first in ("export", "compare"):
        expected = {first}
    assert differ == expected


def test_other_settings_of_a_stage_redo_it_and_what_follows(finished, tmp_path):
    """Nothing before it is touched; the record says what each stage was made under."""
    import shutil

    from tl_toxmem import run
    from tl_toxmem.config import stage_hash

    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    (out / "9_comparison.parts").mkdir()
    changed = config(out, select={**SMALL["select"], "k": 3})
    stages, said = [], []
    run(changed, until="delete", announce=stages.append, tell=said.append)
    assert stages == ["load", "select", "delete"]
    assert said == [
        f"{out}: other settings than before in select outdate select, delete, evaluate, export; what is there stays "
        "until it is replaced"
    ]
    assert not (out / "9_comparison.parts").exists(), "what it kept was made under other settings"
    for name in ("1_prompts.jsonl", "2_trace.safetensors", "3_scores.safetensors"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    provenance = json.loads((out / "provenance.json").read_text())
    done = ["prompts", "trace", "attribute", "select", "delete"]
    assert provenance["stages"] == {stage: stage_hash(changed, stage) for stage in done}
    assert provenance["config_hash"] == changed.hash()
    assert json.loads((out / "4_neurons.json").read_text())["k"] == 3
    stages, said = [], []
    run(changed, until="delete", announce=stages.append, tell=said.append)
    assert not stages and not said
    run(changed, until="evaluate", tell=said.append)
    assert said == [f"{out}: still to be made: evaluate"]


def labelled_file(path, *, toxic="a fool"):
    rows = [
        {"text": f"{i} is {toxic if i % 2 else 'kind'}", "toxic": i % 2 == 1} for i in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_labelled_text_is_added_to_a_folder_and_outdates_only_what_rests_on_it(finished, tmp_path):
    """Errors ask for it once the folder is there; other content of it outdates that again, and the same does not."""
    import shutil

    from tl_toxmem import run

    out, said = tmp_path / "copy", []
    shutil.copytree(finished, out)

    def attribute(cfg):
        stages = []
        run(cfg, until="attribute", announce=stages.append, tell=said.append)
        return stages

    file = labelled_file(tmp_path / "labelled.jsonl")
    assert attribute(config(out, labelled=file)) == [] and said == []
    values = json.loads((out / "provenance.json").read_text())
    assert "labelled" in values["inputs"] and "7_checkpoint" in values["outputs"]
    probe = {"attribute": {**SMALL["attribute"], "method": "probe"}, "labelled": file}
    assert attribute(config(out, **probe)) == ["load", "attribute"]
    assert attribute(config(out, **probe)) == []
    moved = shutil.copy(file, tmp_path / "moved.jsonl")
    assert attribute(config(out, **{**probe, "labelled": moved})) == []
    said.clear()
    labelled_file(file, toxic="an oaf")
    (out / "3_scores.parts").mkdir()
    assert attribute(config(out, **probe)) == ["load", "attribute"]
    assert said == [
        f"{out}: other settings than before in labelled outdate attribute; what is there stays until it is replaced"
    ]
    assert not (out / "3_scores.parts").exists(), "what it kept was made of other texts"


@pytest.mark.parametrize(
    ("method", "stages"),
    [("gradient", ["compare"]), ("experts", None), ("probe", None)],
)
def test_a_hash_has_the_labelled_text_where_it_is_read(method, stages):
    from tl_toxmem.config import STAGES, make_config, stage_hash

    cfg = make_config({"model": "demo", "out": "x", "attribute": {"method": method}})
    differ = [s for s in STAGES if stage_hash(cfg, s) != stage_hash(cfg, s, labelled="a" * 64)]
    assert differ == (stages or list(STAGES[STAGES.index("attribute") :]))


def test_a_changed_artefact_is_refused(finished, tmp_path):
    import shutil

    from tl_toxmem import ToxmemError, run

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    neurons = json.loads((copy / "4_neurons.json").read_text())
    (copy / "4_neurons.json").write_text(json.dumps(neurons))
    with pytest.raises(ToxmemError, match="4_neurons.json was changed"):
        run(config(copy))


def test_verify_repeats_the_certificate_and_sees_tampering(finished, tmp_path):
    import shutil

    from tl_toxmem import ToxmemError, verify_checkpoint

    certificate = verify_checkpoint(finished / "7_checkpoint")
    assert certificate.passed
    assert certificate.max_abs_logprob_effect > certificate.bound
    copy = tmp_path / "copy"
    shutil.copytree(finished / "7_checkpoint", copy)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ToxmemError, match="changed after it was certified"):
        verify_checkpoint(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "has no prompts to compare on"),
        ({"bound": "x"}, "bound"),
        ({"sha256": [1]}, "sha256"),
        ({"sha256": {}}, "is not listed"),
        ({"format_version": 9}, "format version 9"),
    ],
)
def test_a_certificate_that_was_tampered_with(finished, tmp_path, change, message):
    import shutil

    from tl_toxmem import ToxmemError, verify_checkpoint

    copy = tmp_path / "copy"
    shutil.copytree(finished / "7_checkpoint", copy)
    values = json.loads((copy / "certificate.json").read_text())
    (copy / "certificate.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(ToxmemError, match=message):
        verify_checkpoint(copy)


def test_a_certificate_does_not_set_its_own_standard(finished, tmp_path):
    import shutil

    from tl_toxmem import verify_checkpoint

    copy = tmp_path / "copy"
    shutil.copytree(finished / "7_checkpoint", copy)
    values = json.loads((copy / "certificate.json").read_text())
    (copy / "certificate.json").write_text(json.dumps({**values, "bound": 5.0}))
    assert verify_checkpoint(copy).bound == 1e-5


def test_the_exported_folder_needs_nothing_of_ours(finished):
    code = (
        "import sys; sys.modules['tl_toxmem'] = None; sys.modules['transformer_lens'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(model(**tokenizer('the old mill', return_tensors='pt')).logits.shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished / "7_checkpoint")],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size" in done.stdout


def test_hostile_tokens_stay_inert_in_figures(finished):
    from dataclasses import replace

    from tl_toxmem import Trace

    trace = Trace.load(finished / "2_trace.safetensors")
    words = tuple(("</script><b>", *w[1:]) for w in trace.words)
    figure = replace(trace, words=words).plot()
    assert "</script><b>" not in figure.to_html(include_plotlyjs=False)
    labels = figure.data[0].y
    assert labels[0].startswith("0: &lt;/script&gt;&lt;b&gt;"), "plotly reads markup in labels"


def test_interrupted_export_leaves_no_half_folder(finished, tmp_path):
    """A run killed in the middle of export has no checkpoint folder, only a leftover that is cleared."""
    import shutil

    from tl_toxmem import run

    out = tmp_path / "half"
    shutil.copytree(finished, out)
    shutil.move(out / "7_checkpoint", out / "7_checkpoint.partial")
    provenance = json.loads((out / "provenance.json").read_text())
    del provenance["outputs"]["7_checkpoint"]
    (out / "provenance.json").write_text(json.dumps(provenance))
    start = time.time()
    run(config(out))
    assert (out / "7_checkpoint" / "certificate.json").stat().st_mtime >= start - 1
    assert not list(out.glob("*.partial"))


def test_a_run_in_bfloat16_exports_in_the_checkpoints_precision(tmp_path):
    from tl_toxmem import run

    changes = {"dtype": "bfloat16", "delete": {"law": "input_gain", "factor": 0.2}}
    small = {"select": {"k": 10}, "evaluate": {**SMALL["evaluate"], "n_continuations": 1}}
    folder = run(config(tmp_path / "run", **changes, **small))
    certificate = json.loads((folder.artefact("export") / "certificate.json").read_text())
    assert certificate["passed"] and certificate["stored"] == "float32"
    assert "input gain 0.2" in (folder.artefact("export") / "README.md").read_text()


def test_the_deletion_of_a_run_is_for_its_model_and_reverts(finished, tmp_path):
    from tl_toxmem import Deletion, bake_checkpoint, revert_checkpoint
    from tl_toxmem.model import demo_folder

    deletion = Deletion.load(finished / "5_deletion.safetensors")
    assert deletion.base is not None and deletion.base.name == "demo"
    bake_checkpoint("demo", tmp_path / "applied", deletion)
    exported = finished / "7_checkpoint"
    weights = "model.safetensors"
    assert (tmp_path / "applied" / weights).read_bytes() == (exported / weights).read_bytes()
    revert_checkpoint(exported / "deletion.safetensors", exported, tmp_path / "back")
    original = (demo_folder() / weights).read_bytes()
    assert (tmp_path / "back" / weights).read_bytes() == original
    assert not (exported / "truth.json").exists(), "what is known of the demo is no part of it"
