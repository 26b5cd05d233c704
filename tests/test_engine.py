"""Work over prompts by other engines: what an engine may do, and what a worker refuses; for Ray see its own file."""

import os
import pickle
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import torch


class Elsewhere:
    """An engine whose workers are copies of the model; all that is sent is pickled, and the last item is done first.

    A fake, so that what an engine may do is tried without any Ray.
    """

    def __init__(self, other, *, forgets=False):
        self.other, self.done, self.forgets = other, 0, forgets

    def map(self, model, work, items, advance):
        assert model.only_edited
        sent = pickle.dumps((work, model.edits))
        work, edits = pickle.loads(sent)
        found, sizes = {}, []
        for i in reversed(range(len(items))):
            if self.forgets:  # a worker that died has kept nothing
                work, edits = pickle.loads(sent)
            with ExitStack() as stack:
                for edit in edits:
                    stack.enter_context(edit.applied(self.other))
                result = work(self.other, pickle.loads(pickle.dumps(items[i])), sizes.append)
            found[i] = pickle.loads(pickle.dumps(result))
        self.done += len(items)
        advance(sum(sizes))
        yield from (found[i] for i in range(len(items)))

    def facts(self):
        return {"engine": "elsewhere"}


@contextmanager
def working(model, engine):
    before, model.engine = model.engine, engine
    yield engine
    model.engine = before


def everything(model, prompts, neutral):
    """One of each kind of work: trace, every method, costs, ablations, losses, samples, an evaluation."""
    from tl_toxmem import (
        Deletion,
        NeuronSet,
        Texts,
        attribute_neurons,
        causal_trace,
        evaluate,
        load_scorer,
    )
    from tl_toxmem.attribute import METHODS
    from tl_toxmem.attribute.ablation import measure_ablations
    from tl_toxmem.config import AttributeConfig, EvaluateConfig, TraceConfig

    found = {}
    for screen in ("none", "bfloat16"):
        cfg = TraceConfig(n_noise=2, screen=screen, max_memory=0.002, window=1)
        trace = causal_trace(model, prompts, cfg=cfg)
        found[f"trace {screen}"] = [trace.restored, trace.corrupted, trace.parts, trace.exact]
    texts = Texts(neutral=neutral, benign=prompts)
    for method in set(METHODS) - {"experts", "probe"}:
        cfg = AttributeConfig(method=method, batch_size=1, n_noise=2, verify_top=2, verify_random=2)
        scores = attribute_neurons(model, prompts, cfg=cfg, texts=texts)
        found[method] = [scores.per_prompt, scores.cost, scores.loudness]
        found[method].append(scores.verification.measured)
    chosen = NeuronSet.top(scores, 3)
    law = Deletion.zero(chosen)
    with law.applied(model):
        found["under a deletion"] = [measure_ablations(model, prompts, [(0, 1), (1, 2)])]
    gains = lambda some: Deletion.input_gain(some, torch.full((len(some),), 0.5))  # noqa: E731
    found["one by one"] = [measure_ablations(model, prompts, list(chosen), law=gains)]
    evaluation = evaluate(
        model,
        prompts,
        scorers=[load_scorer("profanity")],
        deletions={"law": law},
        neutral=neutral,
        benign=prompts,
        cfg=EvaluateConfig(n_continuations=2, max_new_tokens=3, batch_size=2),
    )
    return found, evaluation.to_json()


NEUTRAL = ["the cat sat on the mat", "rain fell on the town", "a b c d e f", "what now then"]


@pytest.mark.parametrize("forgets", [False, True])
def test_all_work_can_be_done_elsewhere_in_any_order(load, prompts, forgets):
    model = load()
    plain, evaluation = everything(model, prompts, NEUTRAL)
    with working(model, Elsewhere(load(), forgets=forgets)) as engine:
        other, again = everything(model, prompts, NEUTRAL)
    assert engine.done > 40
    assert plain.keys() == other.keys()
    for name, tensors in plain.items():
        for one, two in zip(tensors, other[name], strict=True):
            assert torch.equal(one.nan_to_num(7), two.nan_to_num(7)), name
    assert evaluation == again


@pytest.mark.parametrize("stage", ["trace", "gradient", "ablation", "evaluate"])
def test_a_worker_divides_what_does_not_fit_it(load, prompts, monkeypatch, caplog, stage):
    from test_careful import STAGES, TOLERANCE, crowded

    model, other = load(dtype=torch.float64), load(dtype=torch.float64)
    whole = STAGES[stage](model, prompts)
    failed = crowded(other, monkeypatch, 2)
    with working(model, Elsewhere(other)):
        divided = STAGES[stage](model, prompts)
    assert failed and "out of memory for " in caplog.text
    for one, two in zip(whole, divided, strict=True):
        close = {"atol": TOLERANCE, "rtol": TOLERANCE, "equal_nan": True}
        assert torch.allclose(one.double(), two.double(), **close)


@pytest.mark.parametrize("stage", ["trace", "gradient", "ablation", "evaluate"])
def test_a_worker_says_where_numbers_are_not_finite(load, prompts, stage):
    from test_careful import STAGES, broken

    from tl_toxmem import ToxmemError

    model, other = load(), load()
    where = r"(prompt|text) .*layer 1, blocks.1.mlp.hook_post"
    with (
        working(model, Elsewhere(other)),
        broken(other),
        pytest.raises(ToxmemError, match=where),
    ):
        STAGES[stage](model, prompts)


def test_edits_are_known_while_they_are_in_force_and_other_hooks_are_told_from_them(load):
    from tl_toxmem import Deletion, NeuronSet

    model = load()
    first, second = (
        Deletion.zero(NeuronSet(((0, i),), model.n_layers, model.d_mlp)) for i in (1, 2)
    )
    assert model.edits == () and model.only_edited
    with first.applied(model):
        with pytest.raises(KeyError), second.applied(model):
            assert model.edits == (first, second) and model.only_edited
            raise KeyError
        assert model.edits == (first,) and model.only_edited
        with model.hooks([("mlp_post", 0, lambda x: x)]):
            assert not model.only_edited
    assert model.edits == () and model.only_edited


def test_wrong_settings_are_refused_in_a_line():
    from tl_toxmem import ToxmemError
    from tl_toxmem.engine import EngineSettings

    for wrong, message in [
        ({"kind": "spark"}, "unknown engine 'spark': choose from local, ray"),
        ({"num_workers": 2}, "the local engine has no workers"),
        ({"gpus_per_worker": 1.0}, "the local engine has no workers"),
        ({"kind": "ray", "num_workers": 0}, "the number of workers is 0"),
        ({"kind": "ray", "gpus_per_worker": -1.0}, "GPUs per worker are -1"),
    ]:
        with pytest.raises(ToxmemError, match=message) as error:
            EngineSettings(**wrong)
        assert "\n" not in str(error.value)


def test_without_ray_the_extra_is_named(monkeypatch):
    from tl_toxmem import ToxmemError
    from tl_toxmem.engine import EngineSettings

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with pytest.raises(ToxmemError, match=r"pip install 'tl-toxmem\[ray\]'"):
        EngineSettings("ray")


def test_a_worker_takes_no_other_model(tmp_path, gpt2_folder, monkeypatch):
    """Other files, other versions, and a model that was changed in memory after it was loaded."""
    import shutil

    from tl_toxmem import LensModel, ToxmemError
    from tl_toxmem.engines.worker import Worker, like

    monkeypatch.setattr(os, "environ", os.environ.copy())
    folder = tmp_path / "model"
    shutil.copytree(gpt2_folder, folder)
    model = LensModel.from_pretrained(folder)
    wanted = like(model)
    assert Worker(wanted, 1, {}).ready() == os.getpid()
    for changed, message in [
        (replace(wanted, fingerprint="0" * 64), "is not the driver's model"),
        (replace(wanted, versions={**wanted.versions, "torch": "1.0"}), "another version of torch"),
    ]:
        with pytest.raises(ToxmemError, match=message):
            Worker(changed, 1, {}).ready()
    with torch.no_grad():
        model.value_vectors(0).mul_(3)
    with pytest.raises(ToxmemError, match="it was changed in memory"):
        Worker(like(model), 1, {}).ready()


def test_workers_need_a_model_that_lies_in_a_file_and_has_no_hooks(load, gpt2_folder):
    from conftest import byte_tokenizer

    from tl_toxmem import Deletion, LensModel, NeuronSet, ToxmemError
    from tl_toxmem.engines.worker import like

    model = load()
    with (
        Deletion.zero(NeuronSet(((0, 0),), model.n_layers, model.d_mlp)).applied(model),
        pytest.raises(ToxmemError, match="hooks are attached"),
    ):
        like(model)
    given = LensModel.from_pretrained(gpt2_folder, tokenizer=byte_tokenizer())
    for other in (given, LensModel.from_pretrained(model.clean_hf(), tokenizer=byte_tokenizer())):
        with pytest.raises(ToxmemError, match="workers load the model from its checkpoint"):
            like(other)


def test_a_run_says_which_engine_made_a_stage(finished):
    import json

    engines = json.loads((finished / "provenance.json").read_text())["engines"]
    assert set(engines) == {
        "prompts",
        "trace",
        "attribute",
        "select",
        "delete",
        "evaluate",
        "export",
    }
    assert all(one == {"engine": "local"} for one in engines.values())
