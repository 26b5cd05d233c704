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


def run(model, prompts, scores, **more):
    from tl_toxmem.comparison import compare
    from tl_toxmem.config import CompareConfig

    cfg = CompareConfig(
        methods=more.pop("methods", METHODS), strengths=more.pop("strengths", STRENGTHS)
    )
    return compare(
        model,
        prompts,
        material(model, prompts, scores),
        scorers=[more.pop("scorer", Vowels())],
        neutral=NEUTRAL,
        cfg=cfg,
        protocol=protocol(),
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
    assert list(table.loc["b"]) == [0.8, 0.8, 0.8]  # not to edit is always possible


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

    there = dict.fromkeys(("benign", "labelled", "traced_layer", "output_bias"), True)
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
        ({"methods": ("rome",)}, {"traced_layer": False}, "'rome' needs a trace of MLP outputs"),
        ({"methods": ("ours_mean",)}, {"output_bias": False}, "'ours_mean' needs an output bias"),
    ],
)
def test_what_cannot_be_compared_is_refused(values, lacking, message):
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import CompareConfig

    with pytest.raises(ToxmemError, match=message):
        check(CompareConfig(**values), **lacking)


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
