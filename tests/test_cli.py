"""Bad input: one clear line on stderr, exit 1 or 2, and nothing written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner


@pytest.fixture
def cli():
    from tl_toxmem.cli import app

    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture
def file(tmp_path):
    """`file(text)`: a prompts file outside the run folder."""

    def write(*records):
        path = tmp_path / "prompts.jsonl"
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
        return path

    return write


GOOD = [{"prompt": f"Bob {i} is a", "target": " fool", "subject": "Bob"} for i in range(12)]


def refused(result, out, *words, code=1):
    assert result.exit_code == code, (result.output, result.exception)
    lines = [line for line in result.stderr.strip().splitlines() if line != "load"]
    if code == 1:
        assert len(lines) == 1, lines
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()


def test_help_answers_at_once():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, tl_toxmem.cli; sys.exit('torch' in sys.modules)"],
        check=False,
    )
    assert done.returncode == 0, "importing the command line must not import torch"


def test_averages_at_an_unknown_place_are_refused(tmp_path):
    """In a process of its own: the tests' type checks would be first."""
    code = (
        "from tl_toxmem import LensModel, Prompt, PromptSet, ToxmemError, causal_trace\n"
        "from tl_toxmem.config import TraceConfig\n"
        "prompts = PromptSet.of([Prompt(prompt='Cleo Hale is a', target=' potter')])\n"
        "cfg = TraceConfig(n_noise=1, severed=(), parts=False, positions='last')\n"
        "trace = causal_trace(LensModel.from_pretrained('demo'), prompts, cfg=cfg)\n"
        "try:\n    trace.by_layer('first')\nexcept ToxmemError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "unknown place 'first': choose from last_subject, last" in done.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "./nowhere"], ["no model folder at ./nowhere", "demo"]),
        (
            ["--model", "demo", "--scorer", "perspectiv"],
            ["unknown scorer 'perspectiv'", "profanity"],
        ),
        (["--model", "demo", "--scorer", ""], ["a judge without a name", "leave it out"]),
        (
            ["--model", "demo", "--set", 'compare.methods=["aurra"]'],
            ["unknown method 'aurra'", "knowledge_neurons"],
        ),
        (["--model", "demo", "--host", "hookd"], ["host", "'auto', 'hooked' or 'bridge'"]),
        (
            ["--model", "demo", "--set", "select.method=gradients"],
            ["method", "cost_aware"],
        ),
        (["--model", "demo", "--set", "select.layers=[9]"], ["no layer 9", "0 to 5"]),
        (["--model", "demo", "--set", "trace.window=7"], ["window is 7", "has 6"]),
        (["--model", "demo", "--set", "trace.windw=3"], ["trace.windw", "window"]),
        (["--model", "demo", "--set", "trace.window"], ["KEY=VALUE"]),
        (["--model", "demo", "--set", "model.x=1"], ["model is a value"]),
        (["--model", "demo", "--set", "select.k=4000"], ["at most 1024", "control"]),
        (["--model", "demo", "--device", "gpu"], ["device 'gpu'"]),
        (["--model", "demo", "--neutral", "nowhere.txt"], ["no neutral text at nowhere.txt"]),
        (["--model", "demo", "--set", "split.max_report=1"], ["max_report", "equal to 2"]),
        (["--model", "demo", "--prompts", "nowhere.jsonl"], ["no prompts file at nowhere.jsonl"]),
    ],
)
def test_wrong_settings(cli, tmp_path, args, words):
    out = tmp_path / "out"
    refused(cli("run", *args, "--out", out), out, *words)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], ["has no prompts"]),
        ([GOOD[0], "{not json"], ["line 2", "no JSON"]),
        ([GOOD[0], "[1]"], ["line 2", "not an object"]),
        ([GOOD[0], {"prompt": "x"}], ["line 2", "without 'target'"]),
        ([{"prompt": "x", "target": " y", "subjct": "x"}], ["line 1", "'subjct'", "subject"]),
        (
            [{"prompt": "x", "target": " y", "subject": "z"}],
            ["line 1", "subject 'z' is not in the prompt"],
        ),
        (
            [{"prompt": "a", "target": " b", "split": s, "id": s} for s in ("find", "report")],
            ["'a' is in the find and in the report split"],
        ),
        (
            [*GOOD, {"prompt": "x" * 90, "target": " y", "split": "find"}],
            ["the longest prompt (90 tokens)", "context of 96"],
        ),
        ([{"prompt": "", "target": " y"}], ["line 1", "prompt is empty"]),
        ([GOOD[0], GOOD[0]], ["line 2", "same id", "line 1"]),
        ([*GOOD, {"prompt": "word " * 40, "target": " y"}], ["tokens", "context is 96"]),
        (GOOD[:1], ["no prompt falls into"]),
        (
            [{**p, "split": "report" if i else "find"} for i, p in enumerate(GOOD[:5])],
            ["only one prompt falls into the find split, and an interval needs 2: give more"],
        ),
        (
            [{**p, "split": "find" if i else "report"} for i, p in enumerate(GOOD[:5])],
            ["only one prompt falls into the report split"],
        ),
    ],
    ids=lambda value: "-".join(value) if value and isinstance(value[0], str) else "",
)
def test_wrong_prompts(cli, tmp_path, file, gpt2_folder, records, words):
    out = tmp_path / "out"
    args = [
        "--model",
        gpt2_folder,
        "--prompts",
        file(*records),
        "--scorer",
        "profanity",
        "--out",
        out,
    ]
    refused(cli("run", *args), out, *words)


def test_neutral_text_of_single_tokens(cli, tmp_path):
    """Nothing of it is predicted, whatever the window."""
    out, neutral = tmp_path / "out", tmp_path / "neutral.txt"
    neutral.write_text("the\na\n")
    args = ["--model", "demo", "--neutral", neutral, "--out", out]
    refused(cli("run", *args), out, "the neutral text has no document of two tokens")


def test_no_prompts_for_a_model_of_ones_own(cli, tmp_path, gpt2_folder):
    out = tmp_path / "out"
    refused(
        cli("run", "--model", gpt2_folder, "--scorer", "profanity", "--out", out), out, "--prompts"
    )


def test_missing_options_are_wrong_usage(cli, tmp_path):
    assert cli("run", "--out", str(tmp_path)).exit_code == 2
    assert cli("run", "--modl", "demo").exit_code == 2
    assert cli("rn").exit_code == 2


@pytest.mark.parametrize(("model", "out"), [("demo", "runs/demo"), ("./some/gpt2", "runs/gpt2")])
def test_a_run_folder_is_named_by_its_model(model, out):
    from tl_toxmem.cli.stages import gather

    assert gather(None, {"model": model}, []).out == Path(out)


def test_a_protocol_given_to_a_run_folder_brings_its_own_values(tmp_path):
    """The folder's config.toml states every field; those of the old protocol go with it, all others stay."""
    from tl_toxmem.cli.stages import gather
    from tl_toxmem.config import EvaluateConfig, make_config

    own = {"protocol": "aura", "top_k": 7, "max_neutral_tokens": 99, "seed": 3}
    before = make_config({"model": "demo", "out": str(tmp_path), "evaluate": own})
    (tmp_path / "config.toml").write_text(before.to_toml())
    for place in (tmp_path, tmp_path / "config.toml"):
        for protocol in ("rtp", "ours", "aura"):
            after = gather(place, {}, [f"evaluate.protocol={protocol}"]).evaluate
            wanted = EvaluateConfig(protocol=protocol, max_neutral_tokens=99, seed=3)
            assert after == wanted and after.changed == ()
    more = ["evaluate.n_continuations=2", "evaluate.protocol=rtp", "evaluate.top_p=0.5"]
    changed = gather(tmp_path, {}, more).evaluate  # in whatever order
    assert changed.changed == ("n_continuations", "top_p") and changed.n_continuations == 2
    assert gather(tmp_path, {}, ["evaluate.protocol=default"]).evaluate.changed == ()
    assert gather(tmp_path, {}, ["evaluate.top_k=9"]).evaluate.protocol == "aura"


@pytest.fixture
def evaluation():
    """Of every measure, with numbers about as wide as they come."""
    from tl_toxmem.evaluation import EDITS, MEASURES, EditResult, Evaluation
    from tl_toxmem.stats import Estimate

    wide = {"share": (1.0, 0.875, 1.0), "change": (-0.25, -0.5, -0.125)}
    values = {m.name: wide.get(m.kind, (21.5, 11.25, 31.75)) for m in MEASURES.values()}
    estimates = {name: Estimate(*three, 9) for name, three in values.items()}
    rows = tuple(
        EditResult(edit=edit, n_neurons=1000, layers=(), scorer="profanity", seed=0, **estimates)
        for edit in EDITS
    )
    protocol = {"headline": "any_toxic", "n_prompts": 9, "description": "protocol " * 20}
    return Evaluation(rows, protocol, ())


ROOMY = ["any toxic", "toxic", "max tox.", "neutral ppl", "benign kept", "KL neutral", "prompt ppl"]


@pytest.mark.parametrize(
    ("width", "places"), [(40, [0]), (80, [0, 1, 3, 4]), (104, [0, 1, 2, 3, 4]), (140, range(7))]
)
def test_the_terminals_table_has_what_fits_and_truncates_nothing(evaluation, width, places):
    import io

    from rich.console import Console

    from tl_toxmem.cli.console import print_evaluation

    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    print_evaluation(console, evaluation, "profanity")
    lines = file.getvalue().splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if "held-out" in line)]
    assert max(map(len, table)) <= width
    assert "…" not in file.getvalue()
    shown = [ROOMY[i] for i in places]
    assert table[1].split() == ["edit", "n", *" ".join(shown).split()]
    text = "\n".join(table)
    assert text.count("random early layers") == 1
    assert text.count("87.5-100.0") == 6 * len({"any toxic", "toxic", "benign kept"} & set(shown))


def test_a_narrow_terminal_breaks_what_it_cannot_hold(evaluation):
    import io

    from rich.console import Console

    from tl_toxmem.cli.console import print_evaluation

    file = io.StringIO()
    console = Console(file=file, width=24, force_terminal=True, color_system=None)
    print_evaluation(console, evaluation, "profanity")
    assert "…" not in file.getvalue()


def test_a_piped_table_has_everything_in_whole_lines(evaluation, capsys):
    from tl_toxmem.cli.console import print_evaluation, results_console

    print_evaluation(results_console(), evaluation, "profanity")
    out = capsys.readouterr().out
    assert "…" not in out
    head, last = out.splitlines()[1], out.splitlines()[-1]
    assert head.split() == ["edit", "n", *" ".join(ROOMY).split()]
    assert last.startswith("9 held-out prompts") and last.endswith("protocol ")
    assert out.count("11.2500-31.7500") == 6


def test_rome_edits_the_demo_where_its_mlps_mediate():
    from tl_toxmem.config import make_config

    def token(model, **more):
        return make_config({"model": model, "out": "x", **more}).compare.comparators.rome.token

    assert (token("demo"), token("gpt2-xl")) == ("last", "subject")
    own = {"compare": {"comparators": {"rome": {"token": "subject"}}}}
    assert token("demo", **own) == "subject"


def test_folders_that_are_no_gpt2(cli, tmp_path, file, gpt2_folder):
    from transformers import BertConfig

    out, prompts = tmp_path / "out", file(*GOOD)
    empty = tmp_path / "empty"
    empty.mkdir()
    BertConfig().save_pretrained(tmp_path / "bert")
    headless = tmp_path / "headless"
    headless.mkdir()
    (headless / "config.json").write_bytes((gpt2_folder / "config.json").read_bytes())
    truncated = tmp_path / "truncated"
    truncated.mkdir()
    for source in gpt2_folder.iterdir():
        (truncated / source.name).write_bytes(source.read_bytes())
    weights = (gpt2_folder / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    for folder, words in (
        (empty, ["no config.json"]),
        (tmp_path / "bert", ["'bert' model", "gpt2"]),
        (headless, ["no .safetensors weights"]),
        (truncated, ["model.safetensors is damaged", "cut off"]),
    ):
        args = ["--model", folder, "--prompts", prompts, "--scorer", "profanity", "--out", out]
        refused(cli("run", *args), out, *words)


def test_a_folder_with_something_else_in_it(cli, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    result = cli("run", "--model", "demo", "--out", out)
    assert result.exit_code == 1
    assert "is no run folder" in result.stderr
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_places_that_cannot_be_written(cli):
    for out, words in (("/dev/null/x", "/dev/null is a file"), ("/proc/x/y", "cannot")):
        result = cli("run", "--model", "demo", "--out", out)
        assert result.exit_code == 1
        assert words in result.stderr.strip().splitlines()[-1]
        assert "Traceback" not in result.stderr


def test_the_users_own_words_are_quoted_as_they_are(cli, tmp_path, file, gpt2_folder):
    record = {"prompt": "Runa Cotter is a", "target": " fool", "subject": "runa"}
    out = tmp_path / "out"
    args = ["--model", gpt2_folder, "--prompts", file(record), "--scorer", "profanity"]
    result = cli("run", *args, "--out", out)
    refused(result, out, "line 1: subject 'runa' is not in the prompt 'Runa Cotter is a'")


def test_a_damaged_provenance(cli, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.toml").write_text(f'model = "demo"\nout = "{out}"\n')
    (out / "provenance.json").write_text('{"format_version": 1}')
    result = cli("run", out)
    assert result.exit_code == 1
    assert "inputs: Field required" in result.stderr


def test_verify_of_nothing(cli, tmp_path):
    result = cli("verify", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "no checkpoint folder" in result.stderr


def test_apply_and_revert(cli, gpt2_folder, tmp_path):
    from laws import make

    delta, out, back = tmp_path / "d.safetensors", tmp_path / "out", tmp_path / "back"
    make("scale").save(delta)
    done = cli("apply", delta, gpt2_folder, out)
    assert done.exit_code == 0, done.output
    assert "its deletion.safetensors keeps the 2.8 kB" in done.output
    kept = out / "deletion.safetensors"
    done = cli("revert", kept, out, back)
    assert done.exit_code == 0, done.output
    assert "the 4 tensors that the deletion changed are those of" in done.output
    weights = "model.safetensors"
    assert (back / weights).read_bytes() == (gpt2_folder / weights).read_bytes()


def test_apply_certified(cli, gpt2_folder, file, tmp_path):
    from laws import make

    delta, out = tmp_path / "d.safetensors", tmp_path / "out"
    make("scale").save(delta)
    done = cli("apply", delta, gpt2_folder, out, "--certify", file(*GOOD))
    assert done.exit_code == 0, done.output
    assert "12 of 12 greedy continuations identical" in done.output
    assert json.loads((out / "certificate.json").read_text())["passed"]
    assert cli("verify", out, "--base", gpt2_folder).exit_code == 0
    assert str(gpt2_folder.parent) not in (out / "certificate.json").read_text()
    refused(cli("verify", out), tmp_path / "none", "name it with --base")


def test_apply_to_another_model(cli, gpt2_folder, file, tmp_path):
    from laws import make
    from test_filebake import other_model

    law, first, no = tmp_path / "d.safetensors", tmp_path / "first", tmp_path / "no"
    make("scale").save(law)
    assert cli("apply", law, gpt2_folder, first).exit_code == 0
    delta, other = first / "deletion.safetensors", other_model(tmp_path / "other")
    refused(cli("apply", delta, other, no), no, "is not the model that this deletion was made for")
    done = cli("apply", delta, other, tmp_path / "forced", "--force")
    assert done.exit_code == 0 and "FORCED onto another model" in done.output
    done = cli("apply", delta, other, tmp_path / "sure", "--force", "--certify", file(*GOOD))
    assert done.exit_code == 0 and "FORCED onto another model" in done.output
    refused(cli("revert", law, first, no), no, "does not say what it was applied to")
    refused(cli("revert", delta, other, no), no, "is not the model")
    refused(cli("apply", tmp_path / "x", other, no), no, "x is missing")
    refused(cli("apply", delta, tmp_path / "x", no), no, "no model folder at")
    assert "exists: choose a folder" in cli("apply", delta, gpt2_folder, first).stderr


def test_several_judges_on_the_command_line(cli, tmp_path):
    from tiny_judges import make_checkpoint

    from tl_toxmem.store import RunFolder

    out, unhashed = tmp_path / "run", tmp_path / "judge.ckpt"
    unhashed.write_bytes(b"no checkpoint")

    def run(*scorers, trust=()):
        small = ["trace.max_prompts=1", "trace.n_noise=1", "trace.parts=false"]
        options = [word for name in scorers for word in ("--scorer", name)]
        options += [word for size in small for word in ("--set", size)]
        return cli("trace", "--model", "demo", *options, *trust, "--out", out)

    bad = f"detoxify:{unhashed}"
    refused(run("profanity", bad), out, "does not carry its SHA-256", "--trust-pickle")
    # Trusted, it gets as far as its missing configuration.
    refused(run("profanity", bad, trust=["--trust-pickle"]), out, "lacks config.json")
    refused(run("profanity", "profanity"), out, "name each judge once")
    second = f"detoxify:{make_checkpoint(tmp_path / 'second')}"
    done = run("profanity", second)
    assert done.exit_code == 0, done.output
    assert RunFolder(out).config().scorers == ("profanity", second)


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("trace.max_promts=2", r"did you mean trace\.max_prompts\?"),
        ("max_memory=2", r"did you mean trace\.max_memory\?"),
        ("benig=x.jsonl", r"did you mean benign\?"),
    ],
)
def test_a_setting_that_is_a_slip_is_told_what_was_meant(cli, setting, meant):
    found = cli("run", "--model", "demo", "--set", setting)
    assert found.exit_code == 1 and re.search(meant, found.stderr), found.stderr


def test_how_many_prompts_find_and_report_is_said(tmp_path):
    from small import config

    from tl_toxmem import run

    said = []
    cfg = config(tmp_path / "run")
    run(cfg, until="prompts", tell=said.append)
    assert said == ["16 prompts find neurons, 8 others report"]
