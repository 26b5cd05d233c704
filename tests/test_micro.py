"""Trace, attribution and deletion against numbers worked out by hand (see micro.py)."""

import math

import pytest
import torch
from micro import CLEAN, DELETED, EMBEDDINGS, ROOT8, micro_model, micro_tokenizer

pytestmark = pytest.mark.host
EXACT = 1e-5  # float32 of numbers of order one


@pytest.fixture
def model(host, tmp_path):
    from tl_toxmem import LensModel

    micro_model().save_pretrained(tmp_path)
    micro_tokenizer().save_pretrained(tmp_path)
    return LensModel.from_pretrained(tmp_path, host=host)


@pytest.fixture
def prompts():
    from tl_toxmem import Prompt, PromptSet

    return PromptSet.of([Prompt(prompt="a", target="c")])


def test_the_hand_computed_numbers():
    assert pytest.approx(-0.69665, abs=1e-4) == CLEAN
    assert pytest.approx(-4.03629, abs=1e-4) == DELETED


def test_logits_are_as_worked_out(model):
    tokens, mask = model.pad([model.encode("a"), model.encode("b")])
    logits = model.forward(tokens, mask)[:, -1]
    # "b": resid = E1 + 0.5 E3 = (-1.5, -0.5, 0.5, 1.5), variance 1.25.
    after_b = EMBEDDINGS @ torch.tensor([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25)
    expected = torch.stack([torch.tensor([ROOT8, -ROOT8, ROOT8, -ROOT8]), after_b])
    assert torch.allclose(logits, expected, atol=EXACT)


def test_deleting_the_one_neuron_that_votes(model, prompts):
    from tl_toxmem import Deletion, NeuronSet

    tokens, mask = model.pad([model.encode("a")])
    with Deletion.zero(NeuronSet(((0, 0),), 2, 4)).applied(model):
        logits = model.forward(tokens, mask)[0, -1]
    assert torch.allclose(logits, torch.tensor([4.0, -4.0, 0.0, 0.0]), atol=EXACT)
    assert float(logits.log_softmax(-1)[2]) == pytest.approx(DELETED, abs=EXACT)


def test_scale_and_mean_laws(model):
    from tl_toxmem import Deletion, NeuronSet

    tokens, mask = model.pad([model.encode("a")])
    one = NeuronSet(((0, 0),), 2, 4)
    # Twice the vote: resid = E0 + 2 E2 = (3, -1, 1, -3), variance 5.
    doubled = EMBEDDINGS @ torch.tensor([3.0, -1.0, 1.0, -3.0]) / math.sqrt(5)
    with Deletion.scale(one, 2.0).applied(model):
        assert torch.allclose(model.forward(tokens, mask)[0, -1], doubled, atol=EXACT)
    means = torch.zeros(2, 4)
    means[0, 0] = 2.0
    with Deletion.mean(one, means).applied(model):
        assert torch.allclose(model.forward(tokens, mask)[0, -1], doubled, atol=EXACT)


def test_attribution_is_the_gradient_worked_out(model, prompts, monkeypatch):
    """d log p(c) / d a0 at a0 = 1, by the quotient rule; "a" is corrupted into "b" exactly."""
    from tl_toxmem import attribute_neurons
    from tl_toxmem.attribute import patching
    from tl_toxmem.config import AttributeConfig

    to_b = (EMBEDDINGS[1] - EMBEDDINGS[0])[None, None]
    monkeypatch.setattr(patching, "gaussian_noise", lambda *a, **k: to_b)
    found = {}
    for method in ("gradient", "attribution_patching", "integrated_gradients", "direct_effect"):
        cfg = AttributeConfig(method=method, verify_top=8, verify_random=0, n_noise=1)
        found[method] = attribute_neurons(model, prompts, cfg=cfg)
    # resid(a) = E0 + a E2, |resid|^2 / 4 = 1 + a^2; logits: 4/r, -4/r, 4a/r, -4a/r with r = sqrt(1 + a^2).
    # At a = 1: d(1/r) = -1/(2 sqrt 2), d(a/r) = 1/(2 sqrt 2), so the logits move by -s, s, s, -s with s = sqrt 2.
    s = math.sqrt(2)
    p = torch.tensor([ROOT8, -ROOT8, ROOT8, -ROOT8]).softmax(-1)
    slope = s - float((p * torch.tensor([-s, s, s, -s])).sum())
    expected = torch.zeros(2, 4)
    expected[0, 0] = slope
    assert torch.allclose(found["gradient"].scores, expected, atol=EXACT)
    assert torch.allclose(found["direct_effect"].scores, expected, atol=EXACT)
    # The whole way from 0 to 1 is what deletion takes, all of it through the one neuron.
    expected[0, 0] = CLEAN - DELETED
    integrated = found["integrated_gradients"]
    assert torch.allclose(integrated.scores, expected, atol=integrated.facts["residual"] + EXACT)
    assert integrated.facts["residual"] < 0.05 * (CLEAN - DELETED)
    # On "b" neuron 0 goes from 1 to 0, and neuron 1 from 0 to 1, where it writes 0.5 E3 = -0.5 E2.
    expected[0, 0], expected[0, 1] = slope, -0.5 * slope * (0 - 1)
    assert torch.allclose(found["attribution_patching"].scores, expected, atol=EXACT)
    effects = found["gradient"].verification.effects()
    assert effects[0, 0].value == pytest.approx(CLEAN - DELETED, abs=EXACT)
    assert all(abs(e.value) < EXACT for neuron, e in effects.items() if neuron != (0, 0))


def test_trace_finds_the_layer(model, prompts, monkeypatch):
    """Corrupting "a" into "b" exactly: restoring layer 0's MLP output brings back E2's vote."""
    from tl_toxmem import causal_trace, corrupt
    from tl_toxmem.config import TraceConfig

    to_b = (EMBEDDINGS[1] - EMBEDDINGS[0])[None, None]
    monkeypatch.setattr(corrupt, "gaussian_noise", lambda *a, **k: to_b)
    result = causal_trace(model, prompts, cfg=TraceConfig(window=1, n_noise=1))
    # Corrupted run: "b", resid (-1.5, -0.5, 0.5, 1.5) / sqrt(1.25).
    b = (EMBEDDINGS @ torch.tensor([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25)).log_softmax(-1)[2]
    # MLP of layer 0 restored: E1 + E2 = (0, -2, 2, 0), variance 2.
    mlp = (EMBEDDINGS @ torch.tensor([0.0, -2.0, 2.0, 0.0]) / math.sqrt(2)).log_softmax(-1)[2]
    site = {name: i for i, name in enumerate(result.sites)}
    effect = result.effect[0, :, :, 0]
    assert float(result.clean[0, 0]) == pytest.approx(CLEAN, abs=EXACT)
    assert float(result.corrupted[0, 0]) == pytest.approx(float(b), abs=EXACT)
    assert float(effect[site["mlp_out"], 0]) == pytest.approx(float(mlp - b), abs=EXACT)
    assert float(effect[site["mlp_out"], 1]) == pytest.approx(0, abs=EXACT)
    assert torch.allclose(effect[site["attn_out"]], torch.zeros(2), atol=EXACT)
    assert torch.allclose(
        effect[site["resid_post"]], torch.tensor(CLEAN - float(b)).expand(2), atol=EXACT
    )
