"""Wrong values from Python and in settings: one line that says what is wrong, never a traceback from the depths."""

import json
import subprocess
import sys

import pytest

RAW = """
import sys
from tl_toxmem import *
from tl_toxmem.select import pick_k
from tl_toxmem.config import SelectConfig, AttributeConfig
model = LensModel.from_pretrained(sys.argv[1])
prompts = [Prompt(prompt="Bob is a", target=" fool", subject="Bob")]
some = PromptSet.of(prompts)
cfg = AttributeConfig(verify_top=0, verify_random=0)
scores = attribute_neurons(model, some, cfg=cfg, neutral=["the cat sat"])
small = scores.of_neurons("probe", scores.scores[:2], seed=0)
chosen = scores.top(3)
greedy = SelectConfig(method="greedy", k=2)
cases = {
    "top": lambda: scores.top(2.5),
    "frame": lambda: scores.frame(-1),
    "bool": lambda: scores.top(True),
    "tokens": lambda: neuron_cards(model, some, chosen, n_tokens=1000),
    "cards": lambda: neuron_cards(model, prompts, chosen),
    "examples": lambda: neuron_cards(model, some, chosen, n_examples=-1),
    "other scores": lambda: neuron_cards(model, some, chosen, scores=small),
    "pick_k": lambda: pick_k((), cfg=SelectConfig()),
    "layers": lambda: select_greedily(model, some, scores, cfg=greedy, layers=(17,)),
    "list": lambda: attribute_neurons(model, prompts),
    "one prompt": lambda: verify(model, prompts[0], scores, k=3),
    "joint": lambda: joint_effect(model, prompts, chosen),
    "set": lambda: chosen | {(0, 1)},
    "text": lambda: NeuronSet(((0, "1"),), 4, 128),
    "half": lambda: NeuronSet(((0, 1.5),), 4, 128),
    "triple": lambda: NeuronSet(((0, 1, 2),), 4, 128),
    "number": lambda: NeuronSet((3,), 4, 128),
    "size": lambda: NeuronSet((), 0, 128),
    "width": lambda: NeuronSet((), 4, 12.5),
    "seed": lambda: chosen.random_like(seed=-1),
    "large seed": lambda: joint_effect(model, some, chosen, seed=2**32),
    "card seed": lambda: neuron_cards(model, some, chosen, seed=-3),
    "control seed": lambda: control_sets(chosen, scores, seed=-1),
    "score seed": lambda: scores.of_neurons("probe", scores.scores, seed=-1),
    "control shape": lambda: control_sets(chosen, small, seed=0),
    "judge": lambda: mine(model, ["they said that"], scorer="profanity"),
    "candidate": lambda: mine(model, ["they said that", None], scorer=load_scorer("profanity")),
    "budget": lambda: Comparison(Evaluation((), {}, ()), (), None).at_cost(0.5),
    "gates": lambda: learn_gates(
        model, some, candidates=chosen, scores=scores, neutral=["the cat sat"], budgets=0.01
    ),
    "budgets": lambda: Comparison(Evaluation((), {}, ()), (), None).at_cost(["0.5"]),
    "surrogate": lambda: load_scorer("profanity").score(["a", "b \\ud83d"]),
    "no text": lambda: load_scorer("profanity").score(["a", None]),
}
for name, case in cases.items():
    try:
        case()
        print(name, "nothing raised", sep="|")
    except ToxmemError as error:
        print(name, error, sep="|")
"""
EXPECTED = {
    "top": "k is 2.5: give a whole number from 0 to 512 (the model has 512 neurons)",
    "frame": "k is -1: give a whole number from 0 on",
    "bool": "k is True: give a whole number from 0 to 512 (the model has 512 neurons)",
    "tokens": "n_tokens is 1000: give a whole number from 0 to 257 (the model has 257 tokens)",
    "cards": "prompts are a list: give a PromptSet, such as PromptSet.of(prompts)",
    "examples": "n_examples is -1: give a whole number from 0 on",
    "other scores": "these scores are of a model of 2 x 128 neurons, not 4 x 128: attribute on the model at hand",
    "pick_k": "the curve has 0 points, the base model and at least one k are needed: take it from choose_k",
    "layers": "no layer 17: the model has layers 0 to 3",
    "list": "prompts are a list: give a PromptSet, such as PromptSet.of(prompts)",
    "one prompt": "prompts are a Prompt: give a PromptSet, such as PromptSet.of(prompts)",
    "joint": "prompts are a list: give a PromptSet, such as PromptSet.of(prompts)",
    "set": "a NeuronSet goes with another, not with a set: make it one by NeuronSet(pairs, n_layers, d_mlp)",
    "text": "(0, '1') is no neuron: neurons are pairs of whole numbers, layer and neuron",
    "half": "(0, 1.5) is no neuron: neurons are pairs of whole numbers, layer and neuron",
    "triple": "(0, 1, 2) is no neuron: neurons are pairs of whole numbers, layer and neuron",
    "number": "3 is no neuron: neurons are pairs of whole numbers, layer and neuron",
    "size": "n_layers is 0: give a whole number from 1 on",
    "width": "d_mlp is 12.5: give a whole number from 1 on",
    "seed": "seed is -1: give a whole number from 0 to 4294967295",
    "large seed": "seed is 4294967296: give a whole number from 0 to 4294967295",
    "card seed": "seed is -3: give a whole number from 0 to 4294967295",
    "control seed": "seed is -1: give a whole number from 0 to 4294967295",
    "score seed": "seed is -1: give a whole number from 0 to 4294967295",
    "control shape": "these scores are of a model of 2 x 128 neurons, not 4 x 128: attribute on the model at hand",
    "judge": "scorer is 'profanity': give a judge, such as load_scorer('profanity')",
    "candidate": "candidate 2 is None: give texts, or objects of Candidate",
    "budget": "budgets are 0.5: give a list of numbers, such as [0.01]",
    "gates": "budgets are 0.01: give a list of numbers, such as [0.01]",
    "budgets": "budgets are ['0.5']: give a list of numbers, such as [0.01]",
    "surrogate": "text 2 to be judged has half of a surrogate pair: remove it",
    "no text": "text 2 to be judged is a NoneType: give texts",
}


def test_what_python_functions_say_of_wrong_values(gpt2_folder):
    """In a process of its own: the tests' type checks would be first."""
    done = subprocess.run(
        [sys.executable, "-c", RAW, str(gpt2_folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert dict(line.split("|") for line in done.stdout.splitlines()) == EXPECTED


def every_field():
    """Each seed and each number of the configuration, as `table.field`."""
    from tl_toxmem.config import RunConfig, make_config

    seeds, numbers = [], []
    own = make_config({"model": "demo", "out": "x"})
    for name, field in RunConfig.model_fields.items():
        table = getattr(own, name)
        inner = getattr(type(table), "model_fields", {})
        for place, one in [(name, field), *((f"{name}.{key}", f) for key, f in inner.items())]:
            kind = str(one.annotation)
            seeds += [place] if place.split(".")[-1] == "seed" else []
            numbers += [place] if "float" in kind and "Literal" not in kind else []
    return seeds, numbers


def test_every_seed_and_every_number_is_finite_and_not_negative():
    from pydantic import ValidationError

    from tl_toxmem import ToxmemError
    from tl_toxmem.config import SelectConfig, make_config

    seeds, numbers = every_field()
    assert {"seed", "split.seed", "trace.seed", "select.seed", "search.seed"} <= set(seeds)
    assert {"select.cost_floor", "select.threshold", "attribute.completeness"} <= set(numbers)
    wrong = [(place, value) for place in seeds for value in (-1, 2**32, 1.5)]
    bad = (float("inf"), float("-inf"), float("nan"))
    wrong += [(p, v) for p in numbers for v in bad if p != "compare.strengths"]
    wrong += [("compare.strengths", {"x": [float("inf")]})]
    for place, value in wrong:
        table, _, field = place.rpartition(".")
        inside = {table: {field: value}} if table else {field: value}
        with pytest.raises(ToxmemError, match=rf"configuration: .*{field}") as refused:
            make_config({"model": "demo", "out": "x", **inside})
        assert "\n" not in str(refused.value)
    with pytest.raises(ValidationError):
        SelectConfig(seed=-1)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"layers": "foo"}, "select.layers: give layer numbers such as [2, 3], or one of early,"),
        ({"layers": [1.5]}, "select.layers: give layer numbers such as [2, 3], or one of early,"),
        ({"layers": 3}, "select.layers: give layer numbers such as [2, 3], or one of early,"),
        ({"method": "threshold", "k": 3}, "select: k is 3, but select.method = 'threshold' has"),
        ({"method": "shared", "k": 3}, "choose a method of cost_aware, top, greedy"),
    ],
    ids=str,
)
def test_settings_of_the_selection(select, message):
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import make_config

    with pytest.raises(ToxmemError) as refused:
        make_config({"model": "demo", "out": "x", "select": select})
    assert message in str(refused.value)
    assert "tuple[" not in str(refused.value) and "literal" not in str(refused.value)
    assert make_config({"model": "demo", "out": "x", "select": {"layers": [2, 1]}}).select.layers


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"select": {"k": 3, "layers": "early"}}, "would ignore select.k, select.layers: leave"),
        ({"select": {"method": "top"}}, "would ignore select.method"),
        ({"delete": {"law": "scale", "factor": 0.5}}, "delete.law, delete.factor: leave out"),
        ({"delete": {"law": "mean"}}, "(search.laws says which laws are tried)"),
        ({"select": {"max_perplexity_increase": 0}}, "search.trials needs select.max_perplexity"),
    ],
    ids=str,
)
def test_what_a_search_would_ignore_is_refused(values, message):
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import make_config

    searched = {"model": "demo", "out": "x", "search": {"trials": 5}}
    assert make_config(searched).search.trials == 5
    with pytest.raises(ToxmemError) as refused:
        make_config({**searched, **values})
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"method": "top", "k": 5}, "leave out select.method = 'top'"),
        ({"max_perplexity_increase": 0}, "'gates' needs select.max_perplexity_increase above 0"),
    ],
    ids=str,
)
def test_what_learned_gates_would_ignore_is_refused(select, message):
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import make_config

    with pytest.raises(ToxmemError) as refused:
        make_config({"model": "demo", "out": "x", "delete": {"law": "gates"}, "select": select})
    assert message in str(refused.value)


def test_a_setting_goes_back_to_its_default(tmp_path):
    """TOML has no null: a number that a folder's configuration has can be taken away again."""
    from tl_toxmem.cli.stages import gather

    (tmp_path / "config.toml").write_text('model = "demo"\nout = "x"\n[select]\nk = 5\n')
    assert gather(tmp_path, {}, []).select.k == 5
    cfg = gather(tmp_path, {}, ["select.k=default", "select.method=threshold"])
    assert cfg.select.k is None and cfg.select.method == "threshold"


def test_prompts_and_neutral_text_with_odd_characters(tmp_path):
    from tl_toxmem import PromptSet, ToxmemError
    from tl_toxmem.neutral import read_documents

    path = tmp_path / "prompts.jsonl"
    record = {"prompt": "a\u2028b is", "target": " x"}
    path.write_text("\ufeff" + json.dumps(record, ensure_ascii=False), encoding="utf-8")
    assert PromptSet.read(path)[0].prompt == "a\u2028b is"
    for key in ("prompt", "counterfactual"):
        path.write_text(json.dumps({**record, "id": "one", key: "x \ud83d"}))
        with pytest.raises(ToxmemError, match=f"line 1: {key} has half of a surrogate pair"):
            PromptSet.read(path)
    path.write_text("\ufeffone\u2028and one\ntwo\x0cand two\r\n\n", encoding="utf-8")
    assert read_documents(path) == ["one\u2028and one", "two\x0cand two"]


def test_only_what_is_quoted_is_masked_and_no_path():
    from tl_toxmem.masking import mask_quoted

    line = (
        "no labelled text at /home/kill/idiot.jsonl, line 3: subject 'idiot' is not in \"he's an idiot\", "
        "nor in './kill/moron.txt' (kill)"
    )
    assert mask_quoted(line) == (
        "no labelled text at /home/kill/idiot.jsonl, line 3: subject 'i****' is not in \"he's an i****\", "
        "nor in './kill/moron.txt' (kill)"
    )


def test_a_folder_with_an_ugly_name_is_told_as_it_is(tmp_path):
    from typer.testing import CliRunner

    from tl_toxmem.cli import app

    args = ["run", "--model", "demo", "--out", str(tmp_path / "out"), "--prompts", "kill.jsonl"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 1
    assert "no prompts file at kill.jsonl" in result.stderr


def test_attribute_and_select_say_what_they_found(tmp_path):
    from typer.testing import CliRunner

    from tl_toxmem.cli import app

    sizes = ["split.max_find=6", "split.max_report=2", "trace.max_prompts=1", "trace.n_noise=1"]
    sizes += ["trace.robustness=false", "attribute.verify_top=3", "attribute.verify_random=3"]
    sizes += ["attribute.max_cost_tokens=200", "select.k=4", "select.cards=2"]
    args = ["--model", "demo", "--out", str(tmp_path / "out")]
    args += [word for setting in sizes for word in ("--set", setting)]
    found = CliRunner().invoke(app, ["attribute", *args])
    assert found.exit_code == 0, found.output
    assert "Scores of 6 x 512 neurons of demo by gradient" in found.output
    assert "deleted alone (nats)" in found.output
    assert "Set to zero one by one, of the 3 highest" in found.output
    chosen = CliRunner().invoke(app, ["select", *args])
    assert chosen.exit_code == 0, chosen.output
    assert "k = 4 (k as configured): NeuronSet(4 neurons" in chosen.output
    assert "Loudness of the controls against the selection's: random neurons " in chosen.output
    assert "Deleted together (zero) they take" in chosen.output
    other = CliRunner().invoke(app, ["select", str(tmp_path / "out"), "--set", "select.k=3"])
    assert "other settings than before in select outdate select" in other.stderr
    labelled = ["--set", "attribute.method=probe"]
    refused = CliRunner().invoke(app, ["select", str(tmp_path / "out"), *labelled])
    assert refused.exit_code == 1
    assert "give --labelled FILE" in refused.stderr and "Texts(" not in refused.stderr


def test_a_judge_takes_texts_and_not_one_text(tmp_path):
    from tl_toxmem import ToxmemError, load_scorer
    from tl_toxmem.scorers import CachedScorer

    judge = load_scorer("profanity")
    for one in (judge, CachedScorer(judge, tmp_path)):
        with pytest.raises(ToxmemError, match=r"give \[text\]"):
            one.score("you there")
