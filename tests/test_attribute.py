"""Scores against plain autograd, captum and what ablation really does; costs against the formula; bad input."""

import pytest
import torch

pytestmark = pytest.mark.host
CLOSE = 1e-6
# captum's and ours are the same sums in float64, but scores are kept in float32.
CAPTUM = 1e-4
# The model is linear to one part in a million; float64 leaves differences of 1e-6 ten digits.
LINEAR = 1e-4
UNCHECKED = {"verify_top": 0, "verify_random": 0}


def plain_of(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


@pytest.fixture
def plain(gpt2_folder):
    return plain_of(gpt2_folder)


def written_by(hf):
    """The modules whose input is what the neurons say, by layer."""
    base = hf.base_model
    blocks = base.h if hasattr(base, "h") else base.layers
    names = ("c_proj", "dense_4h_to_h", "down_proj")
    return [next(getattr(b.mlp, n) for n in names if hasattr(b.mlp, n)) for b in blocks]


def activations_of(hf, tokens):
    """Logits, and the neurons' activations, kept for gradients."""
    found = []
    handles = [
        module.register_forward_pre_hook(lambda m, i: (i[0].retain_grad(), found.append(i[0]))[1])
        for module in written_by(hf)
    ]
    logits = hf(tokens).logits
    for handle in handles:
        handle.remove()
    return logits, found


def log_prob(logits, item):
    """Of the whole target, [row]."""
    first = len(item.tokens) - 1
    rows = logits[:, first : first + len(item.target)].log_softmax(-1)
    return rows.gather(-1, torch.tensor(item.target).expand(len(rows), -1)[..., None]).sum((1, 2))


def test_first_order_estimates_equal_plain_autograd(load, host, prompts, plain):
    from tl_toxmem.attribute import METHODS
    from tl_toxmem.config import AttributeConfig
    from tl_toxmem.corrupt import gaussian_noise, noise_level
    from tl_toxmem.tokens import align

    model = load(host, torch.float64)
    cfg = AttributeConfig(batch_size=2, n_noise=3)
    found = {
        name: METHODS[name](model, prompts, cfg=cfg).per_prompt
        for name in ("gradient", "attribution_patching", "direct_effect")
    }
    items = align(model, prompts)
    level = noise_level(model, items, sigma=3)
    last, expected = [], {name: torch.zeros(3, 4, 128) for name in found}
    plain.transformer.ln_f.register_forward_pre_hook(
        lambda m, i: (i[0].retain_grad(), last.append(i[0]))[1]
    )
    for row, item in enumerate(items):
        tokens = torch.tensor([item.full])
        logits, clean = activations_of(plain, tokens)
        log_prob(logits, item).sum().backward()
        direction = last.pop().grad[0, len(item.tokens) - 1 :]
        noise = gaussian_noise(item, level=level, n_noise=3, d_model=32, seed=0).double()
        noise = torch.nn.functional.pad(noise, (0, 0, 0, len(item.full) - len(item.tokens)))
        handle = plain.transformer.wte.register_forward_hook(lambda m, i, o, noise=noise: o + noise)
        _, noisy = activations_of(plain, tokens.expand(3, -1))
        last.clear()
        handle.remove()
        for layer, (a, b) in enumerate(zip(clean, noisy, strict=True)):
            a, g = a[0], a.grad[0]
            w = plain.transformer.h[layer].mlp.c_proj.weight
            own = a[len(item.tokens) - 1 :]
            expected["gradient"][row, layer] = (a * g).sum(0).detach()
            expected["attribution_patching"][row, layer] = ((a - b.mean(0)) * g).sum(0).detach()
            expected["direct_effect"][row, layer] = (own * (direction @ w.T)).sum(0).detach()
    for name, values in expected.items():
        assert torch.allclose(found[name], values, atol=CLOSE), name
    for one, other in (("gradient", "attribution_patching"), ("gradient", "direct_effect")):
        assert (expected[one] - expected[other]).abs().max() > 1e-3, "they are not the same"
    assert torch.allclose(found["gradient"][:, 3], found["direct_effect"][:, 3], atol=CLOSE)


def test_grad_drop_is_one_pass_per_dropped_layer(load, host, prompts, plain):
    """Each layer's outputs detached in turn, on plain transformers."""
    from tl_toxmem.attribute import METHODS
    from tl_toxmem.config import AttributeConfig
    from tl_toxmem.corrupt import gaussian_noise, noise_level
    from tl_toxmem.tokens import align

    model = load(host, torch.float64)
    found = METHODS["grad_drop"](model, prompts, cfg=AttributeConfig(n_noise=2))
    items = align(model, prompts)
    level = noise_level(model, items, sigma=3)
    item = items[0]
    tokens = torch.tensor([item.full])
    noise = gaussian_noise(item, level=level, n_noise=2, d_model=32, seed=0).double()
    noise = torch.nn.functional.pad(noise, (0, 0, 0, len(item.full) - len(item.tokens)))
    handle = plain.transformer.wte.register_forward_hook(lambda m, i, o: o + noise)
    _, noisy = activations_of(plain, tokens.expand(2, -1))
    handle.remove()
    expected = torch.zeros(4, 128, dtype=torch.float64)
    for dropped in range(4):
        block = plain.transformer.h[dropped]
        handles = [
            block.attn.register_forward_hook(lambda m, i, o: (o[0].detach(), *o[1:])),
            block.mlp.register_forward_hook(lambda m, i, o: o.detach()),
        ]
        logits, clean = activations_of(plain, tokens)
        log_prob(logits, item).sum().backward()
        for layer, (a, b) in enumerate(zip(clean, noisy, strict=True)):
            g = torch.zeros_like(a) if a.grad is None else a.grad
            expected[layer] += ((a[0] - b.mean(0)) * g[0]).sum(0).abs().detach() / 3
        for handle in handles:
            handle.remove()
    assert torch.allclose(found.per_prompt[0].double(), expected, atol=CLOSE)
    assert float(found.scores.min()) >= 0


def test_cost_is_the_root_mean_square_over_neutral_tokens(load, host, prompts, plain):
    from tl_toxmem import attribute_neurons
    from tl_toxmem.config import AttributeConfig

    model = load(host, torch.float64)
    texts = ["the cat sat", "on the mat and slept"]
    scores = attribute_neurons(model, prompts, cfg=AttributeConfig(**UNCHECKED), neutral=texts)
    fisher, sums, squares, n = (*torch.zeros(3, 4, 128), 0)
    for text in texts:
        tokens = torch.tensor([model.encode(text)])
        logits, found = activations_of(plain, tokens)
        (-logits[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None]).sum()).backward()
        fisher += torch.stack([((a * a.grad) ** 2).sum((0, 1)) for a in found]).detach().float()
        sums += torch.stack([a.sum((0, 1)) for a in found]).detach().float()
        squares += torch.stack([(a**2).sum((0, 1)) for a in found]).detach().float()
        n += tokens.numel()
    lengths = torch.stack([m.weight.norm(dim=1) for m in written_by(plain)]).detach().float()
    assert torch.allclose(scores.cost, (fisher / n).sqrt(), atol=CLOSE)
    assert torch.allclose(scores.mean_activation, sums / n, atol=CLOSE)
    assert torch.allclose(scores.loudness, (squares / n).sqrt() * lengths, atol=CLOSE)
    ratio = scores.scores / (scores.cost + 0.1 * scores.cost.mean())
    assert torch.allclose(scores.per_cost(floor=0.1), ratio)


@pytest.mark.parametrize("law", ["zero", "mean"])
def test_measured_effects_are_those_of_really_deleting(shared, host, arch, prompts, law):
    from tl_toxmem import Deletion, NeuronSet
    from tl_toxmem.attribute import measure_ablations
    from tl_toxmem.tokens import align, target_batch, target_log_prob

    model = shared(host, torch.float64, arch)
    means = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    neurons = [(3, 7), (0, 1), (0, 100), (2, 5), (1, 64), (3, 0)]
    found = measure_ablations(
        model, prompts, neurons, mean_activation=means if law == "mean" else None
    )
    batch = align(model, prompts)
    tokens, mask, keep = target_batch(model, batch)
    base = target_log_prob(model.forward(tokens, mask, keep=keep), batch)
    for neuron, measured in zip(neurons, found, strict=True):
        own = NeuronSet((neuron,), 4, 128)
        deletion = Deletion.zero(own) if law == "zero" else Deletion.mean(own, means)
        with deletion.applied(model):
            ablated = target_log_prob(model.forward(tokens, mask, keep=keep), batch)
        assert torch.allclose(measured, (base - ablated).float(), atol=1e-5)
    assert found.abs().max() > 1e-2
    repeated = measure_ablations(model, prompts, neurons[::-1])
    if law == "zero":
        assert torch.allclose(repeated.flip(0), found, atol=1e-6)


def test_ablations_on_top_of_a_deletion_are_those_of_both(load, host, prompts):
    """What greedy selection rests on: hooks that are attached act in every run."""
    from tl_toxmem import Deletion, NeuronSet
    from tl_toxmem.attribute import measure_ablations
    from tl_toxmem.tokens import align, target_batch, target_log_prob

    model = load(host, torch.float64)
    batch = align(model, prompts)
    tokens, mask, keep = target_batch(model, batch)

    def value(neurons):
        with Deletion.zero(NeuronSet(tuple(neurons), 4, 128)).applied(model):
            return target_log_prob(model.forward(tokens, mask, keep=keep), batch)

    first = ((1, 3), (2, 9), (3, 4))
    with Deletion.zero(NeuronSet(first, 4, 128)).applied(model):
        found = measure_ablations(model, prompts, [(1, 5), (2, 10)])
    for neuron, measured in zip([(1, 5), (2, 10)], found, strict=True):
        lost = value(first) - value((*first, neuron))
        assert torch.allclose(measured, lost.float(), atol=1e-5)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gpt_neox"])
def test_integrated_gradients_equal_captum(shared, host, arch, tiny_folder, prompts):
    from captum.attr import IntegratedGradients

    from tl_toxmem.attribute import METHODS
    from tl_toxmem.config import AttributeConfig
    from tl_toxmem.tokens import align

    model, hf = shared(host, torch.float64, arch), plain_of(tiny_folder(arch))
    found = METHODS["integrated_gradients"](model, prompts, cfg=AttributeConfig(steps=7))
    for row, item in enumerate(align(model, prompts)):
        tokens = torch.tensor([item.full])
        _, clean = activations_of(hf, tokens)
        for layer, module in enumerate(written_by(hf)):

            def value(activation, item=item, tokens=tokens, module=module):
                handle = module.register_forward_pre_hook(lambda m, i: activation)
                try:
                    return log_prob(hf(tokens.expand(len(activation), -1)).logits, item)
                finally:
                    handle.remove()

            scores = IntegratedGradients(value).attribute(
                clean[layer].detach(), n_steps=7, method="riemann_middle"
            )
            expected = scores[0].sum(0).float()
            assert torch.allclose(
                found.per_prompt[row, layer], expected, atol=CAPTUM * float(expected.abs().max())
            )


def test_integrated_gradients_are_complete_within_what_they_report(load, host, prompts):
    """A layer's scores sum to what its neurons change together: measured by deleting the whole layer."""
    from tl_toxmem import Deletion, NeuronSet
    from tl_toxmem.attribute import METHODS
    from tl_toxmem.config import AttributeConfig
    from tl_toxmem.tokens import align, target_batch, target_log_prob

    model = load(host, torch.float64)
    batch = align(model, prompts)
    tokens, mask, keep = target_batch(model, batch)
    base = target_log_prob(model.forward(tokens, mask, keep=keep), batch)
    differences = []
    for layer in range(4):
        whole = NeuronSet(tuple((layer, i) for i in range(128)), 4, 128)
        with Deletion.zero(whole).applied(model):
            without = target_log_prob(model.forward(tokens, mask, keep=keep), batch)
        differences.append(base - without)
    difference = torch.stack(differences, 1)
    residuals = {}
    for tolerance in (0.3, 0.05, 0.005):
        cfg = AttributeConfig(completeness=tolerance)
        found = METHODS["integrated_gradients"](model, prompts, cfg=cfg)
        residual = found.per_prompt.double().sum(2) - difference
        assert residual.abs().max() <= found.facts["residual"] + 1e-5
        assert bool((residual.abs() <= tolerance * difference.abs().clamp(min=0.02) + 1e-5).all())
        residuals[tolerance] = found.facts["steps"]
    assert residuals[0.005] > residuals[0.05] >= residuals[0.3] >= 5
    # Steps that were added to make fifteen of five are those of fifteen.
    five = METHODS["integrated_gradients"](model, prompts, cfg=AttributeConfig(steps=15))
    tight = AttributeConfig(completeness=1e-9)
    most = METHODS["integrated_gradients"](model, prompts, cfg=tight)
    whole = METHODS["integrated_gradients"](model, prompts, cfg=AttributeConfig(steps=135))
    assert most.facts["most_steps"] == 135
    assert (five.scores - whole.scores).abs().max() < 0.05
    assert torch.allclose(most.scores, whole.scores, atol=1e-5)


def test_knowledge_neurons_equal_the_plain_loop(load, host, prompts, plain):
    """Dai et al.: probability of the target, the predicting positions scaled from 0 to 1, all else as it was."""
    from tl_toxmem.attribute import METHODS
    from tl_toxmem.config import AttributeConfig
    from tl_toxmem.tokens import align

    model = load(host, torch.float64)
    found = METHODS["knowledge_neurons"](model, prompts, cfg=AttributeConfig())
    for row, item in enumerate(align(model, prompts)):
        tokens, first = torch.tensor([item.full]), len(item.tokens) - 1
        _, clean = activations_of(plain, tokens)
        for layer, module in enumerate(written_by(plain)):
            total = torch.zeros(128, dtype=torch.float64)
            for step in range(20):
                own = ((step + 0.5) / 20 * clean[layer][0, first:]).detach().requires_grad_(True)
                whole = torch.cat([clean[layer][0, :first].detach(), own])[None]
                handle = module.register_forward_pre_hook(lambda m, i, whole=whole: whole)
                value = log_prob(plain(tokens).logits, item).exp().sum()
                handle.remove()
                gradient = torch.autograd.grad(value, own)[0]
                total += (clean[layer][0, first:] * gradient).sum(0).detach() / 20
            assert torch.allclose(found.per_prompt[row, layer].double(), total, atol=CLOSE)
    assert found.scores.abs().max() > 1e-5


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_in_a_linear_model_all_first_order_methods_are_what_is_measured(host, arch, prompts):
    """A model that is linear in its neurons to one part in a million: attention writes nothing, and one coordinate of
    the residual stream is so large that no neuron changes what the norms divide by."""
    from conftest import byte_tokenizer
    from tiny import random_model

    from tl_toxmem import LensModel
    from tl_toxmem.attribute import METHODS, measure_ablations
    from tl_toxmem.config import AttributeConfig

    hf = random_model(arch).double()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "attn.c_proj" in name or "o_proj" in name:
                parameter.zero_()
        hf.get_input_embeddings().weight[:, 0] = 1e6
        # The unembedding is tied to the embedding: what the large coordinate would say is taken out by the norm.
        norm = hf.transformer.ln_f if arch == "gpt2" else hf.model.norm
        norm.weight[0] = 0
    model = LensModel.from_pretrained(hf, tokenizer=byte_tokenizer(), host=host)
    neurons = [(layer, i) for layer in range(4) for i in range(0, 128, 8)]
    measured = measure_ablations(model, prompts, neurons)
    largest = float(measured.abs().max())
    assert largest > 1e-7
    for name in ("gradient", "integrated_gradients", "direct_effect"):
        found = METHODS[name](model, prompts, cfg=AttributeConfig(steps=3)).per_prompt
        own = torch.stack([found[:, layer, i] for layer, i in neurons])
        assert torch.allclose(own, measured, atol=LINEAR * largest, rtol=LINEAR), name


def test_experts_are_scikit_learns_auroc_of_the_highest_activation(load, host, prompts):
    from sklearn.metrics import roc_auc_score

    from tl_toxmem.attribute import METHODS, Labelled, Texts
    from tl_toxmem.config import AttributeConfig

    model = load(host, torch.float64)
    texts = [
        Labelled(
            f"{'you fool' if i % 3 else 'dear friend'} {i * 37 % 11} {'x' * (i % 5)}", i % 3 != 0
        )
        for i in range(33)
    ]
    found = METHODS["experts"](model, prompts, cfg=AttributeConfig(), texts=Texts(labelled=texts))
    peaks = []
    for one in texts:
        tokens, mask = model.pad([model.encode(one.text)])
        _, states = model.capture(tokens, mask, sites=[("mlp_post", i) for i in range(4)])
        peaks.append(
            torch.stack([states["mlp_post", i][0].max(0).values for i in range(4)]).float()
        )
    labels = [one.toxic for one in texts]
    stacked = torch.stack(peaks)
    for layer, i in ((0, 0), (1, 40), (2, 90), (3, 127)):
        expected = roc_auc_score(labels, stacked[:, layer, i].numpy()) - 0.5
        assert float(found.scores[layer, i]) == pytest.approx(expected, abs=1e-6)
    assert found.facts == {"n_toxic": 22, "n_other": 11}
    assert not found.n_prompts


def test_the_probe_finds_a_direction_that_was_written(load, host, prompts):
    """Two words that mean toxic or not: the probe's direction tells held-out texts apart, and cosines are of it."""
    from tl_toxmem.attribute import METHODS, Labelled, Texts
    from tl_toxmem.config import AttributeConfig

    model = load(host, torch.float64)
    texts = [Labelled(f"{'zzz' if i % 2 else 'aaa'} {i}", i % 2 == 1) for i in range(60)]
    found = METHODS["probe"](model, prompts, cfg=AttributeConfig(), texts=Texts(labelled=texts))
    assert found.facts["held_out_accuracy"] > 0.9
    assert float(found.scores.abs().max()) <= 1
    # A neuron that writes along the difference of the classes has a cosine of the right sign.
    best = found.top(1).neurons[0]
    vector = model.value_vectors(best[0])[best[1]].double()
    means = []
    for toxic in (True, False):
        rows = [model.encode(one.text) for one in texts if one.toxic is toxic]
        tokens, mask = model.pad(rows)
        _, states = model.capture(tokens, mask, sites=[("resid_post", 3)])
        state = states["resid_post", 3] * mask[..., None]
        means.append((state.sum(1) / mask.sum(1, keepdim=True)).mean(0))
    assert float(vector @ (means[0] - means[1])) > 0


def test_contrast_is_the_difference_of_mean_activations(load, host, prompts):
    from tl_toxmem import Prompt, PromptSet
    from tl_toxmem.attribute import METHODS, Texts
    from tl_toxmem.config import AttributeConfig

    model = load(host, torch.float64)
    benign = PromptSet.of(
        [Prompt(prompt="Ann is a", target=" star"), Prompt(prompt="so", target="?")]
    )
    texts = Texts(benign=benign)
    found = METHODS["contrast"](model, prompts, cfg=AttributeConfig(), texts=texts)

    def mean_of(prompt):
        row = model.encode(prompt.prompt) + model.encode(prompt.target)[:-1]
        tokens, mask = model.pad([row])
        _, states = model.capture(tokens, mask, sites=[("mlp_post", 2)])
        return states["mlp_post", 2][0, len(model.encode(prompt.prompt)) - 1 :].mean(0)

    base = torch.stack([mean_of(prompt) for prompt in benign]).mean(0)
    length = model.value_vectors(2).norm(dim=1)
    expected = torch.stack([(mean_of(prompt) - base) * length for prompt in prompts])
    assert torch.allclose(found.per_prompt[:, 2], expected.float(), atol=CLOSE)


def test_scores_survive_a_file(load, prompts, tmp_path):
    from dataclasses import replace

    from tl_toxmem import NeuronScores, ToxmemError, attribute_neurons
    from tl_toxmem.config import AttributeConfig

    cfg = AttributeConfig(verify_top=3, verify_random=4, method="integrated_gradients", steps=2)
    scores = attribute_neurons(load(), prompts, cfg=cfg, neutral=["the cat sat"])
    scores.save(tmp_path / "scores.safetensors")
    again = NeuronScores.load(tmp_path / "scores.safetensors")
    for name in ("scores", "per_prompt", "cost", "mean_activation", "loudness"):
        assert torch.equal(getattr(scores, name), getattr(again, name))
    assert again.verification.text() == scores.verification.text()
    assert (again.method, again.prompt_ids, dict(again.facts)) == (
        scores.method,
        scores.prompt_ids,
        dict(scores.facts),
    )
    assert again.frame(5).equals(scores.frame(5))
    assert again.model_name == scores.model_name != ""
    assert again.architecture == scores.architecture == "gpt2"
    assert f"of {scores.model_name}" in repr(again)
    assert f"Residual at most {scores.facts['residual']:.2g} (nats)" in repr(again)
    unmarked = replace(scores, model_name="", architecture="")
    unmarked.check_model(load())
    with pytest.raises(ToxmemError, match="a gpt2 model, and .* is llama"):
        scores.check_model(load(arch="llama"))
    assert "integrated_gradients" in scores._repr_html_()


def test_bad_input_is_said_in_one_line(load, prompts):
    from tl_toxmem import PromptSet, ToxmemError, attribute_neurons, compare_methods, verify
    from tl_toxmem.attribute import Labelled, Texts, measure_ablations
    from tl_toxmem.config import AttributeConfig

    model = load()

    def config(method):
        return AttributeConfig(method=method, **UNCHECKED)

    one_class = Texts(labelled=[Labelled(f"text {i}", True) for i in range(40)])
    with pytest.raises(ToxmemError, match="40 toxic and 0 other"):
        attribute_neurons(model, prompts, cfg=config("experts"), texts=one_class)
    with pytest.raises(ToxmemError, match="'probe' needs labelled text"):
        attribute_neurons(model, prompts, cfg=config("probe"))
    half = [Labelled(f"text {i}", i % 2 == 1) for i in range(39)] + [Labelled("\ud83d", True)]
    with pytest.raises(ToxmemError, match="labelled text 40 has half of a surrogate pair"):
        attribute_neurons(model, prompts, cfg=config("experts"), texts=Texts(labelled=half))
    with pytest.raises(ToxmemError, match="'contrast' needs benign prompts"):
        attribute_neurons(model, prompts, cfg=config("contrast"))
    with pytest.raises(ToxmemError, match="nothing to attribute"):
        attribute_neurons(model, PromptSet.of([]), cfg=config("gradient"))
    scores = attribute_neurons(model, prompts, cfg=config("gradient"))
    with pytest.raises(ToxmemError, match=r"k is 513: .* 0 to 512 \(the model has 512 neurons\)"):
        scores.top(513)
    with pytest.raises(ToxmemError, match="no cost"):
        scores.per_cost(floor=0.1)
    with pytest.raises(ToxmemError, match="no neuron 128 in layer 0"):
        measure_ablations(model, prompts, [(0, 128)])
    with pytest.raises(ToxmemError, match="unknown methods"):
        compare_methods(model, prompts, methods=["gradients"])
    with pytest.raises(ToxmemError, match="k is 0"):
        compare_methods(model, prompts, methods=["gradient"], k=0)
    other = scores.of_neurons("probe", torch.zeros(2, 5), seed=0)
    with pytest.raises(ToxmemError, match="2 x 5 neurons, not 4 x 128"):
        verify(model, prompts, other, k=3)
    with pytest.raises(ToxmemError, match="mean activations"):
        verify(model, prompts, scores, k=3, cfg=AttributeConfig(verify_law="mean"))
    with pytest.raises(ToxmemError, match="no prompts"):
        other.share(threshold=0.3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "line 2: no JSON"),
        ('{"text": "x"}', "line 2: give"),
        ('{"text": "x", "toxic": 1}', "line 2: give"),
        ('{"text": " ", "toxic": true}', "line 2: give"),
        ("[1]", "line 2: give"),
        ('{"text": "x \\ud83d", "toxic": true}', "line 2: the text has half of a surrogate pair"),
    ],
)
def test_labelled_text_is_read_or_refused_by_line(tmp_path, line, message):
    from tl_toxmem import ToxmemError
    from tl_toxmem.attribute import Labelled, read_labelled

    path = tmp_path / "labelled.jsonl"
    path.write_text('{"text": "fine", "toxic": false}\n\n')
    assert read_labelled(path) == [Labelled("fine", False)]
    # Neither the mark that some editors put first nor a separator that JSON leaves as it is ends or spoils a line.
    path.write_text('\ufeff{"text": "two\u2028lines", "toxic": true}\r\n', encoding="utf-8")
    assert read_labelled(path) == [Labelled("two\u2028lines", True)]
    path.write_text("\n")
    with pytest.raises(ToxmemError, match="has no texts: give"):
        read_labelled(path)
    path.write_text('{"text": "x"}', encoding="utf-16")
    with pytest.raises(ToxmemError, match=r"is no UTF-8 text \(.*\): save it as UTF-8"):
        read_labelled(path)
    path.write_text('{"text": "fine", "toxic": false}\n' + line)
    with pytest.raises(ToxmemError, match=message):
        read_labelled(path)
    with pytest.raises(ToxmemError, match="no labelled text at"):
        read_labelled(tmp_path / "none.jsonl")
