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


@pytest.mark.host
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_in_a_batch_as_one_by_one(load, host, arch, sampled):
    """Left-padded rows, several continuations of a prompt from one run of it, rows that end early and leave."""
    from tl_toxmem.model import Sampling

    model = load(host, torch.float64, arch=arch)
    model.eos_ids = tuple(range(60, 110))  # so that rows end at different times
    rows = [model.encode(text) for text in TEXTS]
    sampling = Sampling(temperature=0.8, top_k=40, top_p=0.9) if sampled else None
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

    from tl_toxmem.model.generate import Draws, Sampling, _outside_nucleus, draw

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
        token = draw(logits.expand(n, -1), sampling, draws, torch.arange(n), 4)
        seen = torch.bincount(token, minlength=60).double()
        kept = expected > 0
        assert not bool(seen[~kept].any())
        assert chisquare(seen[kept], expected[kept] / expected[kept].sum() * n).pvalue > 1e-3


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_row_s_token_is_its_own_whatever_settles_its_neighbours(top_p):
    """Rows whose nucleus is small, and rows that need the whole vocabulary in order."""
    from tl_toxmem.model.generate import _LIKELIEST, Draws, Sampling, _nucleus, draw

    torch.manual_seed(0)
    logits = torch.randn(12, 4 * _LIKELIEST) * torch.tensor([1.0, 4.0, 8.0]).repeat(4)[:, None]
    assert len(set(_nucleus(logits, 0.9)[3].tolist())) == 2
    rows, draws, sampling = torch.arange(12), Draws(seeds=torch.arange(12)), Sampling(top_p=top_p)
    together = draw(logits, sampling, draws, rows, 2)
    alone = [draw(logits[i : i + 1], sampling, draws, rows[i : i + 1], 2) for i in range(12)]
    assert torch.equal(together, torch.cat(alone))


def test_a_seed_is_the_same_luck_for_another_model():
    """Two nearly equal distributions draw nearly always the same token, and two steps independent ones."""
    from tl_toxmem.model.generate import Draws, Sampling, draw

    torch.manual_seed(0)
    logits, n = torch.randn(1, 500), 4000
    near = logits + 0.02 * torch.randn(1, 500)
    rows, draws = torch.arange(n), Draws(seeds=torch.arange(n))
    first, second, later = (
        draw(x.expand(n, -1), Sampling(), draws, rows, step)
        for x, step in ((logits, 0), (near, 0), (logits, 1))
    )
    apart = 0.5 * float((logits.softmax(-1) - near.softmax(-1)).abs().sum())
    assert float((first != second).float().mean()) < 3 * apart  # 2 is the bound in expectation
    assert float((first == later).float().mean()) < 0.02
