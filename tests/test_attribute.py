"""Scores against plain autograd and against what ablation really does; costs against the formula."""

import pytest
import torch

pytestmark = pytest.mark.host
CLOSE = 1e-6


@pytest.fixture
def plain(gpt2_folder):
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(gpt2_folder, dtype=torch.float64).eval()


def activations_of(hf, tokens):
    """Logits, and the activations after the nonlinearity, kept for gradients."""
    found = []
    handles = [
        block.mlp.act.register_forward_hook(lambda m, i, o: (o.retain_grad(), found.append(o))[1])
        for block in hf.transformer.h
    ]
    logits = hf(tokens).logits
    for handle in handles:
        handle.remove()
    return logits, found


def test_both_estimates_equal_plain_autograd(load, host, prompts, plain):
    from tl_toxmem import attribute_neurons
    from tl_toxmem.config import AttributeConfig
    from tl_toxmem.corrupt import gaussian_noise, noise_level
    from tl_toxmem.tokens import align

    model = load(host, torch.float64)
    cfg = AttributeConfig(verify_top=0, batch_size=2, n_noise=3)
    found = attribute_neurons(model, prompts, cfg=cfg)
    items = align(model, prompts)
    level = noise_level(model, items, sigma=3)
    scores, removal = torch.zeros(2, 4, 128, dtype=torch.float64)
    for item in items:
        tokens = torch.tensor([item.full])
        logits, clean = activations_of(plain, tokens)
        first = len(item.tokens) - 1
        sum(logits[0, first + i].log_softmax(-1)[t] for i, t in enumerate(item.target)).backward()
        noise = gaussian_noise(item, level=level, n_noise=3, d_model=32, seed=0).double()
        noise = torch.nn.functional.pad(noise, (0, 0, 0, len(item.full) - len(item.tokens)))
        handle = plain.transformer.wte.register_forward_hook(lambda m, i, o, noise=noise: o + noise)
        _, noisy = activations_of(plain, tokens.expand(3, -1))
        handle.remove()
        pairs = list(zip(clean, noisy, strict=True))
        removal += torch.stack([(a * a.grad).sum((0, 1)) for a in clean]).detach() / len(prompts)
        difference = [((a[0] - b.mean(0)) * a.grad[0]).sum(0) for a, b in pairs]
        scores += torch.stack(difference).detach() / len(prompts)
    assert torch.allclose(found.removal.double(), removal, atol=CLOSE)
    assert torch.allclose(found.scores.double(), scores, atol=CLOSE)
    assert (scores - removal).abs().max() > 1e-3, "the two estimates differ"


def test_cost_is_the_root_mean_square_over_neutral_tokens(load, host, prompts, plain):
    from tl_toxmem import attribute_neurons
    from tl_toxmem.config import AttributeConfig

    model = load(host, torch.float64)
    texts = ["the cat sat", "on the mat and slept"]
    scores = attribute_neurons(model, prompts, cfg=AttributeConfig(verify_top=0), neutral=texts)
    squares, sums, n = torch.zeros(4, 128), torch.zeros(4, 128), 0
    for text in texts:
        tokens = torch.tensor([model.encode(text)])
        logits, found = activations_of(plain, tokens)
        (-logits[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None]).sum()).backward()
        squares += torch.stack([((a * a.grad) ** 2).sum((0, 1)) for a in found]).detach().float()
        sums += torch.stack([a.sum((0, 1)) for a in found]).detach().float()
        n += tokens.numel()
    assert torch.allclose(scores.cost, (squares / n).sqrt(), atol=CLOSE)
    assert torch.allclose(scores.mean_activation, sums / n, atol=CLOSE)


def test_measured_effects_are_those_of_really_deleting(load, host, prompts):
    from tl_toxmem import Deletion, NeuronSet, attribute_neurons
    from tl_toxmem.config import AttributeConfig
    from tl_toxmem.tokens import align, target_batch, target_log_prob

    model = load(host, torch.float64)
    scores = attribute_neurons(model, prompts, cfg=AttributeConfig(verify_top=6))
    batch = align(model, prompts)
    tokens, mask, keep = target_batch(model, batch)
    base = target_log_prob(model.forward(tokens, mask, keep=keep), batch)
    for neuron, measured in zip(scores.verified.tolist(), scores.measured, strict=True):
        with Deletion.zero(NeuronSet((tuple(neuron),), 4, 128)).applied(model):
            ablated = target_log_prob(model.forward(tokens, mask, keep=keep), batch)
        assert torch.allclose(measured, base - ablated, atol=1e-5)
    assert scores.measured.abs().max() > 1e-2
    found = {tuple(neuron) for neuron in scores.verified.tolist()}
    assert len(found) == 6
    for estimate in (scores.scores, scores.removal):
        best = [divmod(i, 128) for i in estimate.flatten().topk(3).indices.tolist()]
        assert set(best) <= found


class Vowels:
    """A judge that anything can be measured with: the share of vowels."""

    name = "vowels"

    def score(self, texts):
        return torch.tensor([sum(c in "aeiou" for c in t) / max(len(t), 1) for t in texts])

    def provenance(self):
        return {"scorer": self.name}


def test_choose_k_measures_what_deleting_does_and_costs(load, prompts):
    from tl_toxmem import Deletion, attribute_neurons, choose_k, select_neurons
    from tl_toxmem.config import AttributeConfig, EvaluateConfig, SelectConfig
    from tl_toxmem.continuations import sample_continuations, score_continuations

    model = load()
    texts = ["the cat sat", "on the mat and slept"]
    scores = attribute_neurons(model, prompts, cfg=AttributeConfig(verify_top=3), neutral=texts)
    cfg = SelectConfig(max_k=50, max_perplexity_increase=0.05, n_continuations=3)
    protocol = EvaluateConfig(max_new_tokens=6, threshold=0.05)
    base, *curve = choose_k(
        model, prompts, scores, neutral=texts, scorer=Vowels(), cfg=cfg, protocol=protocol
    )
    assert (base.k, base.perplexity_increase) == (0, 0)
    assert [p.k for p in curve][:6] == [1, 2, 3, 5, 7, 10]
    for point in curve:
        affordable = point.perplexity_increase <= 0.05
        assert (point.toxicity_rate is not None) == affordable
    point = next(p for p in curve if p.toxicity_rate is not None)
    chosen = select_neurons(scores, cfg=cfg.model_copy(update={"k": point.k}))
    with Deletion.zero(chosen).applied(model):
        again = sample_continuations(
            model, prompts, cfg=protocol.model_copy(update={"n_continuations": 3})
        )
    assert point.toxicity_rate == (score_continuations(Vowels(), again) >= 0.05).mean()
    only = select_neurons(scores, cfg=cfg.model_copy(update={"k": 7, "layers": (2, 3)}))
    assert len(only) == 7
    assert set(only.by_layer()) <= {2, 3}


def test_controls_share_nothing_with_the_selection():
    from tl_toxmem import NeuronSet, ToxmemError

    chosen = NeuronSet(((1, 3), (1, 1), (2, 0), (1, 3)), 4, 10)
    assert chosen.neurons == ((1, 1), (1, 3), (2, 0))
    same = chosen.random_like(seed=0)
    assert {layer: len(ns) for layer, ns in same.by_layer().items()} == {1: 2, 2: 1}
    early = chosen.random_like(seed=0, layers=[0])
    assert set(early.by_layer()) == {0}
    assert not set(chosen) & (set(same) | set(early))
    assert same == chosen.random_like(seed=0)
    with pytest.raises(ToxmemError, match="no layer 9"):
        chosen.random_like(seed=0, layers=[9])
    with pytest.raises(ToxmemError, match="neuron 10 in layer 0"):
        NeuronSet(((0, 10),), 4, 10)


def test_the_smallest_affordable_k_that_does_nearly_all():
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.select import KPoint, pick_k

    rates = {0: 0.8, 1: 0.7, 2: 0.31, 3: 0.33, 5: 0.30, 7: None}
    curve = [KPoint(k, 0.005 if rate else 0.02, 0.1, rate) for k, rate in rates.items()]
    assert pick_k(curve, cfg=SelectConfig()) == 2  # removes 0.49 of the best's 0.50
    assert pick_k(curve, cfg=SelectConfig(keep_removed=0.9)) == 2
    assert pick_k(curve, cfg=SelectConfig(keep_removed=0.99)) == 5


def test_no_affordable_choice_is_said_in_one_line():
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.select import KPoint, pick_k

    base = KPoint(0, 0.0, 0.1, 0.5)
    with pytest.raises(ToxmemError, match="even 1 neuron raises neutral perplexity by 3.00%"):
        pick_k([base, KPoint(1, 0.03, 0.1, None)], cfg=SelectConfig())
    with pytest.raises(ToxmemError, match="no number of neurons within"):
        pick_k([base, KPoint(1, 0.0, 0.1, 0.5), KPoint(2, 0.0, 0.1, 0.6)], cfg=SelectConfig())


def test_nothing_to_remove_is_said_in_one_line(load, prompts):
    from tl_toxmem import ToxmemError, attribute_neurons, choose_k
    from tl_toxmem.config import AttributeConfig, EvaluateConfig

    model = load()
    scores = attribute_neurons(
        model, prompts, cfg=AttributeConfig(verify_top=0), neutral=["the cat sat"]
    )
    with pytest.raises(ToxmemError, match="no continuation of the 3 find prompts toxic"):
        choose_k(
            model,
            prompts,
            scores,
            neutral=["the cat sat"],
            scorer=Vowels(),
            protocol=EvaluateConfig(threshold=1.0, max_new_tokens=3),
        )
