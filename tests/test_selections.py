"""Every way of attributing and selecting through the pipeline, on a tiny model and in one folder: each change of a
setting goes on from the first stage that it touches."""

import json

import pytest
from test_select import Vowels

K = 4
SETTINGS = {
    "scorer": "profanity",
    "dtype": "float64",
    "trace": {"n_noise": 1, "robustness": False, "severed": [], "metrics": []},
    "evaluate": {"max_new_tokens": 2},
    "export": {"max_new_tokens": 2},
}
ATTRIBUTE = {"verify_top": 2, "verify_random": 2, "n_noise": 1, "steps": 2}
SELECT = {"cards": 1, "candidates": 12, "rounds": 2}


@pytest.fixture(scope="module")
def going(tmp_path_factory, gpt2_folder):
    """`going(attribute, select, **changes)`: the selection, made in a folder that goes on."""
    from tl_toxmem import run
    from tl_toxmem.config import make_config

    folder = tmp_path_factory.mktemp("selections")
    files = {}
    for name, word in (("prompts", " fool"), ("benign", " star")):
        prompts = [
            {"prompt": f"{who} is a", "target": word, "subject": who, "split": split}
            for split, people in (("find", ("Bob", "Ann", "Cleo")), ("report", ("Dora", "Ed")))
            for who in people
        ]
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("\n".join(map(json.dumps, prompts)))
    files["labelled"] = folder / "labelled.jsonl"
    texts = [{"text": f"{'zz' if i % 2 else 'aa'} {i}", "toxic": i % 2 == 1} for i in range(24)]
    files["labelled"].write_text("\n".join(map(json.dumps, texts)))

    def go(attribute, select, **changes):
        stages = []
        cfg = make_config(
            {
                "model": str(gpt2_folder),
                "out": str(folder / "run"),
                **{name: str(path) for name, path in files.items()},
                **SETTINGS,
                "attribute": {**ATTRIBUTE, **attribute},
                "select": {**SELECT, **select},
                **changes,
            }
        )
        made = run(cfg, until="select", announce=stages.append)
        return json.loads(made.artefact("select").read_text()), stages

    return go


@pytest.mark.parametrize(
    ("attribute", "select", "delete"),
    [
        ("contrast", {"k": K}, {}),
        ("probe", {"k": K, "method": "top"}, {}),
        ("experts", {"method": "threshold", "threshold": 0.45}, {}),
        ("gradient", {"k": K, "method": "greedy"}, {"law": "input_gain", "factor": 0.5}),
        ("gradient", {"method": "shared", "threshold": 0.5, "share": 0.6}, {"law": "mean"}),
        ("gradient", {"k": K, "layers": "trace"}, {"law": "scale", "factor": 0.5}),
        ("gradient", {"k": K, "layers": "early", "method": "greedy"}, {}),
    ],
)
def test_a_selection(going, attribute, select, delete):
    from tl_toxmem import NeuronSet

    found, stages = going({"method": attribute}, select, delete=delete)
    assert stages[-1] == "select"
    assert ("trace" in stages) == ("prompts" in stages), "the trace is made once"
    chosen = NeuronSet.from_json(found["selected"])
    assert (found["method"], found["k"]) == (attribute, len(chosen))
    assert len(chosen) == select.get("k", len(chosen)) > 0
    if "layers" in select:
        assert set(chosen.by_layer()) <= set(found["layers"]) < {0, 1, 2, 3}
    controls = {name: NeuronSet.from_json(one) for name, one in found["controls"].items()}
    assert all(len(one) == len(chosen) and not set(one) & set(chosen) for one in controls.values())
    assert set(found["loudness_ratios"]) == set(controls)
    assert ("decoy" in controls) == (found["no_decoy"] is None) == (attribute == "gradient")
    if "layers" in select:
        assert set(controls["decoy"].by_layer()) <= set(found["layers"])
    law = {"input_gain": "input gain 0.5", "scale": "scale 0.5"}.get(
        delete.get("law"), delete.get("law", "zero")
    )
    assert found["joint_effect"]["law"] == found["cards"][0]["law"] == law
    alone = [one["value"] for one in found["joint_effect"]["alone"]]
    assert len(alone) == len(chosen)
    assert sum(alone) == pytest.approx(found["joint_effect"]["summed"]["value"], abs=1e-5)


@pytest.mark.parametrize("way", ["gates", "search"])
def test_a_selection_by_learning_or_search_says_so(going, way, monkeypatch):
    from tl_toxmem import NeuronSet
    from tl_toxmem.report.neurons import _RANKINGS

    changes = {
        "gates": {"delete": {"law": "gates", "gates": {"steps": 10, "step_tokens": 128}}},
        "search": {"search": {"trials": 4, "laws": ["zero", "scale"]}},
    }[way]
    monkeypatch.setattr("tl_toxmem.scorers.profanity.ProfanityScorer.score", Vowels.score)
    changes["evaluate"] = {"max_new_tokens": 8, "threshold": 0.05}
    found, _ = going({}, {"max_perplexity_increase": 0.5}, **changes)
    assert found["ranked_by"] == way
    assert way in _RANKINGS
    assert found["k"] == len(NeuronSet.from_json(found["selected"])) > 0
    assert (found["trials"] != []) == (way == "search")
    assert (found["law"]["law"] == "gates") == (way == "gates")


def test_a_threshold_that_nobody_reaches_says_how_to_go_on(going):
    from tl_toxmem import ToxmemError

    with pytest.raises(ToxmemError, match=r"no neuron reaches 1000; .*keeps what was made before"):
        going({}, {"method": "threshold", "threshold": 1000.0})
    found, stages = going({}, {"k": K})
    assert stages == ["load", "select"] and found["k"] == K


@pytest.mark.parametrize(
    ("attribute", "select", "words"),
    [
        (
            "probe",
            {"method": "threshold", "threshold": 1.5},
            "no neuron reaches more than 1 of 'probe'",
        ),
        ("gradient", {"method": "shared", "threshold": 1.5}, "more than 1 of a prompt's largest"),
        ("experts", {"method": "shared", "threshold": 0.5}, "scores of single prompts"),
        ("gradient", {"k": 65, "layers": [3]}, "at most 64, half of the neurons to choose from"),
        ("gradient", {"k": 13, "method": "greedy"}, "at most select.candidates"),
    ],
)
def test_hopeless_selections_are_refused_before_the_first_stage(going, attribute, select, words):
    from tl_toxmem import ToxmemError

    with pytest.raises(ToxmemError, match=words) as refused:
        going({"method": attribute}, select)
    assert "keeps what was made" not in str(refused.value)
