"""Whatever a stage raises, and wherever: no hook is left, and the model is bit for bit what it was."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_comparison import material, protocol
from test_gates import NEUTRAL, learn, scored  # noqa: F401 - a fixture
from test_select import Vowels


class Odd(Vowels):
    """A judge that dislikes capitals and figures, which a random model says soon."""

    disliked = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")

    def score(self, texts):
        return torch.tensor([1.0 if set(text) & self.disliked else 0.25 for text in texts])


class Stop(Exception):
    """Raised in the middle of a stage."""


def state(model):
    """Everything of a model that a stage could leave changed."""
    raw = model.host.raw
    values = {name: value.clone() for name, value in raw.state_dict().items()}
    flags = [(name, p.requires_grad, p.grad is None) for name, p in raw.named_parameters()]
    hooks = [
        (name, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for name, m in raw.named_modules()
    ]
    points = [(name, len(point.fwd_hooks)) for name, point in model.host.points.items()]
    return values, (flags, hooks, points, raw.training, torch.is_grad_enabled())


def same(first, second):
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name


def trace(model, prompts, scores):
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    causal_trace(model, prompts.first(1), cfg=TraceConfig(n_noise=1, severed=["mlp"]))


def attribute(method):
    def stage(model, prompts, scores):
        from tl_toxmem import AttributeConfig, attribute_neurons

        cfg = AttributeConfig(method=method, steps=2, verify_top=3, verify_random=3)
        attribute_neurons(model, prompts, neutral=NEUTRAL, cfg=cfg)

    return stage


def measure(model, prompts, scores):
    from tl_toxmem import Deletion, NeuronSet, evaluate

    neurons = NeuronSet(((0, 1), (2, 5)), model.n_layers, model.d_mlp)
    deletions = {"a": Deletion.zero(neurons), "b": Deletion.input_gain(neurons, 0.5)}
    evaluate(
        model, prompts, scorers=[Vowels()], deletions=deletions, neutral=NEUTRAL, cfg=protocol()
    )


def gates(model, prompts, scores):
    learn(model, prompts, scores, [0.05], n=8, steps=3)


def method(name):
    def stage(model, prompts, scores):
        from tl_toxmem.comparison import METHODS
        from tl_toxmem.config import ComparatorConfig

        own = METHODS[name]
        strengths = own.strengths(model)[:1]
        own.make(
            model, material(model, prompts, scores), strengths=strengths, cfg=ComparatorConfig()
        )

    return stage


def mining(model, prompts, scores):
    from tl_toxmem import mine
    from tl_toxmem.config import MineConfig

    cfg = MineConfig(samples=3, max_new_tokens=12, least=1)
    who = ("bob", "ulm", "the town", "she", "he", "it", "that", "a")
    texts = [f"{one} is {what}" for one in who for what in "abcdef"]
    mine(model, texts, scorer=Odd(), cfg=cfg)


def how_many(model, prompts, scores):
    from tl_toxmem import choose_k
    from tl_toxmem.config import SelectConfig

    cfg = SelectConfig(max_k=2, n_continuations=2, max_perplexity_increase=1.0)
    choose_k(model, prompts, scores, neutral=NEUTRAL, scorer=Odd(), cfg=cfg, protocol=protocol())


def greedily(model, prompts, scores):
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.select import select_greedily

    cfg = SelectConfig(method="greedy", k=4)
    select_greedily(model, prompts, scores, cfg=cfg)


def cards(model, prompts, scores):
    from tl_toxmem import neuron_cards

    neuron_cards(model, prompts, [(0, 1), (2, 5)], scores=scores, max_new_tokens=2)


def ablations(model, prompts, scores):
    from tl_toxmem.attribute import measure_ablations

    measure_ablations(model, prompts, [(0, 1), (1, 3), (2, 5)])


def comparator(name):
    def stage(model, prompts, scores):
        from tl_toxmem.comparators import Material
        from tl_toxmem.comparison import METHODS
        from tl_toxmem.config import ComparatorConfig, RomeConfig

        parts = {p.id: " then" for p in prompts}
        given = Material(
            prompts=prompts, neutral=NEUTRAL, scores=scores, alternatives=parts, traced_layer=1
        )
        cfg = ComparatorConfig(rome=RomeConfig(prefixes=1, prefix_tokens=(2, 3), steps=2))
        strengths = METHODS[name].strengths(model)[:1]
        METHODS[name].make(model, given, strengths=strengths, cfg=cfg)

    return stage


def regression(model, prompts, scores):
    from tl_toxmem import causal_trace
    from tl_toxmem.comparison.regression import trace_regression
    from tl_toxmem.config import TraceConfig

    cfg = TraceConfig(n_noise=1, sites=["mlp_out"])
    found = causal_trace(model, prompts, cfg=cfg)
    trace_regression(model, prompts, found, scores, k=2)


def export(model, prompts, scores):
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from tl_toxmem import Deletion, NeuronSet, export_checkpoint
    from tl_toxmem.config import ExportConfig

    neurons = NeuronSet(((0, 1), (2, 5)), model.n_layers, model.d_mlp)
    texts, cfg = [prompt.prompt for prompt in prompts], ExportConfig(max_new_tokens=3)
    with TemporaryDirectory() as place:
        try:
            export_checkpoint(
                model, Deletion.zero(neurons), Path(place) / "out", prompts=texts, cfg=cfg
            )
        except Stop:
            assert not list(Path(place).iterdir())
            raise


STAGES = {
    "trace": trace,
    "gradient": attribute("gradient"),
    "integrated_gradients": attribute("integrated_gradients"),
    "grad_drop": attribute("grad_drop"),
    "evaluate": measure,
    "gates": gates,
    "aura": method("aura"),
    "value_vectors": method("value_vectors"),
    "rome": comparator("rome"),
    "profs": comparator("profs"),
    "regression": regression,
    "mining": mining,
    "how_many": how_many,
    "greedily": greedily,
    "cards": cards,
    "ablations": ablations,
    "export": export,
}
CALLS = {}
"""Of a stage that is not stopped, how often a hook is called, or a block."""


@contextmanager
def counted(model, kind, stop):
    """Count the calls of hooks, or of blocks, and raise at the call `stop`."""
    from tl_toxmem.model import running

    made = [0]

    def count():
        if made[0] == stop:
            raise Stop
        made[0] += 1

    with pytest.MonkeyPatch.context() as patch:
        if kind == "hook":
            plain = running._as_lens_hook

            def as_counted(fn):
                hooked = plain(fn)

                def run(activation, hook):
                    count()
                    return hooked(activation, hook)

                return run

            patch.setattr(running, "_as_lens_hook", as_counted)
        else:
            block = type(model.host.raw.blocks[0])
            forward = block.forward

            def stopping(self, *args, **kwargs):
                count()
                return forward(self, *args, **kwargs)

            patch.setattr(block, "forward", stopping)
        yield made


@pytest.mark.parametrize("stage", STAGES)
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(where=st.floats(0, 1, exclude_max=True), kind=st.sampled_from(["hook", "block"]))
def test_a_stage_that_is_stopped_anywhere_leaves_the_model_as_it_was(
    scored,  # noqa: F811
    prompts,
    stage,
    where,
    kind,
):
    model, scores = scored
    before = state(model)
    if (stage, kind) not in CALLS:
        with counted(model, kind, None) as made:
            STAGES[stage](model, prompts, scores)
        CALLS[stage, kind] = made[0]
        assert made[0] or kind == "hook", "nothing runs that could be stopped"
        same(before, state(model))
    calls = CALLS[stage, kind]
    if calls:
        with counted(model, kind, int(where * calls)), pytest.raises(Stop):
            STAGES[stage](model, prompts, scores)
        same(before, state(model))
