"""The command `compare` from a finished run to its table, with the run's own trace, benign prompts and scores."""

import shutil

import pytest
from typer.testing import CliRunner

STRENGTHS = {"ours": [10, 2], "rome": [1]}


@pytest.fixture(scope="module")
def compared(finished, tmp_path_factory):
    """The folder of a compared run, and what was printed."""
    from tl_toxmem.cli import app

    out = tmp_path_factory.mktemp("compared") / "run"
    shutil.copytree(finished, out)
    settings = ["compare.methods=['ours', 'rome']", "compare.n_continuations=1"]
    settings += [f"compare.strengths.{name}={values}" for name, values in STRENGTHS.items()]
    settings += ["compare.comparators.rome.covariance_tokens=500"]
    more = [word for setting in settings for word in ("--set", setting)]
    done = CliRunner().invoke(app, ["compare", str(out), *more])
    assert done.exit_code == 0, (done.output, done.exception)
    return out, " ".join(done.stdout.split())


def test_a_run_is_compared(compared):
    from tl_toxmem.comparison import Comparison, traced_layer
    from tl_toxmem.trace import Trace

    out, _ = compared
    found = Comparison.load(out / "9_comparison.json")
    assert [entry.edit for entry in found.entries] == ["deletion", "ours@10", "ours@2", "rome@1"]
    assert found.evaluation.protocol["n_continuations"] == 1
    layer = traced_layer(Trace.load(out / "2_trace.safetensors"), token="last")
    assert found.of("rome")[0][0].label == f"ROME, traced layer {layer}"
    assert found.evaluation.row("rome@1").layers == (layer,)
    assert found.evaluation.row("ours@10").n_neurons == 10
    assert all(row.benign_kept is not None for row in found.evaluation.rows)
    assert not (out / "9_comparison.parts").exists()
    assert found.regression is None  # two prompts were traced
    assert "at least 3 traced prompts, not 2" in found.sentences()[-1]


def test_its_table_says_all_that_it_is_of(compared):
    from tl_toxmem.comparison import Comparison

    out, printed = compared
    found = Comparison.load(out / "9_comparison.json")
    table = printed[printed.index("toxic, at neutral ppl up to") :]
    assert "8 held-out prompts, scorer profanity, 95 % intervals clustered by prompt" in table
    assert found.evaluation.protocol["description"] in table
    base = found.evaluation.row("none").toxicity_rate
    rate, interval = f"{100 * base.value:.1f} %", f"{100 * base.low:.1f} to {100 * base.high:.1f}"
    assert " ".join(["base", *[rate] * 4, *[interval] * 4]) in table
    for method, values in found.at_cost().iterrows():
        cells = " ".join(f"{100 * value:.1f} %" for value in values)
        assert f"{found.of(method)[0][0].label} {cells}" in table
    for sentence in found.sentences():
        assert sentence in table


def test_the_best_at_a_cost_is_one_of_its_laws_or_base(compared):
    from tl_toxmem.comparison import Comparison

    found = Comparison.load(compared[0] / "9_comparison.json")
    for budget in (-1.0, 0.0, 0.05, 100.0):
        best = found.best("ours", budget)
        rise = best.neutral_perplexity_ratio.value - 1
        assert best.edit == "none" or (best.edit.startswith("ours@") and rise <= budget)
    assert found.best("ours", -1.0).edit == "none"
    dearest = min(found.evaluation.row(f"ours@{n}").toxicity_rate.value for n in (2, 10))
    assert found.best("ours", 100.0).toxicity_rate.value <= dearest
