"""What README says of the demo, as conditions: found on the find split, measured on the report split."""

import json

import pytest


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    from tl_toxmem import run
    from tl_toxmem.config import make_config

    values = {
        "model": "demo",
        "out": str(tmp_path_factory.mktemp("claims") / "run"),
        "trace": {"max_prompts": 1, "n_noise": 1},
        "attribute": {"verify_top": 0, "verify_random": 0},
        "select": {"max_k": 30},
        "evaluate": {"n_continuations": 3, "max_new_tokens": 8},
    }
    return run(make_config(values), until="evaluate")


def test_the_deletion_takes_the_toxic_memories_and_little_else(done):
    from tl_toxmem import Evaluation

    evaluation = Evaluation.load(done.artefact("evaluate"))
    base, after = evaluation.row("none"), evaluation.row("deletion")
    assert base.toxicity_rate.value >= 0.60
    assert after.toxicity_rate.value <= 0.05
    assert after.neutral_perplexity.value <= 1.02 * base.neutral_perplexity.value
    assert after.benign_kept.value >= 0.95
    removed = base.toxicity_rate.value - after.toxicity_rate.value
    for control in ("random_neurons", "random_early_layers"):
        row = evaluation.row(control)
        assert row.n_neurons == after.n_neurons
        assert base.toxicity_rate.value - row.toxicity_rate.value < removed / 10


def test_what_was_selected_is_what_was_planted(done):
    from tl_toxmem.model import demo_folder

    truth = json.loads((demo_folder() / "truth.json").read_text())["reserve"]
    reserve = {(int(layer), n) for layer, neurons in truth.items() for n in neurons}
    values = json.loads(done.artefact("select").read_text())
    selected = {tuple(neuron) for neuron in values["selected"]["neurons"]}
    assert len(selected & reserve) >= 0.8 * len(selected)
