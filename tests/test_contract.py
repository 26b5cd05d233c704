"""One surface on every host for every architecture: the numbers of plain transformers, on left-padded batches."""

import pytest
import torch

pytestmark = pytest.mark.host
# float64: the same sums in another order. In all architectures but GPT-2, transformers takes parts in float32
# whatever the precision (RMSNorm, softmax, rotary embeddings), so there only float32's rounding can be asked for.
EXACT, SINGLE = 1e-10, 3e-5
TEXTS = ["Bob is a", "the town", "x", "a longer text than those"]


@pytest.fixture
def tolerance(arch):
    return EXACT if arch == "gpt2" else SINGLE


@pytest.fixture
def plain(tiny_folder, arch):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder(arch), dtype=torch.float64).eval()


@pytest.fixture
def model(load, host, arch):
    return load(host, torch.float64, arch=arch)


@pytest.fixture
def batch(model):
    return model.pad([model.encode(text) for text in TEXTS])


def blocks_of(plain):
    """The transformer blocks of a Hugging Face model, and the names of their attention."""
    base = plain.base_model
    blocks = base.h if hasattr(base, "h") else base.layers
    names = [n for n in ("attn", "attention", "self_attn") if hasattr(blocks[0], n)]
    return blocks, names[0]


def w_out_of(plain, arch, layer, name="w_out"):
    from tl_toxmem.sites import ARCHITECTURES

    path = getattr(ARCHITECTURES[arch], name).format(layer=layer)
    return plain.get_submodule(path.removesuffix(".weight"))


def test_logits_are_those_of_transformers(model, batch, plain, arch, tolerance):
    from tl_toxmem.model import plain_log_probs

    tokens, mask = batch
    expected = plain_log_probs(plain, tokens, mask)
    found = model.forward(tokens, mask).log_softmax(-1)
    assert (found - expected)[mask.bool()].abs().max() < tolerance
    kept = model.forward(tokens, mask, keep=1).log_softmax(-1)
    assert torch.allclose(kept, expected[:, -1:], atol=tolerance)


def test_a_batch_is_its_rows_alone(model, batch, tolerance):
    tokens, mask = batch
    together = model.forward(tokens, mask)
    for row, text in enumerate(TEXTS):
        alone = model.forward(*model.pad([model.encode(text)]))
        n = alone.shape[1]
        assert torch.allclose(together[row, -n:], alone[0], atol=tolerance)


def test_hook_points_have_the_values_of_the_hugging_face_modules(
    model, batch, plain, arch, tolerance
):
    """What is captured at each site is what the module of that name gives."""
    tokens, mask = batch
    found = {}

    def keep(name):
        def hook(module, args, out):
            found[name] = out[0] if isinstance(out, tuple) else out

        return hook

    blocks, attention = blocks_of(plain)
    for layer, block in enumerate(blocks):
        block.register_forward_hook(keep(("resid_post", layer)))
        getattr(block, attention).register_forward_hook(keep(("attn_out", layer)))
        block.mlp.register_forward_hook(keep(("mlp_out", layer)))
        w_out_of(plain, arch, layer, "w_pre").register_forward_hook(keep(("mlp_pre", layer)))
        w_out_of(plain, arch, layer).register_forward_hook(
            lambda m, args, out, layer=layer: found.__setitem__(("mlp_post", layer), args[0])
        )
    plain.get_input_embeddings().register_forward_hook(keep(("embed", 0)))
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        plain(tokens, attention_mask=mask, position_ids=positions)
    _, captured = model.capture(tokens, mask, sites=list(found))
    assert set(captured) == set(found)
    for key, value in captured.items():
        assert value.shape == found[key].shape
        assert torch.allclose(value[mask.bool()], found[key][mask.bool()], atol=tolerance), key


@pytest.mark.parametrize("site", ["mlp_pre", "mlp_post", "mlp_out", "attn_out"])
def test_what_a_hook_returns_is_what_the_model_goes_on_with(
    model, batch, plain, arch, site, tolerance
):
    from tl_toxmem.model import plain_log_probs

    tokens, mask = batch
    change = torch.linspace(
        -0.5, 0.5, model.d_mlp if site in ("mlp_pre", "mlp_post") else model.d_model
    )
    with model.hooks([(site, 1, lambda a: a + change.to(a.dtype))]):
        found = model.forward(tokens, mask).log_softmax(-1)
    blocks, attention = blocks_of(plain)
    module = {
        "mlp_pre": w_out_of(plain, arch, 1, "w_pre"),
        "mlp_post": w_out_of(plain, arch, 1),
        "mlp_out": blocks[1].mlp,
        "attn_out": getattr(blocks[1], attention),
    }[site]
    if site == "mlp_post":  # what goes into the output matrix
        module.register_forward_pre_hook(lambda m, args: (args[0] + change.to(args[0].dtype),))
    else:

        def add(m, args, out):
            if isinstance(out, tuple):
                return (out[0] + change.to(out[0].dtype), *out[1:])
            return out + change.to(out.dtype)

        module.register_forward_hook(add)
    expected = plain_log_probs(plain, tokens, mask)
    base = model.forward(tokens, mask).log_softmax(-1)
    assert (found - base)[mask.bool()].abs().max() > 1e-2
    assert (found - expected)[mask.bool()].abs().max() < tolerance


def test_mlp_weights_in_one_orientation(model, batch, arch, tolerance):
    """`mlp_out = mlp_post W_out + b_out`, and editing the view edits the model."""
    tokens, mask = batch
    sites = [("mlp_post", 2), ("mlp_out", 2)]
    _, found = model.capture(tokens, mask, sites=sites)
    weights = model.mlp_weights(2)
    assert weights.w_out.shape == (model.d_mlp, model.d_model)
    assert weights.w_pre.shape == (model.d_model, model.d_mlp)
    bias = 0 if weights.b_out is None else weights.b_out
    expected = found["mlp_post", 2] @ weights.w_out + bias
    assert (expected - found["mlp_out", 2])[mask.bool()].abs().max() < tolerance
    before = weights.w_out.clone()
    weights.w_out.zero_()
    _, silent = model.capture(tokens, mask, sites=sites)
    assert (silent["mlp_out", 2] - bias)[mask.bool()].abs().max() < tolerance
    weights.w_out.copy_(before)


def test_mlp_weights_of_no_layer(model):
    from tl_toxmem import ToxmemError

    with pytest.raises(ToxmemError, match="no layer 4: the model has layers 0 to 3"):
        model.mlp_weights(4)


def test_resuming_skips_the_blocks_below_and_gives_the_same_logits(model, batch, tolerance):
    tokens, mask = batch
    n = model.n_layers
    sites = [("resid_pre", layer) for layer in range(n)] + [("resid_post", n - 1)]
    logits, entering = model.capture(tokens, mask, sites=sites)
    real = mask.bool()
    for layer in range(n + 1):
        key = ("resid_pre", layer) if layer < n else ("resid_post", n - 1)
        ran: list[int] = []
        watch = [("mlp_post", at, lambda a, at=at, ran=ran: ran.append(at)) for at in range(n)]
        with model.hooks(watch):
            resumed = model.resume(entering[key], layer, mask)
        assert ran == list(range(layer, n))
        assert torch.allclose(resumed[real], logits[real], atol=tolerance)


def test_gradients_are_those_of_autograd(model, batch, plain, arch, tolerance):
    tokens, mask = batch
    activations, gradients = model.gradients(
        tokens, mask, metric=lambda logits: logits[:, -1].log_softmax(-1)[:, 7].sum()
    )
    kept = []

    def keep(module, args, out):
        args[0].retain_grad()
        kept.append(args[0])

    for layer in range(model.n_layers):
        w_out_of(plain, arch, layer).register_forward_hook(keep)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = plain(tokens, attention_mask=mask, position_ids=positions).logits
    logits[:, -1].log_softmax(-1)[:, 7].sum().backward()
    real = mask.bool()
    for a, g, expected in zip(activations, gradients, kept, strict=True):
        assert torch.allclose(a[real], expected.detach()[real], atol=tolerance)
        assert torch.allclose(g[real], expected.grad[real], atol=tolerance)
    assert all(p.grad is None for p in model.host.raw.parameters())


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_generation_under_hooks_is_that_of_the_baked_model(model, batch, sampled):
    """Token for token, also in a left-padded batch with a cache."""
    from tl_toxmem import Deletion, NeuronSet, bake
    from tl_toxmem.model import Sampling

    tokens, mask = batch
    shape = (model.n_layers, model.d_mlp)
    half = NeuronSet(tuple((layer, i) for layer in range(4) for i in range(60)), *shape)
    deletion = Deletion.zero(half)
    sampling = Sampling(temperature=0.8, top_k=40, top_p=0.9) if sampled else None
    generator = torch.Generator().manual_seed(3) if sampled else None
    base = model.generate(tokens, mask, max_new_tokens=8)
    with deletion.applied(model):
        ours = model.generate(
            tokens, mask, max_new_tokens=8, sampling=sampling, generator=generator
        )
    hf = model.clean_hf()
    undo = bake(hf, deletion)
    torch.manual_seed(3)  # transformers samples from the global generator
    options = {"temperature": 0.8, "top_k": 40, "top_p": 0.9} if sampled else {}
    theirs = hf.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=8,
        do_sample=sampled,
        pad_token_id=model.pad_id,
        **options,
    )
    undo.restore()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, base)
