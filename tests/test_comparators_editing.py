"""The editing methods of the comparison against their papers' formulas."""

import numpy as np
import pytest
import torch

HARD = 1e-8
"""Relative: float64 solves of systems of a hundred unknowns."""
SAME = 2e-5
"""Relative: float32 activations, summed in another order."""
FELT = 0.3
"""Nats."""
ALTERNATIVES = {"Bob is a": " man", "the town of Ulm": " is", "what now": " then"}
NEUTRAL = [f"Line {i}: the {x} goes to town by the {y} road." for i, (x, y) in enumerate(
    (x, y) for x in ("cat", "maid", "judge", "boy", "queen") for y in ("old", "left", "dusty")
)]  # fmt: skip


@pytest.fixture(params=["gpt2", "llama"])
def model(request, host, shared):
    return shared(host, torch.float32, request.param)


@pytest.fixture
def material(prompts):
    from tl_toxmem.attribute import NeuronScores
    from tl_toxmem.comparators import Material

    unused = NeuronScores.of_neurons("none", torch.zeros(4, 128), seed=0)
    alternatives = {p.id: ALTERNATIVES[p.prompt] for p in prompts}
    return Material(
        prompts=prompts,
        neutral=NEUTRAL,
        scores=unused,
        alternatives=alternatives,
        traced_layer=1,
    )


def rome_config(**values):
    from tl_toxmem.config import ComparatorConfig, RomeConfig

    return ComparatorConfig(rome=RomeConfig(prefixes=3, prefix_tokens=(4, 7), **values))


def aimed(material):
    from tl_toxmem import PromptSet

    some = sorted(material.prompts, key=lambda p: (p.hash, p.id))
    return PromptSet.of(p.model_copy(update={"target": material.alternative(p)}) for p in some)


def random_problem(n, *, d_mlp=24, d_model=6, seed=0):
    draw = np.random.default_rng(seed)
    root = draw.normal(size=(80, d_mlp)) * draw.uniform(0.1, 3, d_mlp)
    return draw.normal(size=(n, d_mlp)), draw.normal(size=(n, d_model)), root.T @ root / 80


@pytest.mark.parametrize("n", [1, 3])
def test_an_update_at_once_is_the_least_that_meets_its_values(n):
    """Against numpy's solution of the constrained problem by its Lagrange system."""
    from tl_toxmem.comparators.rome import rank_ones

    keys, residuals, covariance = random_problem(n)
    problem = [torch.tensor(x) for x in (keys, residuals, covariance)]
    U, V = rank_ones(*problem, softness=0)
    update = (U @ V).numpy()
    assert np.allclose(keys @ update, residuals, rtol=HARD, atol=HARD)
    assert np.linalg.matrix_rank(update) == n
    lagrange = np.block([[2 * covariance, keys.T], [keys, np.zeros((n, n))]])
    wanted = np.linalg.solve(lagrange, np.vstack([np.zeros((24, 6)), residuals]))[:24]
    assert np.allclose(update, wanted, rtol=HARD, atol=HARD)
    if n == 1:
        assert torch.allclose(torch.tensor(update), torch.matmul(*rank_ones(*problem)))


def test_romes_updates_one_after_the_other():
    """Equation 2 of the paper, each time on the matrix that the last edit left."""
    from tl_toxmem.comparators.rome import rank_ones

    keys, residuals, covariance = random_problem(4)
    before = np.random.default_rng(1).normal(size=(24, 6))
    values, after = keys @ before + residuals, before.copy()
    for key, value in zip(keys, values, strict=True):
        u = np.linalg.inv(covariance) @ key
        after += np.outer(u, (value - key @ after) / (u @ key))
    U, V = rank_ones(*(torch.tensor(x) for x in (keys, residuals, covariance)))
    assert np.allclose(before + (U @ V).numpy(), after, rtol=HARD, atol=HARD)
    assert np.allclose(keys[-1] @ after, values[-1], rtol=HARD, atol=HARD)


def test_a_soft_update_is_memits_closed_form():
    from tl_toxmem.comparators.rome import rank_ones

    keys, residuals, covariance = random_problem(3)
    overlap = keys @ np.linalg.inv(covariance) @ keys.T
    weight = 0.4 * overlap.diagonal().mean()
    U, V = rank_ones(*(torch.tensor(x) for x in (keys, residuals, covariance)), softness=0.4)
    wanted = np.linalg.solve(weight * covariance + keys.T @ keys, keys.T @ residuals)
    assert np.allclose((U @ V).numpy(), wanted, rtol=HARD, atol=HARD)


def test_rome_puts_out_its_value_for_its_key(model, material):
    """What the edited layer makes of k*, and what the hooked model does in a prompt without contexts."""
    from tl_toxmem.comparators import COMPARATORS
    from tl_toxmem.comparators.rome_values import draw_prefixes, find_associations
    from tl_toxmem.tokens import align

    cfg = rome_config()
    laws = COMPARATORS["rome"].make(model, material, strengths=(1, 3), cfg=cfg)
    prefixes = draw_prefixes(model, NEUTRAL, cfg=cfg.rome, seed=0)
    items = align(model, aimed(material))
    found = find_associations(model, items, layer=1, prefixes=prefixes, cfg=cfg.rome)
    weights = model.mlp_weights(1)
    bias = torch.zeros(model.d_model) if weights.b_out is None else weights.b_out
    before = found.keys @ weights.w_out.double() + bias
    assert torch.allclose(before, found.outputs, rtol=SAME, atol=SAME)
    update = laws[3].added[1].U @ laws[3].added[1].V
    assert torch.allclose(
        (before + found.keys @ update)[-1], found.values[-1], rtol=SAME, atol=SAME
    )
    assert set(laws[3].added) == {1}
    assert torch.linalg.matrix_rank(update) == 3
    first = laws[1].added[1].U @ laws[1].added[1].V
    assert torch.allclose((before + found.keys @ first)[0], found.values[0], rtol=SAME, atol=SAME)
    assert torch.linalg.matrix_rank(first) == 1
    at_once = rome_config(softness=0.0)
    joint = COMPARATORS["rome"].make(model, material, strengths=(3,), cfg=at_once)[3].added[1]
    every = before + found.keys @ (joint.U @ joint.V)
    assert torch.allclose(every, found.values, rtol=SAME, atol=SAME)


def test_keys_are_means_over_contexts_of_the_subjects_last_token(model, material):
    """By plain forward passes, one context at a time."""
    from tl_toxmem.comparators.rome_values import draw_prefixes, find_associations
    from tl_toxmem.tokens import align

    cfg = rome_config(steps=1).rome
    items = align(model, aimed(material))
    prefixes = draw_prefixes(model, NEUTRAL, cfg=cfg, seed=3)
    assert [len(prefix) for prefix in prefixes] == [4, 7, 4]
    found = find_associations(model, items, layer=2, prefixes=prefixes, cfg=cfg)
    for item, key in zip(items, found.keys, strict=True):
        assert item.prompt.prompt[: len(item.words[: item.subject[1]])].endswith(
            item.prompt.subject or item.prompt.prompt
        )
        seen = []
        for prefix in [[], *prefixes]:
            row = [*prefix, *item.tokens[: item.subject[1]]]
            _, states = model.capture(*model.pad([row]), sites=[("mlp_post", 2)])
            seen.append(states["mlp_post", 2][0, -1].double())
        assert torch.allclose(key, torch.stack(seen).mean(0), rtol=SAME, atol=SAME)
    assert torch.equal(found.values, found.outputs)  # one step looks, and moves nothing


def test_values_follow_romes_objective(model, material):
    """Two steps of Adam against the objective written out with whole forward passes and a hook."""
    from tl_toxmem.comparators.rome_values import draw_prefixes, find_associations
    from tl_toxmem.tokens import align

    cfg = rome_config(steps=3, learning_rate=0.1, kl=0.5, weight_decay=2.0, clamp=0.6).rome
    items = align(model, aimed(material))
    prefixes = draw_prefixes(model, NEUTRAL, cfg=cfg, seed=0)
    found = find_associations(model, items, layer=1, prefixes=prefixes, cfg=cfg)
    essence = model.tokenizer(cfg.essence)["input_ids"]

    def run(row, place, change):
        def add(out):
            return out.index_put(
                (torch.tensor([0]), torch.tensor([place])), change[None], accumulate=True
            )

        with torch.enable_grad(), model.hooks([("mlp_out", 1, add)]):
            return model.differentiable(*model.pad([row]))[0].log_softmax(-1)

    for i, item in enumerate(items):
        last = item.subject[1] - 1
        _, states = model.capture(*model.pad([list(item.tokens)]), sites=[("mlp_out", 1)])
        length = states["mlp_out", 1][0, last].norm()
        change = torch.zeros(model.d_model, requires_grad=True)
        subject = list(item.tokens[slice(*item.subject)])
        base = run(subject + essence, len(subject) - 1, change)[-1].detach()
        adam = torch.optim.Adam([change], lr=0.1)
        for _ in range(2):
            total = torch.zeros(())
            for prefix in [[], *prefixes]:
                log_probs = run([*prefix, *item.full], len(prefix) + last, change)
                for j, token in enumerate(item.target):
                    total = total - log_probs[len(prefix) + len(item.tokens) - 1 + j, token]
            loss = total / len(item.target) / 4
            edited = run(subject + essence, len(subject) - 1, change)[-1]
            loss = loss + 0.5 * (edited.exp() * (edited - base)).sum()
            loss = loss + 2.0 * change.norm() / length**2
            (change.grad,) = torch.autograd.grad(loss, [change])
            adam.step()
            with torch.no_grad():
                change.mul_(min(1.0, 0.6 * float(length / change.norm())))
        moved = (found.values - found.outputs)[i]
        assert moved.norm() > 0.1
        assert torch.allclose(
            moved.float(), change.detach(), rtol=0, atol=1e-3
        )  # Adam divides by small gradients


def test_covariance_is_of_the_keys_of_all_tokens(model):
    from tl_toxmem.comparators.rome import key_covariance
    from tl_toxmem.config import RomeConfig

    found = key_covariance(model, NEUTRAL, layer=2, cfg=RomeConfig(ridge=0.5))
    keys = []
    for text in NEUTRAL:
        _, states = model.capture(*model.pad([model.encode(text)]), sites=[("mlp_post", 2)])
        keys.append(states["mlp_post", 2][0].double().numpy())
    every = np.concatenate(keys)
    wanted = every.T @ every / len(every)
    wanted += 0.5 * wanted.diagonal().mean() * np.eye(len(wanted))
    assert np.allclose(found.numpy(), wanted, rtol=SAME, atol=SAME * np.abs(wanted).max())


@pytest.fixture
def spoken(model, material):
    """Prompts that go on with what the model would say, and alternatives that it is a little less likely to say."""
    from dataclasses import replace

    from tl_toxmem import PromptSet

    letters = torch.tensor([model.encode(x)[0] for x in "abcdefghijklmnopqrstuvwxyz"])
    found, alternatives = [], {}
    for p in material.prompts:
        logits = model.forward(*model.pad([model.encode(p.prompt)]), keep=1)[0, -1]
        first, *_, sixth = letters[logits[letters].topk(6).indices].tolist()
        values = {"target": model.tokenizer.decode([first]), "subject": None}
        found.append(p.model_copy(update=values))
        alternatives[p.id] = model.tokenizer.decode([sixth])
    return replace(material, prompts=PromptSet.of(found), alternatives=alternatives)


@pytest.mark.parametrize("name", ["rome", "rome_random_layer"])
def test_rome_turns_what_is_said(name, model, spoken):
    """Right after the edit of a prompt its benign continuation is likelier than before, its target is less likely."""
    from tl_toxmem import PromptSet
    from tl_toxmem.comparators import COMPARATORS
    from tl_toxmem.tokens import target_log_probs

    laws = COMPARATORS[name].make(model, spoken, strengths=(1, 3, 50), cfg=rome_config())
    assert list(laws) == [1, 3]  # no more prompts than there are
    toxic, benign = spoken.prompts.first(1), PromptSet.of(list(aimed(spoken))[:1])
    before = target_log_probs(model, toxic), target_log_probs(model, benign)
    with laws[1].applied(model):
        after = target_log_probs(model, toxic), target_log_probs(model, benign)
    assert after[0] < before[0] - FELT
    assert after[1] > before[1] + FELT
    for layer, update in laws[3].added.items():
        assert (layer == 1) == (name == "rome")
        assert torch.allclose(update.V[:1], laws[1].added[layer].V, rtol=HARD)


def test_rome_at_the_last_token_edits_as_without_a_subject(model, material):
    from dataclasses import replace

    from tl_toxmem import PromptSet
    from tl_toxmem.comparators import COMPARATORS

    def update(some, **values):
        laws = COMPARATORS["rome"].make(model, some, strengths=(3,), cfg=rome_config(**values))
        return laws[3].added[1]

    bare = PromptSet.of(p.model_copy(update={"subject": None}) for p in material.prompts)
    last, without = update(material, token="last"), update(replace(material, prompts=bare))
    assert torch.equal(last.U @ last.V, without.U @ without.V)
    subject = update(material)
    assert not torch.allclose(subject.U @ subject.V, last.U @ last.V, rtol=SAME)


def test_the_random_layer_is_early_and_another():
    from tl_toxmem import ToxmemError
    from tl_toxmem.comparators.rome import other_layer

    assert {other_layer(12, 2, seed=seed) for seed in range(40)} == {0, 1, 3}
    assert {other_layer(10, 2, seed=seed) for seed in range(40)} == {0, 1}  # a third as elsewhere
    assert other_layer(4, 0, seed=0) == 1  # the only early layer is the traced one
    assert other_layer(12, 2, seed=5) == other_layer(12, 2, seed=5)
    assert {other_layer(2, traced, seed=0) for traced in (0, 1)} == {0, 1}
    with pytest.raises(ToxmemError, match="another layer"):
        other_layer(1, 0, seed=0)


def test_profs_subspace_agrees_with_numpy():
    """The paper's steps, on random pairs with a common part and one planted difference."""
    from tl_toxmem.comparators.profs import subspace

    draw = np.random.default_rng(0)
    common, planted = draw.normal(size=(2, 12))
    benign = 5 * common + draw.normal(size=(30, 12))
    toxic = benign + draw.uniform(1, 2, (30, 1)) * planted + 0.1 * draw.normal(size=(30, 12))
    found = subspace(torch.tensor(benign), torch.tensor(toxic)).numpy()
    values, vectors = np.linalg.eigh(benign.T @ benign)
    mu = vectors[:, -1:]
    T = (benign - toxic) @ (np.eye(12) - mu @ mu.T) / 2
    values, vectors = np.linalg.eigh(T.T @ T)
    for rank in (1, 2, 5):
        P = found[:rank].T @ found[:rank]
        top = vectors[:, -rank:]
        assert np.allclose(P, top @ top.T, atol=HARD)
        assert np.allclose(P @ P, P, atol=HARD)
        assert np.allclose(P @ mu, 0, atol=HARD)  # what all texts have in common stays
    assert len(found) == 11
    clean = planted - mu[:, 0] * (mu[:, 0] @ planted)
    assert abs(found[0] @ clean) > 0.99 * np.linalg.norm(clean)


def test_profs_takes_the_subspace_out_of_the_upper_layers(model, material):
    from tl_toxmem.comparators import COMPARATORS
    from tl_toxmem.comparators.profs import subspace
    from tl_toxmem.config import ComparatorConfig

    cfg = ComparatorConfig()
    laws = COMPARATORS["profs"].make(model, material, strengths=(2, 9), cfg=cfg)
    assert set(laws[2].added) == {2, 3}
    every = COMPARATORS["profs_all_layers"].make(model, material, strengths=(2,), cfg=cfg)[2]
    assert set(every.added) == {0, 1, 2, 3}
    assert torch.equal(every.added[3].V, laws[2].added[3].V)
    assert list(laws) == [2, 3]  # three pairs differ in no more directions
    assert laws[3].added[2].V.shape[0] == 3

    def embedded(text):
        tokens, mask = model.pad([model.encode(text)])
        _, states = model.capture(tokens, mask, sites=[("resid_post", 3)])
        return states["resid_post", 3][0].double().mean(0)

    toxic = torch.stack([embedded(p.prompt + p.target) for p in material.prompts])
    benign = torch.stack([embedded(p.prompt + ALTERNATIVES[p.prompt]) for p in material.prompts])
    V = subspace(benign, toxic)[:2]
    P = V.T @ V
    update = laws[2].added[3].U @ laws[2].added[3].V
    w_out = model.mlp_weights(3).w_out.double()
    assert torch.allclose(w_out + update, w_out @ (torch.eye(32).double() - P), atol=1e-4)
    own = laws[2].added[3].V
    assert torch.allclose((w_out + update) @ own.T, torch.zeros(128, 2).double(), atol=1e-12)


@pytest.mark.parametrize("name", ["rome", "rome_random_layer", "profs", "profs_all_layers"])
def test_hooks_are_weights(name, model, material):
    from tl_toxmem.baking import baked
    from tl_toxmem.comparators import COMPARATORS
    from tl_toxmem.model.load import plain_log_probs

    law = COMPARATORS[name].make(model, material, strengths=(2,), cfg=rome_config())[2]
    tokens, mask = model.pad([model.encode(t) for t in ("Bob is a man", "Ulm")])
    plain = model.forward(tokens, mask)
    with law.applied(model):
        hooked = model.forward(tokens, mask)
    assert float((hooked - plain).abs().max()) > 1e-2
    hf = model.clean_hf()
    with baked(hf, law):
        found = plain_log_probs(hf, tokens, mask)
    gap = (found - hooked.double().log_softmax(-1))[mask.bool()].abs().max()
    assert float(gap) < 1e-3  # of edits many times as long as what they change, in float32


def test_what_is_missing_is_said_in_one_line(model, material, prompts):
    from dataclasses import replace

    from tl_toxmem import PromptSet, ToxmemError
    from tl_toxmem.comparators import COMPARATORS
    from tl_toxmem.config import ComparatorConfig, ProfsConfig, RomeConfig

    def fails(name, match, *, given=material, strengths=(1,), **values):
        with pytest.raises(ToxmemError, match=match) as caught:
            COMPARATORS[name].make(
                model, given, strengths=strengths, cfg=ComparatorConfig(**values)
            )
        assert "\n" not in str(caught.value)

    without = replace(material, alternatives={})
    for name in ("rome", "rome_random_layer", "profs"):
        fails(name, "give it a neutral_target", given=without)
        fails(name, "whole numbers above 0, not 0.5", strengths=(0.5,))
    fails("rome", "trace MLP outputs", given=replace(material, traced_layer=None))
    bare = RomeConfig(ridge=0, covariance_tokens=50)
    fails("rome", "128 neurons needs as many tokens", rome=bare)
    twice = PromptSet.of([*prompts, next(iter(prompts)).model_copy(update={"id": "again"})])
    alternatives = {p.id: ALTERNATIVES[p.prompt] for p in twice}
    same = replace(material, prompts=twice, alternatives=alternatives)
    fails("rome", "the same key", given=same, strengths=(4,), rome=RomeConfig(softness=0))
    fails("profs", "no layer 4 to begin at", profs=ProfsConfig(first_layer=4))
    targets = replace(material, alternatives={p.id: p.target for p in prompts})
    fails("profs", "are the toxic targets", given=targets)


def test_alternatives_are_not_toxic(model, prompts):
    """A neutral target first, then a sampled continuation that passes, then the likeliest benign target."""
    from tl_toxmem import Prompt, PromptSet
    from tl_toxmem.comparison import benign_alternatives
    from tl_toxmem.config import EvaluateConfig
    from tl_toxmem.tokens import target_log_probs

    class Judge:
        name = "judge"

        def __init__(self, toxic):
            self.toxic = toxic

        def score(self, texts):
            return torch.tensor([float(self.toxic) for _ in texts])

        def provenance(self):
            return {}

    protocol = EvaluateConfig(n_continuations=4, max_new_tokens=6)
    first, *others = prompts
    given = PromptSet.of([first.model_copy(update={"neutral_target": " friend"}), *others])
    sampled = benign_alternatives(model, given, scorer=Judge(toxic=False), protocol=protocol)
    assert sampled.keys() == {p.id for p in given}
    assert sampled[first.id] == " friend"
    none = benign_alternatives(model, given, scorer=Judge(toxic=True), protocol=protocol)
    assert none == {first.id: " friend"}
    benign = PromptSet.of([Prompt(prompt=f"x{t}", target=t) for t in (" cook", " pilot")])
    found = benign_alternatives(
        model, given, scorer=Judge(toxic=True), protocol=protocol, benign=benign
    )
    for prompt in others:
        per_token = [
            float(target_log_probs(model, PromptSet.of([p]))[0]) / len(p.target)
            for p in (prompt.model_copy(update={"target": t}) for t in (" cook", " pilot"))
        ]
        assert found[prompt.id] == (" cook", " pilot")[per_token[1] > per_token[0]]
