"""Learned gates: a scale law found by gradient that closes what speaks for the targets, within its budget."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.host
NEUTRAL = [
    "the cat sat on the mat and slept until noon",
    "people say that it rains in the town by the river",
    "one two three four five six seven eight nine ten",
    "bread and butter, and then they walked home again",
]
SAME = 1e-5  # two float32 paths to one number


@pytest.fixture
def scored(load, prompts):
    """A tiny model with its scores."""
    from tl_toxmem import attribute_neurons
    from tl_toxmem.config import AttributeConfig

    model = load()
    cfg = AttributeConfig(verify_top=0, verify_random=0)
    return model, attribute_neurons(model, prompts, cfg=cfg, neutral=NEUTRAL)


def gates_cfg(**more):
    from tl_toxmem.config import GateConfig

    small = {"steps": 15, "step_tokens": 128, "check_tokens": 128, "batch_size": 3}
    return GateConfig(**{**small, **more})


def learn(model, prompts, scores, budgets, n=40, **more):
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.gates import learn_gates
    from tl_toxmem.select import select_neurons

    return learn_gates(
        model,
        prompts,
        candidates=select_neurons(scores, cfg=SelectConfig(k=n)),
        scores=scores,
        neutral=NEUTRAL,
        budgets=budgets,
        cfg=gates_cfg(**more),
    )


def onset(model, prompts):
    """Log-probability of any target's first token, per prompt, in one plain forward each."""
    from tl_toxmem.tokens import align

    items = align(model, prompts)
    first = sorted({item.target[0] for item in items})
    found = []
    for item in items:
        logits = model.forward(*model.pad([item.tokens]))[0, -1].float()
        found.append(float(logits.log_softmax(-1)[first].logsumexp(0)))
    return np.array(found)


def test_gates_press_the_targets_within_the_budget(scored, prompts):
    from tl_toxmem.losses import document_losses, perplexity_rise
    from tl_toxmem.neutral import encode_documents

    model, scores = scored
    found = learn(model, prompts, scores, [0.05, 0.001], check_tokens=10_000)
    assert list(found) == [0.001, 0.05]
    rows = encode_documents(model, NEUTRAL, max_tokens=10_000, piece=128)
    base, _ = document_losses(model, rows)
    before = onset(model, prompts)
    pressed = []
    for budget, gates in found.items():
        assert gates.increase <= budget
        assert (gates.scale >= 0).all()
        assert (gates.scale < 1).all()
        with gates.deletion().applied(model):
            pressed.append(onset(model, prompts).mean())
            assert perplexity_rise(model, rows, base) == pytest.approx(gates.increase, abs=SAME)
    assert pressed[1] < pressed[0] < before.mean()


def test_learning_leaves_the_model_as_it_was_and_can_be_repeated(scored, prompts):
    model, scores = scored
    tokens, mask = model.pad([model.encode("the town")])
    before = model.forward(tokens, mask).clone()
    first = learn(model, prompts, scores, [0.01])[0.01]
    again = learn(model, prompts, scores, [0.01])[0.01]
    assert torch.equal(model.forward(tokens, mask), before)
    assert first.neurons == again.neurons
    assert torch.equal(first.scale, again.scale)


def test_one_step_is_adam_on_the_gradient_of_the_loss(scored, prompts):
    """The gradient that the learner steps along equals the slope of the loss written down again, plainly."""
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.gates import _Learner
    from tl_toxmem.select import select_neurons

    model, scores = scored
    candidates = select_neurons(scores, cfg=SelectConfig(k=5))
    cfg = gates_cfg()
    learner = _Learner(model, prompts, candidates, scores, NEUTRAL, cfg)
    before = onset(model, prompts)

    def loss(closed):
        from tl_toxmem import Deletion

        with Deletion.scale(candidates, 1 - closed).applied(model):
            risen = torch.from_numpy(onset(model, prompts) - before)
        pressed = torch.nn.functional.softplus(risen + cfg.margin).mean()
        return float(pressed)

    learner.closed.data.fill_(0.5)
    items, base = zip(*learner.targets, strict=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(learner._pressed(list(items), list(base)), [learner.closed])
    step = 1e-2
    for i in range(5):
        up = torch.full((5,), 0.5, dtype=torch.float64)
        down = up.clone()
        up[i] += step
        down[i] -= step
        measured = (loss(up) - loss(down)) / (2 * step)
        assert float(slope[i]) == pytest.approx(measured, rel=0.02, abs=2e-4)  # float32 differences


@pytest.mark.parametrize(
    ("budgets", "n"), [((), 5), ((0.0,), 5), ((-0.1,), 5)], ids=["none", "zero", "negative"]
)
def test_budgets_that_are_none(scored, prompts, budgets, n):
    from tl_toxmem import ToxmemError

    model, scores = scored
    with pytest.raises(ToxmemError, match="budgets above 0"):
        learn(model, prompts, scores, budgets, n=n)


def test_losses_by_document_are_transformers_own(load, gpt2_folder):
    from transformers import AutoModelForCausalLM

    from tl_toxmem.losses import document_losses, perplexity_rise

    model = load()
    rows = [model.encode(text) for text in NEUTRAL]
    losses, n = document_losses(model, rows)
    hf = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    for row, loss, count in zip(rows, losses, n, strict=True):
        ids = torch.tensor([row])
        with torch.no_grad():
            plain = float(hf(ids, labels=ids).loss)
        assert count == len(row) - 1
        assert loss / count == pytest.approx(plain, abs=SAME)
    assert perplexity_rise(model, rows, losses) == 0
