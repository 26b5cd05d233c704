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


TEXTS = ("Bob is a", "x", "the town of Ulm", "what now")


def _ways(arch):
    from tl_toxmem.model import Sampling

    return {
        "greedy": None,
        "sampled": Sampling(),
        "filtered": Sampling(temperature=0.8, top_k=40, top_p=0.9),
        "nucleus": Sampling(top_p=0.9),
        "top_k": Sampling(top_k=30),
    }


@pytest.mark.host
@pytest.mark.parametrize("way", ["greedy", "sampled", "filtered", "nucleus", "top_k"])
def test_in_a_batch_as_one_by_one(load, host, arch, way):
    """Left-padded rows, several continuations of a prompt from one run of it, rows that end early and leave."""
    model = load(host, torch.float64, arch=arch)
    model.eos_ids = tuple(range(60, 110))  # so that rows end at different times
    rows, sampling = [model.encode(text) for text in TEXTS], _ways(arch)[way]
    tokens, mask = model.pad(rows)
    seeds = torch.arange(12) * 7919
    how = {"max_new_tokens": 9, "sampling": sampling}
    made = model.generate(tokens, mask, seeds=seeds, copies=3, **how)
    for i in range(12):
        alone = model.generate(*model.pad([rows[i // 3]]), seeds=seeds[i : i + 1], **how)
        new = alone[0, len(rows[i // 3]) :]
        row = made[i, tokens.shape[1] :]
        assert torch.equal(row[: len(new)], new)
        assert bool((row[len(new) :] == model.pad_id).all())
    assert torch.equal(made[:, : tokens.shape[1]], tokens.repeat_interleave(3, 0))


def test_rows_draw_tokens_as_often_as_they_are_likely():
    """Chi-square of 20,000 rows against the filtered distribution."""
    from scipy.stats import chisquare

    from tl_toxmem.model.generate import Draws, Sampling, _draw, _outside_nucleus

    torch.manual_seed(0)
    logits = 2 * torch.randn(1, 60)
    n = 20_000
    for sampling in (Sampling(), Sampling(top_p=0.8), Sampling(top_k=10), Sampling(0.7, 20, 0.9)):
        scaled = logits / sampling.temperature
        if sampling.top_k:
            low = scaled.topk(sampling.top_k).values[:, -1:]
            scaled = scaled.masked_fill(scaled < low, -torch.inf)
        if sampling.top_p < 1:
            scaled = scaled.masked_fill(_outside_nucleus(scaled, sampling.top_p), -torch.inf)
        expected = scaled.softmax(-1)[0].double()
        draws = Draws(seeds=torch.arange(n))
        token = _draw(logits.expand(n, -1), sampling, draws, torch.arange(n), 4)
        seen = torch.bincount(token, minlength=60).double()
        kept = expected > 0
        assert not bool(seen[~kept].any())
        assert chisquare(seen[kept], expected[kept] / expected[kept].sum() * n).pvalue > 1e-3


def test_a_seed_is_the_same_luck_for_another_model():
    """Two nearly equal distributions draw nearly always the same token, and two steps independent ones."""
    from tl_toxmem.model.generate import Draws, Sampling, _draw

    torch.manual_seed(0)
    logits, n = torch.randn(1, 500), 4000
    near = logits + 0.02 * torch.randn(1, 500)
    rows, draws = torch.arange(n), Draws(seeds=torch.arange(n))
    first, second, later = (
        _draw(x.expand(n, -1), Sampling(), draws, rows, step)
        for x, step in ((logits, 0), (near, 0), (logits, 1))
    )
    apart = 0.5 * float((logits.softmax(-1) - near.softmax(-1)).abs().sum())
    assert float((first != second).float().mean()) < 3 * apart  # 2 is the bound in expectation
    assert float((first == later).float().mean()) < 0.02
