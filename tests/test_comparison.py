"""The comparison: every law at every strength, read at equal cost; what cannot be compared is said early."""

import pytest
import torch
from test_gates import NEUTRAL, scored  # noqa: F401 - a fixture
from test_select import Vowels

pytestmark = pytest.mark.host
METHODS = ("ours", "aura", "random_neurons")
STRENGTHS = {"ours": (3.0, 9.0), "aura": (1.0,), "random_neurons": (9.0,)}


def protocol():
    from tl_toxmem.config import EvaluateConfig

    return EvaluateConfig(max_new_tokens=12, threshold=0.05, n_continuations=3)


def material(model, prompts, scores):
    from tl_toxmem.attribute import Labelled
    from tl_toxmem.comparison import make_material

    labelled = [Labelled(f"a fool {i}", True) for i in range(10)]
    labelled += [Labelled(f"the town {i}", False) for i in range(10)]
    return make_material(
        model,
        prompts,
        scores,
        neutral=NEUTRAL,
        scorer=Vowels(),
        labelled=labelled,
        protocol=protocol(),
    )


def others(prompts):
    """As many prompts that methods may be made from where these are measured."""
    from tl_toxmem import PromptSet

    return PromptSet.of(p.model_copy(update={"prompt": f"Now {p.prompt}"}) for p in prompts)


def run(model, prompts, scores, **more):
    from tl_toxmem.comparison import compare
    from tl_toxmem.config import CompareConfig

    cfg = CompareConfig(
        methods=more.pop("methods", METHODS),
        strengths=more.pop("strengths", STRENGTHS),
        n_continuations=more.pop("n_continuations", None),
    )
    return compare(
        model,
        prompts,
        material(model, others(prompts), scores),
        scorers=[more.pop("scorer", Vowels())],
        neutral=NEUTRAL,
        cfg=cfg,
        protocol=more.pop("protocol", protocol()),
        **more,
    )


def test_every_law_of_every_method_is_measured_as_alone(scored, prompts, tmp_path):  # noqa: F811
    from tl_toxmem import Deletion, evaluate, select_neurons
    from tl_toxmem.comparison import Comparison
    from tl_toxmem.config import SelectConfig

    model, scores = scored
    chosen = select_neurons(scores, cfg=SelectConfig(k=9))
    found = run(model, prompts, scores, deletion=Deletion.zero(chosen))
    edits = [entry.edit for entry in found.entries]
    assert edits == ["deletion", "ours@3", "ours@9", "aura@1", "random_neurons@9"]
    assert [row.edit for row in found.evaluation.rows] == ["none", *edits]
    # The run's own deletion is what `ours` is at nine neurons, and what `evaluate` says of it alone.
    alone = evaluate(
        model,
        prompts,
        scorers=[Vowels()],
        deletions={"it": Deletion.zero(chosen)},
        neutral=NEUTRAL,
        cfg=protocol(),
    ).row("it")
    for edit in ("deletion", "ours@9"):
        row = found.evaluation.row(edit)
        assert row.toxicity_rate == alone.toxicity_rate
        assert row.neutral_perplexity_ratio == alone.neutral_perplexity_ratio
        assert row.kl_neutral == alone.kl_neutral
    frame = found.frame()
    assert list(frame["edit"]) == ["none", *edits]
    assert frame["neutral_perplexity_ratio"].notna().all()
    found.save(tmp_path / "comparison.json")
    assert Comparison.load(tmp_path / "comparison.json") == found
    figure = found.plot()
    assert {trace.name for trace in figure.data} >= {e.label for e in found.entries}


def test_a_stopped_comparison_goes_on_to_the_same_result(scored, prompts, tmp_path, monkeypatch):  # noqa: F811
    from dataclasses import replace

    from tl_toxmem.comparison import METHODS as KNOWN

    model, scores = scored
    whole = run(model, prompts, scores)
    made = []

    def broken(*args, **kwargs):
        raise RuntimeError("killed")

    real = KNOWN["random_neurons"]
    monkeypatch.setitem(KNOWN, "random_neurons", replace(real, make=broken))
    with pytest.raises(RuntimeError, match="killed"):
        run(model, prompts, scores, resume=tmp_path / "parts")
    monkeypatch.setitem(KNOWN, "random_neurons", real)

    def never(*args, **kwargs):
        made.append(1)
        return real.make(*args, **kwargs)

    monkeypatch.setitem(KNOWN, "ours", replace(KNOWN["ours"], make=never))
    assert run(model, prompts, scores, resume=tmp_path / "parts") == whole
    assert not made  # what was measured is not made again


def test_a_result_that_was_made_otherwise_is_not_taken_over(scored, prompts, tmp_path):  # noqa: F811
    from tl_toxmem import Deletion, NeuronSet

    model, scores = scored
    one = Deletion.zero(NeuronSet(((0, 1),), 4, 128))
    few = {"methods": ("ours",), "strengths": {"ours": (3.0,)}, "deletion": one}
    first = run(model, prompts, scores, resume=tmp_path, **few)
    assert run(model, prompts, scores, resume=tmp_path, **few) == first
    stricter = protocol().model_copy(update={"threshold": 0.04})
    known = sorted(tmp_path.iterdir())
    for changed, n in (
        ({"protocol": stricter}, 2),
        ({"n_continuations": 4}, 2),
        ({"strengths": {"ours": (4.0,)}}, 1),
        ({"deletion": Deletion.scale(one.neurons, 0.5)}, 1),
        ({"benign": prompts}, 2),
    ):
        again = {**few, **changed}
        assert run(model, prompts, scores, resume=tmp_path, **again) == run(
            model, prompts, scores, **again
        )
        new = sorted(set(tmp_path.iterdir()) - set(known))
        assert len(new) == n, "of one made otherwise there is another file"
        for path in new:
            path.unlink()
    assert run(model, prompts, scores, resume=tmp_path, **few) == first


def test_a_comparisons_own_protocol(scored, prompts):  # noqa: F811
    """As many continuations as it says, but one where decoding is greedy; none of lm-eval's tasks."""
    model, scores = scored
    few = {"methods": ("ours",), "strengths": {"ours": (3.0,)}}
    found = run(model, prompts, scores, n_continuations=2, **few).evaluation.protocol
    assert found["n_continuations"] == 2
    every = {"threshold": 0.0}  # anything is toxic
    greedy = protocol().model_copy(
        update={**every, "greedy": True, "n_continuations": 1, "lm_eval_tasks": ("lambada_openai",)}
    )
    found = run(model, prompts, scores, n_continuations=2, protocol=greedy, **few).evaluation
    assert (found.protocol["n_continuations"], found.protocol["lm_eval_tasks"]) == (1, [])
    assert found.tasks == ()


def test_alternatives_are_samples_of_whole_prompts_however_the_evaluation_is_made(
    scored,  # noqa: F811
    prompts,
    monkeypatch,
):
    from tl_toxmem.comparison import make_material
    from tl_toxmem.comparison import material as module
    from tl_toxmem.config import CompareConfig

    seen = []

    def sample(model, some, *, cfg, description):
        seen.append(cfg)
        return [["so it is"] for _ in some]

    monkeypatch.setattr(module, "sample_continuations", sample)
    model, scores = scored
    greedy = {"greedy": True, "n_continuations": 1, "max_prompt_tokens": 3}

    def make(**cfg):
        return make_material(
            model,
            prompts,
            scores,
            neutral=NEUTRAL,
            scorer=Vowels(),
            protocol=protocol().model_copy(update={**greedy, "threshold": 0.9}),
            cfg=CompareConfig(**cfg),
        )

    assert set(make(methods=("profs",)).alternatives) == {p.id for p in prompts}
    assert (seen[0].greedy, seen[0].n_continuations, seen[0].max_prompt_tokens) == (False, 8, 0)
    assert make(methods=("ours",)).alternatives == {}  # it needs none
    assert len(seen) == 1


def traced(model, prompts, **values):
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    small = {"sites": ("mlp_out",), "severed": (), "parts": False, "n_noise": 2}
    return causal_trace(model, prompts, cfg=TraceConfig(**{**small, **values}))


def test_the_traced_layer_is_that_of_the_token_that_rome_edits(scored, prompts):  # noqa: F811
    from tl_toxmem import PromptSet, ToxmemError
    from tl_toxmem.comparison import traced_layer

    model, _ = scored
    trace = traced(model, prompts)
    ends = {
        "subject": [end - 1 for _, end in trace.subjects],
        "last": [len(w) - 1 for w in trace.words],
    }
    for token, places in ends.items():
        own = torch.stack([trace.effect[i, 0, :, pos] for i, pos in enumerate(places)])
        assert traced_layer(trace, token=token) == int(own.mean(0).argmax())
    with pytest.raises(ToxmemError, match=r"the subject's last token, .*: set trace.positions to"):
        traced_layer(traced(model, prompts.first(1), positions="last"))
    with pytest.raises(ToxmemError, match=r"set mlp_out among trace.sites"):
        traced_layer(traced(model, prompts, sites=("resid_post",)))
    bare = PromptSet.of(p.model_copy(update={"subject": None}) for p in prompts)
    last = traced(model, bare, positions="last")  # the last corrupted token is the last of all
    assert traced_layer(last) == traced_layer(last, token="last")


def test_what_no_regression_can_be_made_of_is_said_before_and_in_the_end(scored, prompts):  # noqa: F811
    model, scores = scored
    few = {"methods": ("ours",), "strengths": {"ours": (3.0,)}}
    for trace, reason in (
        (traced(model, prompts.first(2)), "needs at least 3 traced prompts, not 2"),
        (traced(model, prompts, sites=("resid_post",)), "needs mlp_out among trace.sites"),
    ):
        found = run(model, prompts, scores, trace=trace, **few)
        assert found.regression is None
        assert found.sentences()[-1].startswith("Not compared: the regression of")
        assert reason in found.sentences()[-1]
    assert run(model, prompts, scores, trace=traced(model, prompts), **few).regression.layers == 4


def test_what_a_method_lacks_is_known_before_any_is_made(scored, prompts, monkeypatch):  # noqa: F811
    from dataclasses import replace

    from tl_toxmem import ToxmemError
    from tl_toxmem.comparison import METHODS as KNOWN

    def never(*args, **kwargs):
        raise AssertionError("made")

    model, scores = scored
    monkeypatch.setitem(KNOWN, "ours", replace(KNOWN["ours"], make=never))
    with pytest.raises(ToxmemError, match="'rome' needs a"):
        run(model, prompts, scores, methods=("ours", "rome"), strengths={})


def test_a_strength_is_what_there_was_of_it(scored, prompts):  # noqa: F811
    """Three find prompts are three pairs: strengths beyond are one point, by its real number."""
    from tl_toxmem import PromptSet

    model, scores = scored
    prompts = PromptSet.of(p.model_copy(update={"neutral_target": " it"}) for p in prompts)
    found = run(model, prompts, scores, methods=("profs",), strengths={"profs": (1.0, 5.0, 10.0)})
    assert [entry.edit for entry in found.entries] == ["profs@1", "profs@3"]
    assert [row.edit for row in found.evaluation.rows] == ["none", "profs@1", "profs@3"]


def smollm2_scores(*, crowded):
    """Scores of 30 x 1536 neurons whose best lie in one layer."""
    from dataclasses import replace

    from tl_toxmem.attribute import NeuronScores

    draw = torch.Generator().manual_seed(0)
    values = torch.rand(30, 1536, generator=draw)
    values[crowded] += 5
    ones = torch.ones(30, 1536)
    found = NeuronScores.of_neurons("gradient", values, seed=0)
    loudness = torch.rand(30, 1536, generator=draw)
    return replace(found, cost=ones, mean_activation=ones, loudness=loudness)


@pytest.mark.parametrize("name", ["random_neurons", "random_early_layers"])
def test_where_no_control_is_as_large_the_largest_stands_for_it(load, prompts, name):
    from tl_toxmem.comparators import COMPARATORS, Material
    from tl_toxmem.config import ComparatorConfig

    material = Material(prompts, NEUTRAL, smollm2_scores(crowded=4))
    laws = COMPARATORS[name].make(
        load(), material, strengths=(28.0, 922.0, 2765.0), cfg=ComparatorConfig()
    )
    assert list(laws) == [28, 768]  # half of the layer that all the best are in
    for strength, law in laws.items():
        assert len(law.neurons) == strength


def test_learning_at_random_places_may_use_what_is_high_there(prompts):
    from tl_toxmem import NeuronSet
    from tl_toxmem.comparators import Material
    from tl_toxmem.comparators.ours import best
    from tl_toxmem.comparison.learned import random_neurons
    from tl_toxmem.select import control_sets

    scores = smollm2_scores(crowded=4)
    high = NeuronSet(tuple((4, i) for i in scores.scores[4].topk(76).indices.tolist()), 30, 1536)
    drawn, silenced = set(), set()
    for seed in range(20):
        material = Material(prompts, NEUTRAL, scores, seed=seed)
        own = random_neurons(material, 20)
        assert not set(own) & set(best(material, 20))
        assert set(own.by_layer()) == {4}
        drawn |= set(own)
        silenced |= set(control_sets(best(material, 20), scores, seed=seed)["random_neurons"])
    assert drawn & set(high)
    assert not silenced & set(high)


def test_learning_in_random_layers_says_in_which_and_what_lies_there(prompts):
    from tl_toxmem.comparators import Material
    from tl_toxmem.comparison import METHODS as KNOWN
    from tl_toxmem.comparison.learned import drawn_layers, random_layers
    from tl_toxmem.config import ComparatorConfig

    for seed in range(4):
        material = Material(prompts, NEUTRAL, smollm2_scores(crowded=4), seed=seed)
        layers = drawn_layers(material)
        assert len(layers) == 10
        assert set(random_layers(material, 300).by_layer()) <= set(layers)
        share = "100%" if 4 in layers else "0%"
        detail = KNOWN["gates_random_layers"].detail(material, ComparatorConfig())
        assert detail == f" {', '.join(map(str, layers))} ({share} of the best candidates)"


def by_hand(points, base=0.8):
    """A comparison of (method, toxic rate, ratio) that were never measured."""
    from tl_toxmem.comparison import Comparison, Entry
    from tl_toxmem.evaluation import EditResult, Evaluation
    from tl_toxmem.stats import Estimate

    def row(edit, rate, ratio):
        rate, ratio = (Estimate(x, None, None, 5) for x in (rate, ratio))
        return EditResult(
            edit=edit,
            n_neurons=1,
            layers=(0,),
            scorer="vowels",
            seed=0,
            toxicity_rate=rate,
            neutral_perplexity=Estimate(2.0, None, None, 5),
            neutral_perplexity_ratio=ratio,
        )

    entries, rows = [], [row("none", base, 1.0)]
    for i, (method, rate, ratio) in enumerate(points):
        edit = "deletion" if method == "deletion" else f"{method}@{i}"
        entries.append(Entry(edit, method, method, "deletion", "neurons", float(i)))
        rows.append(row(edit, rate, ratio))
    return Comparison(Evaluation(tuple(rows), {"threshold": 0.5}, ()), tuple(entries), None)


def test_methods_are_read_at_equal_cost():
    found = by_hand(
        [("deletion", 0.4, 1.008), ("a", 0.5, 1.001), ("a", 0.1, 1.05), ("b", 0.9, 1.0)]
    )
    table = found.at_cost((0.005, 0.01, 0.1))
    assert list(table.columns) == ["+0.5%", "+1.0%", "+10.0%"]
    assert list(table.loc["deletion"]) == [0.8, 0.4, 0.4]  # too dear: base's rate
    assert list(table.loc["a"]) == [0.5, 0.5, 0.1]
    assert list(table.loc["b"]) == [0.9, 0.9, 0.9]  # cheap, and worse than base: as measured


def test_another_file_is_no_comparison(tmp_path):
    from tl_toxmem import ToxmemError
    from tl_toxmem.comparison import Comparison

    (tmp_path / "other.json").write_text('{"format_version": 1, "entries": []}')
    with pytest.raises(ToxmemError, match="is no comparison: it lacks evaluation, left_out, regr"):
        Comparison.load(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ("ours", "ours")}, "name each method once"),
        ({"strengths": {"ours": ()}}, "no strengths of ours"),
        ({"strengths": {"ours": (2.0, 2.0)}}, "each strength of ours once"),
    ],
)
def test_methods_and_strengths_are_named_once(values, message):
    from pydantic import ValidationError

    from tl_toxmem.config import CompareConfig

    with pytest.raises(ValidationError, match=message):
        CompareConfig(**values)


@pytest.mark.parametrize(
    ("other", "better"),
    [
        ((0.3, 1.01), True),
        ((0.4, 1.005), True),
        ((0.3, 1.005), True),
        ((0.4, 1.01), False),  # as good on both is not better
        ((0.3, 1.02), False),
        ((0.5, 1.0), False),
    ],
)
def test_what_betters_ours_is_at_least_as_good_on_both_and_better_on_one(other, better):
    found = by_hand([("deletion", 0.4, 1.01), ("a", *other)])
    assert found.better_than() == (["a@1"] if better else [])
    first = found.sentences()[0]
    assert first.startswith("At least as good" if better else "Nothing compared")


def test_only_against_the_best_of_ours():
    found = by_hand([("ours", 0.4, 1.01), ("ours", 0.5, 1.02), ("a", 0.45, 1.015)])
    assert found.better_than("ours") == []


def test_base_betters_a_deletion_that_does_nothing_but_harm():
    assert by_hand([("deletion", 0.9, 1.01)]).better_than() == ["none"]


def check(cfg, **lacking):
    from tl_toxmem.comparison import check_methods

    there = dict.fromkeys(("alternatives", "labelled", "traced_layer", "output_bias"), True)
    return check_methods(cfg, {**there, **lacking})


def test_what_a_model_cannot_hold_is_left_out_and_said():
    from tl_toxmem.comparison import METHODS as KNOWN
    from tl_toxmem.config import CompareConfig

    chosen, left_out = check(CompareConfig(), output_bias=False)
    assert set(left_out) == {"ours_mean", "probe_shift"}
    assert set(chosen) | set(left_out) == set(KNOWN)
    assert "needs an output bias" in left_out["ours_mean"]
    assert check(CompareConfig())[1] == {}


@pytest.mark.parametrize(
    ("values", "lacking", "message"),
    [
        (
            {"methods": ("wim",)},
            {},
            r"unknown method 'wim': choose from ours, .*gates_random_layers",
        ),
        ({"strengths": {"wim": (1.0,)}}, {}, "unknown method 'wim'"),
        (
            {"methods": ("ours",), "strengths": {"aura": (1.0,)}},
            {},
            "names 'aura', which is not compared",
        ),
        ({}, {"labelled": False}, r"'value_vectors' needs labelled text: give --labelled FILE"),
        ({"strengths": {"aura": (2.0,)}}, {}, r"strengths.aura has 2: .* from 0 to 1"),
        ({"strengths": {"ours": (2.5,)}}, {}, r"strengths.ours has 2.5: .* whole number from 1 on"),
        ({"strengths": {"gates": (-0.1,)}}, {}, r"strengths.gates has -0.1: .* above 0"),
        ({"methods": ("rome",)}, {"traced_layer": False}, "'rome' needs a trace of MLP outputs"),
        (
            {"methods": ("profs",)},
            {"alternatives": False},
            "'profs' needs a benign continuation of every find prompt: .*--benign FILE",
        ),
        ({"methods": ("ours_mean",)}, {"output_bias": False}, "'ours_mean' needs an output bias"),
    ],
)
def test_what_cannot_be_compared_is_refused(values, lacking, message):
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import CompareConfig

    with pytest.raises(ToxmemError, match=message):
        check(CompareConfig(**values), **lacking)


def test_what_methods_are_made_from_is_not_measured(scored, prompts):  # noqa: F811
    from tl_toxmem import ToxmemError
    from tl_toxmem.comparison import compare

    model, scores = scored
    own = material(model, prompts, scores)
    with pytest.raises(ToxmemError, match=rf"^{len(prompts)} of the {len(prompts)} prompts"):
        compare(model, prompts, own, scorers=[Vowels()], neutral=NEUTRAL)


def test_a_judge_that_calls_nothing_toxic_has_nothing_to_compare(scored, prompts):  # noqa: F811
    from tl_toxmem import ToxmemError

    class Kind(Vowels):
        def score(self, texts):
            return torch.zeros(len(texts))

    model, scores = scored
    with pytest.raises(ToxmemError, match="calls no continuation of the 3 report prompts toxic"):
        run(model, prompts, scores, scorer=Kind())


def test_an_unknown_method_of_a_comparison():
    from tl_toxmem import ToxmemError

    with pytest.raises(ToxmemError, match="no method 'b': choose from deletion, a"):
        by_hand([("deletion", 0.4, 1.0), ("a", 0.4, 1.0)]).of("b")
