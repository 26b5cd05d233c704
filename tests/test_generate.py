"""What makes decoding fast changes no token: the nucleus, the caches' room, the laid-out W_O."""

import pytest
import torch


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("scale", [1, 3, 6], ids=["flat", "middling", "peaked"])
@pytest.mark.parametrize("ties", [False, True])
def test_the_nucleus_is_that_of_transformers(top_p, scale, ties):
    from transformers import TopPLogitsWarper

    from tl_toxmem.model.generate import _LIKELIEST, _outside_nucleus

    torch.manual_seed(0)
    logits = torch.randn(8, 4 * _LIKELIEST) * scale
    logits[0, 50:] = -torch.inf  # after top-k
    if ties:
        logits = logits.bfloat16().float()
    kept = TopPLogitsWarper(top_p)(None, logits).isfinite()
    assert torch.equal(
        logits.masked_fill(_outside_nucleus(logits, top_p), -torch.inf).isfinite(), kept
    )


@pytest.mark.host
def test_tokens_beyond_a_cache_s_first_room_are_those_without_a_cache(
    load, host, arch, monkeypatch
):
    from tl_toxmem.model import cache

    monkeypatch.setattr(cache, "_AHEAD", 3)
    model = load(host, torch.float64, arch=arch)
    model.eos_ids = ()
    tokens, mask = model.pad([model.encode("Bob is a"), model.encode("x")])
    made = model.generate(tokens, mask, max_new_tokens=12)
    for _ in range(12):
        token = model.forward(tokens, mask, keep=1)[:, -1].argmax(-1, keepdim=True)
        tokens, mask = torch.cat([tokens, token], 1), torch.cat([mask, torch.ones_like(token)], 1)
    assert torch.equal(made, tokens)


@pytest.mark.host
def test_generating_leaves_the_weights_where_they_were(load, host):
    model = load(host)
    tokens, mask = model.pad([model.encode("Bob is a")])
    places = [p.data_ptr() for p in model.host.raw.parameters()]
    strides = [p.stride() for p in model.host.raw.parameters()]

    def fail(activation):
        raise KeyboardInterrupt

    model.generate(tokens, mask, max_new_tokens=2)
    with pytest.raises(KeyboardInterrupt), model.hooks([("mlp_post", 1, fail)]):
        model.generate(tokens, mask, max_new_tokens=2)
    assert [p.data_ptr() for p in model.host.raw.parameters()] == places
    assert [p.stride() for p in model.host.raw.parameters()] == strides
