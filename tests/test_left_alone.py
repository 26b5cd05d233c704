"""Whatever a stage raises, and wherever: no hook is left, and the model is bit for bit what it was."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_comparison import material, protocol
from test_gates import NEUTRAL, learn, scored  # noqa: F401 - a fixture
from test_select import Vowels


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


STAGES = {
    "trace": trace,
    "gradient": attribute("gradient"),
    "integrated_gradients": attribute("integrated_gradients"),
    "grad_drop": attribute("grad_drop"),
    "evaluate": measure,
    "gates": gates,
    "aura": method("aura"),
    "value_vectors": method("value_vectors"),
}
MOST_CALLS = 60
"""Later calls than most stages make: then nothing is raised, and the model must be as it was all the same."""


@pytest.mark.parametrize("stage", STAGES)
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(n=st.integers(0, MOST_CALLS), kind=st.sampled_from(["hook", "block"]))
def test_a_stage_that_is_stopped_anywhere_leaves_the_model_as_it_was(
    scored,  # noqa: F811
    prompts,
    stage,
    n,
    kind,
):
    from tl_toxmem.model import running

    model, scores = scored
    before, left = state(model), [n]

    def count():
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        if kind == "hook":
            plain = running._as_lens_hook

            def counted(fn):
                hooked = plain(fn)

                def run(activation, hook):
                    count()
                    return hooked(activation, hook)

                return run

            patch.setattr(running, "_as_lens_hook", counted)
        else:
            block = type(model.host.raw.blocks[0])
            forward = block.forward

            def stopping(self, *args, **kwargs):
                count()
                return forward(self, *args, **kwargs)

            patch.setattr(block, "forward", stopping)
        try:
            STAGES[stage](model, prompts, scores)
        except Stop:
            pass
        else:
            assert left[0] >= 0, "what was raised was swallowed"
    same(before, state(model))
