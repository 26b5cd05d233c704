"""Learned gates: a scale law found by gradient that closes what speaks for the targets, within its budget."""

import functools

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
FELT = 1e-2  # nats


@pytest.fixture
def scored(load, prompts):
    """A tiny model with its scores."""
    from tl_toxmem import attribute_neurons
    from tl_toxmem.config import AttributeConfig

    model = load()
    cfg = AttributeConfig(verify_top=0, verify_random=0)
    return model, attribute_neurons(model, prompts, cfg=cfg, neutral=NEUTRAL)


@functools.cache
def demo():
    """The demo model with scores of its find prompts, and both halves of its neutral text."""
    from tl_toxmem import LensModel, PromptSet, attribute_neurons
    from tl_toxmem.config import AttributeConfig, PromptsConfig
    from tl_toxmem.model import demo_folder
    from tl_toxmem.neutral import read_documents, split_documents

    model = LensModel.from_pretrained("demo")
    find = PromptSet.read(demo_folder() / "prompts.jsonl").split(PromptsConfig()).find
    halves = split_documents(read_documents(demo_folder() / "neutral.txt"))
    cfg = AttributeConfig(verify_top=0, verify_random=0)
    return model, find, attribute_neurons(model, find, cfg=cfg, neutral=halves[0]), *halves


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


def learner_of(model, prompts, scores, n=40, **more):
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.gate_learner import Learner
    from tl_toxmem.select import select_neurons

    candidates = select_neurons(scores, cfg=SelectConfig(k=n))
    return Learner(model, prompts, candidates, scores, NEUTRAL, gates_cfg(**more), seed=0)


def test_what_gates_are_checked_on_they_did_not_learn_from(scored, prompts):
    model, scores = scored
    for wanted in (10_000, 128, 60):
        learner = learner_of(model, prompts, scores, check_tokens=wanted)
        check, other = ({tuple(row) for row in rows} for rows in (learner.check, learner.learn_on))
        assert check
        assert other
        assert not check & other
        n_check, n_other = (sum(map(len, rows)) for rows in (check, other))
        assert n_check <= n_other
        assert n_check <= wanted or len(check) == 2


def test_text_too_short_to_learn_and_check_on():
    from tl_toxmem import ToxmemError
    from tl_toxmem.gate_learner import split_pieces

    rows = [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert split_pieces(rows, 100) == (rows[:2], rows[2:])
    with pytest.raises(ToxmemError, match="give at least 4 documents, not 3"):
        split_pieces(rows[:3], 100)


def test_gates_press_the_targets_within_the_budget(scored, prompts):
    from tl_toxmem.losses import document_losses, perplexity_rise

    model, scores = scored
    found = learn(model, prompts, scores, [0.05, 0.001])
    assert list(found) == [0.001, 0.05]
    rows = learner_of(model, prompts, scores).check
    base, n = document_losses(model, rows)
    before = onset(model, prompts)
    pressed = []
    for budget, gates in found.items():
        assert gates.increase <= gates.increase_high <= budget
        assert (gates.scale >= 0).all()
        assert (gates.scale < 1).all()
        with gates.deletion().applied(model):
            pressed.append(onset(model, prompts).mean())
            assert perplexity_rise(model, rows, base) == pytest.approx(gates.increase, abs=SAME)
            losses, _ = document_losses(model, rows)
        # Of two pieces, a resampling is each of them twice or one of both: the upper limit is the dearer piece alone.
        assert np.expm1(((losses - base) / n).max()) == pytest.approx(gates.increase_high, abs=SAME)
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


def test_one_step_is_adam_on_the_gradient_of_the_whole_loss(scored, prompts):
    """The gradient that the learner steps along is the slope of the loss written down again, plainly."""
    from tl_toxmem import Deletion

    model, scores = scored
    learner = learner_of(model, prompts, scores, n=5, sparsity=0.5)
    cfg, candidates, mu, allowed = learner.cfg, learner.candidates, 3.0, 0.01
    before, rows = onset(model, prompts), [model.encode(text) for text in NEUTRAL[:2]]

    def predictions():
        return [model.forward(*model.pad([row]))[0, :-1].double().log_softmax(-1) for row in rows]

    unedited = predictions()
    index = tuple(torch.tensor(candidates.neurons).T)
    dear = (scores.cost + cfg.cost_floor * scores.cost.mean())[index].double()
    weights = cfg.sparsity * (scores.scores[index] / dear).max() * dear

    def loss(closed):
        with Deletion.scale(candidates, 1 - closed).applied(model):
            risen = torch.from_numpy(onset(model, prompts) - before)
            kl = [(p.exp() * (p - q)).sum(-1) for p, q in zip(unedited, predictions(), strict=True)]
        pressed = torch.nn.functional.softplus(risen + cfg.margin).mean()
        return float(pressed + (weights * closed).sum() + mu * torch.cat(kl).mean() / allowed)

    learner.closed.data.fill_(0.5)
    learner.mu = mu
    with torch.enable_grad():
        value, _ = learner._loss(learner.targets, rows, allowed)
        (slope,) = torch.autograd.grad(value, [learner.closed])
    middle = torch.full((5,), 0.5, dtype=torch.float64)
    assert float(value.detach()) == pytest.approx(
        loss(middle), rel=1e-4
    )  # float32 against parts in float64
    step = 1e-2
    for i in range(5):
        up, down = middle.clone(), middle.clone()
        up[i] += step
        down[i] -= step
        measured = (loss(up) - loss(down)) / (2 * step)
        assert float(slope[i]) == pytest.approx(measured, rel=0.02, abs=5e-4)  # float32 differences
    # Adam's first step is its rate along the gradient's sign.
    learner.prompt_stream, learner.neutral_stream = iter([learner.targets]), iter([rows])
    learner._step(allowed)
    moved = (learner.closed.detach() - 0.5).double()
    assert torch.allclose(moved, -cfg.learning_rate * slope.sign().double(), atol=1e-3)


def test_mu_rises_while_the_budget_is_broken_and_falls_within_it(scored, prompts):
    model, scores = scored
    learner = learner_of(model, prompts, scores)
    learner.closed.data.fill_(1.0)
    learner._step(1e-6)
    assert learner.mu > 1
    learner.closed.data.zero_()  # no gate is closed: KL is 0
    before = learner.mu
    learner._step(1e-6)
    assert learner.mu < before


def test_most_gates_stay_exactly_open(scored, prompts):
    model, scores = scored
    gates = learn(model, prompts, scores, [0.05], sparsity=0.1)[0.05]
    assert 0 < len(gates.neurons) < 20  # of 40
    assert len(learn(model, prompts, scores, [0.05], sparsity=0.0)[0.05].neurons) > len(
        gates.neurons
    )


def test_learned_gates_bake(scored, prompts, gpt2_folder):
    from transformers import AutoModelForCausalLM

    from tl_toxmem.baking import baked

    model, scores = scored
    law = learn(model, prompts, scores, [0.05])[0.05].deletion()
    tokens, mask = model.pad([model.encode(NEUTRAL[0])])
    with law.applied(model):
        hooked = model.forward(tokens, mask).log_softmax(-1)
    hf = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    with torch.no_grad(), baked(hf, law):
        weights = hf(tokens).logits.log_softmax(-1)
    assert torch.allclose(hooked, weights, atol=SAME)
    with torch.no_grad():
        assert (hf(tokens).logits.log_softmax(-1) - weights).abs().max() > FELT


def test_on_the_demo_budgets_hold_on_the_text_that_is_reported_on():
    """None of that text was learned from or checked on."""
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.gates import learn_gates
    from tl_toxmem.losses import document_losses, perplexity_rise
    from tl_toxmem.neutral import encode_documents
    from tl_toxmem.select import select_neurons

    model, find, scores, choosing, reporting = demo()
    found = learn_gates(
        model,
        find,
        candidates=select_neurons(scores, cfg=SelectConfig(k=40)),
        scores=scores,
        neutral=choosing,
        budgets=[0.001, 0.01],
        cfg=gates_cfg(steps=60, step_tokens=256, check_tokens=8192, batch_size=16),
    )
    rows = encode_documents(model, reporting, max_tokens=20_000)
    base, _ = document_losses(model, rows)
    for budget, gates in found.items():
        assert len(gates.neurons)
        with gates.deletion().applied(model):
            assert perplexity_rise(model, rows, base) <= budget


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
