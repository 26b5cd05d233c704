"""The cost model: counts against what really runs, operations and times by hand, and the command."""

import json
from collections import Counter, defaultdict
from contextlib import contextmanager

import pytest
from small import config

SHAPE = {
    "n_layers": 2,
    "d_model": 8,
    "d_mlp": 32,
    "d_vocab": 50,
    "n_heads": 2,
    "n_keys": 2,
    "d_head": 4,
    "gated": False,
    "itemsize": 4,
}
WORDS = 1e-9  # of sums of fractions that are whole in the end


@contextmanager
def counted(monkeypatch):
    """By stage (see `found["stage"]`), calls that go up the layers, and tokens x layers that blocks are given."""
    from tl_toxmem.model.hooked import HookedHost

    found = {"stage": "", "forwards": Counter(), "tokens": Counter()}

    def count(name):
        real = getattr(HookedHost, name)

        def call(host, *args, **kwargs):
            found["forwards"][found["stage"]] += 1
            watch(host)
            return real(host, *args, **kwargs)

        patch.setattr(HookedHost, name, call)

    def watch(host):
        if id(host) not in watched:
            watched[id(host)] = host
            for block in host.raw.blocks:
                block.register_forward_pre_hook(see, with_kwargs=True)

    def see(block, args, kwargs):
        states = args[0] if args else kwargs["resid_pre"]
        found["tokens"][found["stage"]] += states.shape[0] * states.shape[1]

    watched = {}
    with monkeypatch.context() as patch:
        for name in ("forward", "forward_cached", "suffix", "step"):
            count(name)
        yield found


def inputs_of(cfg):
    from tl_toxmem.pipeline.inputs import load_model, read_inputs

    inputs = read_inputs(cfg)
    return inputs, load_model(cfg, inputs, ["trace"])


def test_a_run_does_what_was_counted(tmp_path, monkeypatch):
    """Where texts have no end and k is set, passes are determined; tokens too, but for where neurons lie."""
    from tl_toxmem.pipeline import run
    from tl_toxmem.plan.passes import Lengths
    from tl_toxmem.plan.planning import count_run
    from tl_toxmem.plan.work import Shape

    monkeypatch.setattr("tl_toxmem.model.lens._ends", lambda *_: ())
    cfg = config(tmp_path / "run", select={"k": 5, "cards": 2})
    cfg = cfg.model_copy(update={"trace": cfg.trace.model_copy(update={"robustness": False})})
    inputs, model = inputs_of(cfg)
    works = {work.stage: work for work in count_run(model, cfg, inputs, Lengths())}
    with counted(monkeypatch) as found:
        run(cfg, until="evaluate", announce=lambda stage: found.update(stage=stage))
    for stage in ("trace", "attribute", "select", "evaluate"):
        assert works[stage].forwards == pytest.approx(found["forwards"][stage], abs=WORDS), stage
    tokens = {stage: work.tokens(Shape.of(model)) for stage, work in works.items()}
    for stage in ("trace", "evaluate"):
        assert works[stage].exact
        really = found["tokens"][stage] / model.n_layers
        assert tokens[stage] == pytest.approx(really, abs=WORDS), stage
    # Of 10 ablations on 8 prompts, each runs from none to all of the layers.
    assert not works["attribute"].exact
    really = found["tokens"]["attribute"] / model.n_layers
    assert tokens["attribute"] == pytest.approx(really, rel=0.3)


@pytest.mark.parametrize("changes", [{"corruption": "mean"}, {"metrics": ("span_log_prob",)}])
@pytest.mark.parametrize("severed", [(), ("mlp", "attn")])
def test_a_trace_runs_the_cells_that_were_counted(changes, severed, tmp_path, monkeypatch):
    from tl_toxmem import causal_trace
    from tl_toxmem.plan.trace import count_trace
    from tl_toxmem.plan.work import Shape

    cfg = config(tmp_path)
    inputs, model = inputs_of(cfg)
    more = {"robustness": False, "severed": severed, "max_memory": 0.01, **changes}
    trace = cfg.trace.model_copy(update=more)
    work = count_trace(model, inputs.prompts.find, None, cfg=trace)
    with counted(monkeypatch) as found:
        causal_trace(model, inputs.prompts.find, cfg=trace, resume=tmp_path / "kept")
    assert work.exact
    assert work.forwards == found["forwards"][""]
    assert work.tokens(Shape.of(model)) == pytest.approx(found["tokens"][""] / model.n_layers)


def test_the_robustness_card_is_counted_at_the_mean_of_two_tokens(tmp_path, monkeypatch):
    from tl_toxmem.plan.trace import count_trace
    from tl_toxmem.trace import check_robustness

    cfg = config(tmp_path)
    inputs, model = inputs_of(cfg)
    both = count_trace(model, inputs.prompts.find, None, cfg=cfg.trace)
    alone = cfg.trace.model_copy(update={"robustness": False})
    card = both.forwards - count_trace(model, inputs.prompts.find, None, cfg=alone).forwards
    with counted(monkeypatch) as found:
        check_robustness(model, inputs.prompts.find, cfg=cfg.trace, resume=tmp_path / "kept")
    assert not both.exact
    assert card == pytest.approx(found["forwards"][""], rel=0.15)


METHODS = ("attribution_patching", "grad_drop", "integrated_gradients", "knowledge_neurons")
METHODS += ("direct_effect", "contrast", "experts", "probe")


@pytest.mark.parametrize("method", METHODS)
def test_scores_take_what_was_counted(method, tmp_path, monkeypatch):
    from tl_toxmem.attribute import Texts, attribute_neurons
    from tl_toxmem.comparators import labelled_from
    from tl_toxmem.plan.attribute import count_attribution
    from tl_toxmem.plan.work import Shape

    cfg = config(tmp_path)
    inputs, model = inputs_of(cfg)
    find = inputs.prompts.find.first(4)
    labelled = labelled_from(find, inputs.benign_find.first(8))
    labelled += labelled_from(inputs.prompts.report, inputs.benign_find.first(8))
    texts = Texts(benign=inputs.benign_find.first(3), labelled=labelled)
    own = {"method": method, "steps": 3, "verify_top": 0, "verify_random": 0}
    attribute = cfg.attribute.model_copy(update=own)
    work = count_attribution(model, find, cfg=attribute, texts=texts)
    with counted(monkeypatch) as found:
        attribute_neurons(model, find, cfg=attribute, texts=texts)
    assert work.exact
    assert work.forwards == found["forwards"][""]
    assert work.tokens(Shape.of(model)) == pytest.approx(found["tokens"][""] / model.n_layers)


def test_ablating_everything_is_counted_exactly(load, prompts, monkeypatch):
    from tl_toxmem.attribute import attribute_neurons
    from tl_toxmem.attribute.texts import Texts
    from tl_toxmem.config import AttributeConfig
    from tl_toxmem.plan.attribute import count_attribution
    from tl_toxmem.plan.work import Shape

    model = load("hooked")
    cfg = AttributeConfig(method="ablation", verify_top=0, verify_random=0)
    work = count_attribution(model, prompts, cfg=cfg, texts=Texts())
    with counted(monkeypatch) as found:
        attribute_neurons(model, prompts, cfg=cfg)
    assert work.forwards == found["forwards"][""]
    assert work.tokens(Shape.of(model)) == pytest.approx(found["tokens"][""] / model.n_layers)


def test_operations_by_hand():
    from tl_toxmem.plan.work import Pass, Shape, whole

    shape = Shape(**SHAPE)
    assert shape.layer == 4 * 8 * 8 + 2 * 8 * 32
    one = whole(shape, "forward", 3, 5, kept=1, times=2)
    products, attention = 2 * 768 * 3 * 5 * 2, 4 * 8 * 3 * 5 * 5 * 2
    assert one.operations(shape) == 2 * (products + attention + 3 * 2 * 8 * 50)
    assert one.tokens(shape) == 2 * 3 * 5
    back = whole(shape, "backward", 3, 5, kept=1)
    assert back.operations(shape) == 2 * products + 3 * attention + 2 * 3 * 2 * 8 * 50
    part = Pass("sweep", 4, 2, 3, 0, row_layers=6)
    assert part.operations(shape) == 2 * 768 * 6 * 2 + 4 * 8 * 6 * 2 * (3 + 2)
    assert part.tokens(shape) == 6 * 2 / 2


def test_equal_shapes_are_one():
    from tl_toxmem.plan.work import Shape, Tally, whole

    shape = Shape(**SHAPE)
    tally = Tally(shape)
    for new in (4, 5, 4):
        tally.add([whole(shape, "forward", 1, new, kept=1)], times=2)
    work = tally.done("one")
    assert sorted((one.new, one.times) for one in work.passes) == [(4, 4), (5, 2)]
    assert work.forwards == 6


def test_seconds_lie_between_those_of_the_shapes_that_were_timed():
    """At the geometric mean of two sizes the rate is the mean; below the least, time is that of the least."""
    from tl_toxmem.plan.speed import Speeds
    from tl_toxmem.plan.work import Shape, whole

    shape = Shape(**SHAPE)
    ones = [whole(shape, "forward", rows, 4, kept=1) for rows in (2, 4, 8, 1)]
    two, four, eight, one = (x.operations(shape) for x in ones)
    speeds = Speeds({"forward": ((two, eight), (3.0, 1.0))}, text=0.5, shape=shape)
    assert speeds.seconds(ones[:1]) == pytest.approx(3 * two)
    assert speeds.seconds(ones[1:2]) == pytest.approx(2 * four)
    assert speeds.seconds(ones[3:]) == pytest.approx(3 * two)
    assert speeds.seconds([], texts=6) == 3
    half = whole(shape, "forward", 8, 4, kept=1, times=0.5)
    assert speeds.seconds([half]) == pytest.approx(eight / 2)


def test_lengths_of_continuations():
    from tl_toxmem.plan.passes import Lengths, continued
    from tl_toxmem.plan.work import Shape

    ends = Lengths((1.0, 0.5, 0.0))
    assert ends.mean(3) == 1.5
    shape = Shape(**SHAPE)
    found = list(continued(shape, [3, 5], size=2, copies=2, new=4, ends=ends))
    assert [(one.kind, one.rows, one.past) for one in found] == [
        ("forward", 2, 0),
        ("decode", 4, 5),
        ("decode", 2, 6),
    ]


def test_a_comparison_evaluates_every_law(tmp_path):
    from tl_toxmem.comparison import METHODS
    from tl_toxmem.pipeline.inputs import load_model, read_inputs
    from tl_toxmem.plan.passes import Lengths
    from tl_toxmem.plan.planning import count_run

    compare = {"methods": ["ours", "profs", "rome", "gates"], "n_continuations": 2}
    cfg = config(tmp_path / "run", compare=compare, with_comparison=True)
    inputs = read_inputs(cfg)
    model = load_model(cfg, inputs, ["trace", "compare"])
    work = count_run(model, cfg, inputs, Lengths())[-1]
    n_laws = 2 + sum(len(METHODS[name].strengths(model)) for name in compare["methods"])
    without = [p for p in inputs.prompts.find if p.neutral_target is None]
    expected = n_laws * len(inputs.prompts.report) * 2 + len(without) * cfg.compare.alternatives
    assert work.stage == "compare"
    assert work.texts == expected


@pytest.fixture(scope="module")
def small_toml(tmp_path_factory):
    """Little of everything, so that it is planned in a moment."""
    path = tmp_path_factory.mktemp("plan") / "small.toml"
    cfg = config(path.parent / "run", select={"k": 5})
    path.write_text(cfg.to_toml(), encoding="utf-8")
    return path


def test_the_command_plans_and_writes_nothing(small_toml, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from tl_toxmem.cli import app

    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["plan", str(small_toml), "--workers", "2", "--json"])
    assert found.exit_code == 0, found.output
    values = json.loads(found.output)
    assert values["estimated"] is True
    names = [stage["stage"] for stage in values["stages"]]
    assert names == ["trace", "attribute", "select", "evaluate", "export"]
    by_name = {stage["stage"]: stage for stage in values["stages"]}
    for name, share in (("trace", 2), ("evaluate", 2), ("select", 1), ("export", 1)):
        hours = by_name[name]["hours"]
        assert hours > 0
        assert by_name[name]["hours_of_workers"] == pytest.approx(hours / share)
    assert list(tmp_path.iterdir()) == []
    assert [p.name for p in small_toml.parent.iterdir()] == ["small.toml"]


def test_the_table_says_what_is_expected(capsys):
    from tl_toxmem.cli.console import results_console
    from tl_toxmem.cli.plan import duration, show
    from tl_toxmem.plan import Plan, StageCost

    one = StageCost("trace", 3.0, 40.0, 1e9, 1e9, 2.0, 1.0, ("a token: the mean of both",))
    show(results_console(), Plan("demo", 2, (one,), 4.0))
    printed = capsys.readouterr().out
    assert "2.0 h" in printed
    assert "2 workers" in printed
    assert "All of it is estimated" in printed
    assert "trace: expected, not determined: a token: the mean of both." in printed
    assert [duration(x) for x in (30.0, 0.1, 0.001)] == ["30.0 h", "6.0 min", "3.6 s"]


def test_a_mining_is_planned(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from tl_toxmem.cli import app
    from tl_toxmem.model import demo_folder

    monkeypatch.chdir(tmp_path)
    lines = (demo_folder() / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    file = tmp_path / "candidates.jsonl"
    texts = [json.dumps({"prompt": json.loads(line)["prompt"]}) for line in lines]
    file.write_text("\n".join(texts), encoding="utf-8")
    words = ["plan", "--model", "demo", "--candidates", str(file), "--set", "samples=2", "--json"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    (stage,) = json.loads(found.output)["stages"]
    assert stage["stage"] == "mine"
    assert stage["forwards"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["candidates.jsonl"]


def test_a_mistake_is_one_line(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from tl_toxmem.cli import app

    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["plan", "--model", "demo", "--set", "trace.windoww=3"])
    assert found.exit_code == 1
    assert "trace.windoww: unknown setting" in found.output
    assert len(found.output.strip().splitlines()) == 1


def test_planning_asks_nothing_of_weights(tmp_path):
    """The same counts from a model whose weights are all zero."""
    import torch

    from tl_toxmem.plan.passes import Lengths
    from tl_toxmem.plan.planning import count_run

    cfg = config(tmp_path / "run")
    inputs, model = inputs_of(cfg)
    before = count_run(model, cfg, inputs, Lengths())
    with torch.no_grad():
        for parameter in model.host.raw.parameters():
            parameter.data = torch.zeros_like(parameter)
    assert count_run(model, cfg, inputs, Lengths()) == before


def test_sampled_lengths_are_those_of_continuations(tmp_path):
    from tl_toxmem.continuations import continue_prompts
    from tl_toxmem.plan.speed import sampled_lengths

    cfg = config(tmp_path / "run")
    inputs, model = inputs_of(cfg)
    few = cfg.evaluate.model_copy(update={"n_continuations": 2})
    found = sampled_lengths(model, inputs.prompts.find, cfg=few)
    said = continue_prompts(model, inputs.prompts.find, cfg=few).tokens
    lengths = defaultdict(int)
    for own in said:
        for row in own:
            lengths["n"] += 1
            lengths["total"] += len(row)
    assert found.mean(few.max_new_tokens) == pytest.approx(lengths["total"] / lengths["n"])


def test_what_is_planned_of_many_prompts_holds_no_cells(tmp_path):
    """A plan is as large for all cells as for those of one token; the cells are made when asked for."""
    import pickle

    from tl_toxmem.trace import plan_trace

    cfg = config(tmp_path / "run")
    inputs, model = inputs_of(cfg)
    plans = {
        where: plan_trace(
            model,
            inputs.prompts.find,
            cfg=cfg.trace.model_copy(update={"positions": where, "parts": False, "severed": ()}),
        )
        for where in ("last", "all")
    }
    (last, *_), (every, *_) = plans.values()
    assert len(every.cells) > 3 * len(last.cells) > 0
    assert len(pickle.dumps(every)) < 1.2 * len(pickle.dumps(last))


def test_intervals_are_the_same_in_any_batches(monkeypatch):
    """Bit for bit, so that memory need not grow with prompts."""
    import numpy as np

    from tl_toxmem import stats

    values = np.random.default_rng(0).normal(size=40)
    whole = stats.mean_estimate(values, seed=3)
    monkeypatch.setattr(stats, "_AT_ONCE", 40 * 7)
    assert stats.mean_estimate(values, seed=3) == whole
