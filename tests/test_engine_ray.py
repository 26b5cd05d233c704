"""Runs on two local workers of Ray give the bytes that one process gives, also when workers are killed.

The workers get the very batches of the one process and have its one thread, so equal means bit for bit. One Ray with
two CPUs serves the module, and one pair of workers all tests of the demo.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from test_mining_texts import Words
from test_smollm2 import folder as smollm2  # noqa: F401 - a fixture

from tl_toxmem.engine import EngineSettings

pytest.importorskip("ray")

SMALL = {
    "split": {"max_find": 8, "max_report": 8},
    "trace": {"sites": ["mlp_out"], "max_prompts": 5, "n_noise": 2, "robustness": False},
    "attribute": {
        "verify_top": 4,
        "verify_random": 4,
        "verify_prompts": 8,
        "max_cost_tokens": 600,
        "batch_size": 2,
    },
    "select": {"k": 6, "cards": 1},
    "evaluate": {
        "n_continuations": 2,
        "max_new_tokens": 4,
        "max_neutral_tokens": 600,
        "batch_size": 4,
    },
}
MADE = ("1_prompts.jsonl", "2_trace.safetensors", "3_scores.safetensors", "4_neurons.json")
MADE += ("5_deletion.safetensors", "6_evaluation.json")
MINING = {"samples": 2, "share": 0.5, "max_new_tokens": 5, "least": 1, "batch_size": 8}

WITH_COPY = 1.5
"""Of the weights, 0.54 GB: libraries take about 0.4 GB, so a worker that also copied the weights would have more."""


@pytest.fixture(scope="module")
def session():
    """A Ray with two CPUs, however many there are."""
    from tl_toxmem.engines.ray import import_ray

    ray = import_ray()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=256 * 2**20,
    )
    # Workers do not find test modules; what stands in this one goes to them as it is.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


class Standing(EngineSettings):
    """Settings of an engine that stands already, for every model that its workers have."""

    def __init__(self, engine):
        super().__init__()
        object.__setattr__(self, "engine", engine)

    @contextmanager
    def on(self, model):
        before, model.engine = model.engine, self.engine
        try:
            yield self.engine
        finally:
            model.engine = before


@pytest.fixture(scope="class", autouse=True)
def many_groups():
    """Prompts are traced one by one: a stop falls between the pieces of a job."""
    from tl_toxmem.trace import causal

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal, "_MOST_PROMPTS", 1)
        yield


@pytest.fixture(scope="class")
def engine(session):
    from tl_toxmem import LensModel
    from tl_toxmem.engines.ray import RayEngine

    with RayEngine(LensModel.from_pretrained("demo"), num_workers=2) as engine:
        yield engine


@pytest.fixture(scope="class")
def plain(tmp_path_factory, many_groups):
    """What one process makes."""
    return made(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="class")
def demo():
    from tl_toxmem import LensModel

    return LensModel.from_pretrained("demo")


class TestDemo:
    def test_two_workers_give_the_artefacts_of_one_process(self, engine, plain, tmp_path):
        import json

        before = engine.jobs
        assert made(tmp_path / "ray", Standing(engine)) == plain
        assert engine.jobs >= before + 10
        said = json.loads((tmp_path / "ray" / "provenance.json").read_text())["engines"]
        assert said["trace"] == engine.facts()
        assert {"engine": "ray", "workers": 2, "cpus_per_worker": 1}.items() <= said[
            "trace"
        ].items()

    def test_workers_killed_in_the_middle_change_nothing(self, engine, plain, tmp_path):
        """Both, one after the other, each while it and the other one have items of a job."""
        gone = current(engine)
        left = list(gone)
        plainly, jobs = engine.map, []

        def killing(model, work, items, advance):
            at = engine.jobs
            for i, result in enumerate(plainly(model, work, items, advance)):
                kind = type(work).__name__
                if engine.jobs > at and i == 0 and len(items) > 3 and kind not in jobs and left:
                    os.kill(left.pop(), signal.SIGKILL)
                    jobs.append(kind)
                yield result

        engine.map = killing
        try:
            assert made(tmp_path / "killed", Standing(engine)) == plain
        finally:
            del engine.map
        assert jobs == ["_Tracing", "_Whole"] and set(current(engine)).isdisjoint(gone)

    @pytest.mark.parametrize("first", ["ray", "local"])
    def test_a_run_begun_by_one_engine_is_ended_by_the_other(
        self, engine, plain, tmp_path, monkeypatch, first
    ):
        from tl_toxmem.trace.results import Kept

        engines = {"ray": Standing(engine), "local": None}
        begun, ended = engines.pop(first), *engines.values()
        add, added = Kept.add, []

        def stopped(self, item, result):
            add(self, item, result)
            added.append(item.prompt.id)
            if len(added) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(Kept, "add", stopped)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, begun)
        assert len(list((tmp_path / "2_trace.parts").iterdir())) == 2
        assert made(tmp_path, ended) == plain
        assert len(added) == len(set(added)), "what was traced is not traced again"

    def test_mining_begun_by_one_engine_is_ended_by_the_other(self, engine, tmp_path):
        from tl_toxmem import LensModel, PromptSet, mine
        from tl_toxmem.config import MineConfig
        from tl_toxmem.model import demo_folder

        every = PromptSet.read(demo_folder() / "prompts.jsonl").first(16)
        texts = [prompt.prompt for prompt in every]
        texts += [p.prompt for p in PromptSet.read(demo_folder() / "benign.jsonl").first(8)]
        words = sorted({word for p in every for word in p.target.strip(" .").split()})
        model, cfg = LensModel.from_pretrained("demo"), MineConfig(**MINING)

        class Stops(Words):
            calls = 0

            def score(self, texts):
                self.calls += 1
                if self.calls > 4:
                    raise KeyboardInterrupt
                return super().score(texts)

        mine(model, texts, scorer=Words(*words), cfg=cfg, folder=tmp_path / "plain")
        for begun, ended in ((engine, model.engine), (model.engine, engine)):
            out = tmp_path / type(begun).__name__
            with Standing(begun).on(model), pytest.raises(KeyboardInterrupt):
                mine(model, texts, scorer=Stops(*words), cfg=cfg, folder=out)
            assert len(list((out / "parts").iterdir())) >= 1
            before = engine.jobs
            with Standing(ended).on(model):
                mine(model, texts, scorer=Words(*words), cfg=cfg, folder=out)
            assert (engine.jobs > before) == (ended is engine)
            for name in ("prompts.jsonl", "benign.jsonl", "mining.json"):
                assert (out / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()

    def test_what_a_worker_raises_is_raised_here(self, engine, demo):
        from tl_toxmem import ToxmemError

        with Standing(engine).on(demo):
            with pytest.raises(ToxmemError, match="^no such thing: 1$"):
                list(engine.map(demo, refuses, [1, 1, 1], float))
            with pytest.raises(ZeroDivisionError, match="in divides"):
                list(engine.map(demo, divides, [0, 0], float))
            assert list(engine.map(demo, divides, [1, 2, 4], float)) == [1.0, 0.5, 0.25]

    def test_what_ray_itself_raises_is_a_line(self, engine, demo, monkeypatch):
        import ray

        from tl_toxmem import ToxmemError

        def full(pool):
            raise ray.exceptions.OutOfDiskError("no\nroom")

        monkeypatch.setattr(ray.util.ActorPool, "get_next_unordered", full)
        with (
            Standing(engine).on(demo),
            pytest.raises(ToxmemError, match=r"^Ray gave up \(OutOfDiskError: .*no room.*local$"),
        ):
            list(engine.map(demo, divides, [1, 2], float))

    def test_what_a_worker_says_is_said_here(self, engine, demo, caplog):
        with Standing(engine).on(demo):
            assert list(engine.map(demo, says, ["one", "two"], float)) == [3, 3]
        said = sorted(record.getMessage() for record in caplog.records)
        assert said == [f"tl-toxmem: {word} [a worker of Ray]" for word in ("one", "two")]

    def test_what_other_hooks_are_attached_to_is_done_here(self, engine, demo):
        before = engine.jobs
        with demo.hooks([("mlp_post", 0, lambda x: x)]):
            assert list(engine.map(demo, process, [1, 2], float)) == [os.getpid()] * 2
        assert engine.jobs == before
        assert os.getpid() not in engine.map(demo, process, [1, 2], float)

    def test_no_more_workers_than_there_is_room_for(self, session, demo):
        from tl_toxmem import ToxmemError
        from tl_toxmem.engines.ray import RayEngine

        with pytest.raises(ToxmemError, match="room for 2 workers of a CPU each, not 3"):
            RayEngine(demo, num_workers=3).__enter__()
        with pytest.raises(ToxmemError, match="give --device cuda with --gpus-per-worker 1"):
            RayEngine(demo, gpus_per_worker=1)


def test_a_ray_without_tokens_is_refused():
    import ray

    from tl_toxmem import ToxmemError
    from tl_toxmem.engines.ray import check_asks_for_token

    check_asks_for_token(ray.__version__)
    with pytest.raises(ToxmemError, match="Ray 2.51.1 takes work from anybody"):
        check_asks_for_token("2.51.1")


class TestAddress:
    """Another process finds the session's Ray by RAY_ADDRESS, and no other."""

    def test_a_cluster_is_used(self, session):
        address = session.get_runtime_context().gcs_address
        script = (
            "import os; from tl_toxmem import LensModel; from tl_toxmem.engines.ray import RayEngine\n"
            "def process(model, item, advance): return os.getpid()\n"
            "model = LensModel.from_pretrained('demo')\n"
            "with RayEngine(model, num_workers=1) as engine:\n"
            "    found = set(engine.map(model, process, [1, 2], float))\n"
            "    print(engine.facts()['workers'], found == set(engine.pids), os.getpid() in found)\n"
        )
        done = elsewhere(script, address)
        assert done.stdout.split() == ["1", "True", "False"], done.stderr

    def test_none_is_a_line(self):
        script = (
            "from tl_toxmem import LensModel; from tl_toxmem.engines.ray import RayEngine\n"
            "RayEngine(LensModel.from_pretrained('demo')).__enter__()\n"
        )
        done = elsewhere(script, "nonsense")
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1 and "no Ray at RAY_ADDRESS = nonsense" in last, done.stderr


def elsewhere(script, address):
    """A script in a process that is told of a Ray."""
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )


class TestSmolLM2:
    """A real pretrained model, mined, attributed and evaluated on 20 prompts; the workers share its memory."""

    def test_two_workers_equal_one_process(self, session, smollm2):  # noqa: F811
        from tl_toxmem import LensModel
        from tl_toxmem.engine import EngineSettings

        model = LensModel.from_pretrained(smollm2)
        plain = study(model)
        with EngineSettings("ray", num_workers=2).on(model) as engine:
            weights = (smollm2 / "model.safetensors").stat().st_size
            assert all(own_memory(pid) < WITH_COPY * weights for pid in engine.pids)
            assert equal(study(model), plain)
            assert (
                engine.jobs >= 4
            )  # samples, gradients, continuations under both edits at the least


def made(out, engine=None):
    """The artefacts of a run."""
    from tl_toxmem import run
    from tl_toxmem.config import make_config

    cfg = make_config({"model": "demo", "out": str(out), **SMALL})
    run(cfg, until="evaluate", engine=engine)
    return {name: (out / name).read_bytes() for name in MADE}


def current(engine):
    """The processes of the workers as they are now; all of them, as Ray gives items to whoever waits."""
    import ray

    return ray.get([actor.ready.remote() for actor in engine._actors])


def refuses(model, item, advance):
    from tl_toxmem import ToxmemError

    raise ToxmemError(f"no such thing: {item}")


def divides(model, item, advance):
    return 1 / item


def says(model, item, advance):
    from tl_toxmem.notice import notice

    notice(item)
    return len(item)


def process(model, item, advance):
    return os.getpid()


def study(model):
    """20 prompts that the model is asked to go on with, scored and evaluated, small."""
    from tl_toxmem import Deletion, NeuronSet, Prompt, PromptSet, attribute_neurons, evaluate
    from tl_toxmem.config import AttributeConfig, EvaluateConfig, MineConfig
    from tl_toxmem.mining.parts import Parts
    from tl_toxmem.mining.sampling import sample

    judge = Words("a", "o")
    names = [
        "teacher",
        "baker",
        "farmer",
        "sailor",
        "doctor",
        "nurse",
        "clerk",
        "painter",
        "singer",
        "cook",
    ]
    texts = [f"The {name} {verb} the" for name in names for verb in ("saw", "said that")]
    mining = MineConfig(samples=2, max_new_tokens=3, batch_size=20)
    said = sample(
        model, texts, scorer=judge, cfg=mining, parts=Parts(None, "sampled"), description=""
    )
    prompts = PromptSet.of(Prompt(prompt=text, target=" man") for text in texts)
    cfg = AttributeConfig(verify_top=1, verify_random=1, verify_prompts=4, batch_size=5)
    scores = attribute_neurons(model, prompts, cfg=cfg)
    evaluation = evaluate(
        model,
        prompts,
        scorers=[judge],
        deletions={"three": Deletion.zero(NeuronSet.top(scores, 3))},
        neutral=["The sea was calm and the boats came home before night.", "It rained all day."],
        cfg=EvaluateConfig(
            n_continuations=1,
            max_new_tokens=3,
            batch_size=10,
            measures=("toxicity_rate", "neutral_perplexity", "kl_neutral"),
        ),
    )
    tensors = [scores.per_prompt, scores.verification.measured]
    return tensors, (said, evaluation.to_json())


def equal(one, other):
    same = all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    return same and one[1] == other[1]


def own_memory(pid):
    """Bytes that are no pages of a file: what a process has copied, computed, or keeps of its libraries."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])
