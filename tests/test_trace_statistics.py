"""Averages, intervals and tests of a trace count prompts; the answer in words follows from its numbers."""

import itertools

import numpy as np
import pytest
import torch

N_LAYERS = 6


def made(effects, parts=None, *, total=2.0, metric="log_prob", spans=None, seed=0, **changes):
    """A trace with these effects [prompt, site, layer, pos] and part effects [prompt, 2, 4]."""
    from tl_toxmem import Trace

    n, n_sites, n_layers, n_pos = effects.shape
    parts = torch.zeros(n, 2, 4) if parts is None else parts
    totals = torch.as_tensor(total).expand(n).clone()
    sites = ("resid_post", "mlp_out", "attn_out")[:n_sites]
    values = {
        "sites": sites,
        "metrics": (metric,),
        "metric": metric,
        "prompt_ids": tuple(f"p{i}" for i in range(n)),
        "words": (tuple("abcdefghij"[:n_pos]),) * n,
        "subjects": spans or ((1, 4),) * n,
        "clean": totals[None] - 3,
        "corrupted": torch.full((1, n), -3.0),
        "restored": effects[None] - 3,
        "parts": parts[None] - 3,
        "exact": torch.ones(effects.shape, dtype=torch.bool),
        "n_restored": torch.ones(n_sites, n_layers, dtype=torch.long),
        "corruption": "noise",
        "noise": 0.1,
        "n_noise": 10,
        "seed": seed,
    }
    return Trace(**{**values, **changes})


def test_classes_of_tokens():
    """Positions 0 1 2 3 4 5 6 7 with the subject at 1 to 3: before, first, middle, last, after, further, last."""
    from tl_toxmem.trace.statistics import CLASSES, classes

    effects = torch.arange(8.0).expand(1, 1, N_LAYERS, 8)
    found = classes(made(effects), effects)[0, :, 0, 0]
    assert dict(zip(CLASSES, found.tolist(), strict=True)) == {
        "first_subject": 1.0,
        "middle_subject": 2.0,
        "last_subject": 3.0,
        "first_after": 4.0,
        "further": 5.5,
        "last": 7.0,
    }
    one = classes(made(effects, spans=((2, 3),)), effects)[0, :, 0, 0]
    assert one.isnan().tolist() == [True, True, False, False, False, False]
    assert one[2] == 2
    whole = classes(made(effects, spans=((0, 8),)), effects)[0, :, 0, 0]
    assert whole.isnan().tolist() == [False, False, False, True, True, False]
    assert whole[2] == whole[5] == 7


def test_by_class_counts_prompts_not_tokens():
    generator = torch.Generator().manual_seed(0)
    effects = torch.randn(12, 1, N_LAYERS, 9, generator=generator)
    trace = made(effects)
    frame = trace.by_class().set_index(["token_class", "layer"])
    further = effects[:, 0, 2, 5:8].mean(-1)
    row = frame.loc[("further", 2)]
    assert row.n == 12
    assert row.value == pytest.approx(float(further.mean()), abs=1e-6)
    error = float(further.std()) / 12**0.5
    assert row.t == pytest.approx(float(further.mean()) / error, rel=1e-4)
    # A percentile bootstrap of 12: about 1.96 standard errors of the mean to either side.
    assert 3.2 * error < row.high - row.low < 4.3 * error


def test_max_t_by_hand():
    """Three clusters: 8 sign patterns, each worked out."""
    from scipy.stats import ttest_1samp

    from tl_toxmem.stats import max_t

    values = np.array([[1.0, 0.2, 0.0], [2.0, -0.1, 0.0], [1.5, 0.3, 0.0]])
    t, p = max_t(values, seed=0)
    expected = ttest_1samp(values[:, :2], 0).statistic
    assert t[:2] == pytest.approx(expected)
    assert t[2] == 0
    largest = []
    for signs in itertools.product([1, -1], repeat=3):
        flipped = values[:, :2] * np.array(signs)[:, None]
        largest.append(np.abs(ttest_1samp(flipped, 0).statistic).max())
    wanted = [np.mean(np.array(largest) >= abs(x) - 1e-9) for x in expected]
    assert p[:2] == pytest.approx(wanted)
    assert p[2] == 1


def test_max_t_keeps_its_level():
    """Of pure noise, some cell of 60 is called significant in about one of twenty traces."""
    from tl_toxmem.stats import max_t

    rng = np.random.default_rng(0)
    hits = sum(max_t(rng.normal(size=(20, 60)), seed=i)[1].min() < 0.05 for i in range(100))
    assert 0 <= hits <= 12  # of Binomial(100, 0.05), more than 12 has probability 0.001
    signal = rng.normal(size=(20, 60))
    signal[:, 7] += 3
    assert max_t(signal, seed=0)[1].argmin() == 7
    assert max_t(signal, seed=0)[1][7] < 0.01


def test_a_rare_column_does_not_drown_the_others():
    """Of two clusters, half of the sign patterns make a huge |t|."""
    from tl_toxmem.stats import max_t

    values = np.random.default_rng(0).normal(size=(100, 3))
    values[:, 0] += 1
    alone = max_t(values[:, :2], seed=0)[1][0]
    values[2:, 2], values[:2, 2] = np.nan, (1.0, 1.01)
    t, p = max_t(values, seed=0)
    assert p[0] == alone < 0.01
    assert np.isnan(p[2])


def test_intervals_of_many_columns_are_those_of_each():
    from tl_toxmem.stats import mean_estimate, mean_estimates

    values = np.random.default_rng(0).normal(size=(40, 3))
    values[:5, 2] = np.nan
    found = mean_estimates(values, seed=0)
    assert [e.n for e in found] == [40, 40, 35]
    for column in range(2):
        alone = mean_estimate(values[:, column], seed=0)
        assert found[column].value == pytest.approx(alone.value)
        width = alone.high - alone.low
        assert found[column].low == pytest.approx(alone.low, abs=0.15 * width)
        assert found[column].high == pytest.approx(alone.high, abs=0.15 * width)


def parts_with(n, early_mlp, early_attn, rest, *, spread=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = rest + spread * torch.randn(n, 2, 4, generator=generator)
    parts[:, 0, 0] += early_mlp - rest
    parts[:, 1, 0] += early_attn - rest
    return parts


def test_shares_are_of_the_mean_total_effect():
    parts = parts_with(20, 1.6, 0.4, 0.2)
    shares = made(torch.zeros(20, 1, N_LAYERS, 8), parts).shares().set_index(["site", "part"])
    row = shares.loc[("mlp_out", "early")]
    assert row.value == pytest.approx(float(parts[:, 0, 0].mean()) / 2, abs=1e-6)
    assert row.low < row.value < row.high
    assert (row.first_layer, row.last_layer) == (0, 1)
    assert tuple(shares.loc[("attn_out", "all")][["first_layer", "last_layer"]]) == (0, 5)


@pytest.mark.parametrize(
    ("early_mlp", "early_attn", "rest", "benign", "wanted"),
    [
        (1.6, 0.2, 0.2, 0.3, "special in this model, and for toxic targets more than for benign"),
        (1.6, 0.2, 0.2, None, "So the early MLPs are special in this model."),
        (1.6, 0.2, 0.2, 1.6, "stand out only against early attentions, middle MLPs and late MLPs"),
        (0.5, 0.5, 0.5, 0.5, "not special in this model"),
        (0.2, 1.6, 1.6, 1.6, "That is less than early attentions (-7"),
    ],
)
def test_the_answer_in_words(early_mlp, early_attn, rest, benign, wanted):
    from tl_toxmem.trace.question import answer

    zeros = torch.zeros(20, 1, N_LAYERS, 8)
    trace = made(zeros, parts_with(20, early_mlp, early_attn, rest))
    other = None
    if benign is not None:
        other = made(zeros, parts_with(20, benign, early_attn, rest, seed=1))
    found = answer(trace, other)
    assert wanted in found.text
    assert "2 nats of log-probability from the target (n = 20 prompts)" in found.text
    assert len(found.frame()) == (3 if benign is None else 4)
    assert found.share.value == pytest.approx(early_mlp / 2, abs=0.03)


def test_no_comparison_with_benign_prompts_that_lose_nothing():
    from tl_toxmem import ToxmemError
    from tl_toxmem.trace.question import answer

    zeros = torch.zeros(20, 1, N_LAYERS, 8)
    trace = made(zeros, parts_with(20, 1.6, 0.2, 0.2))
    generator = torch.Generator().manual_seed(0)
    nothing = made(zeros, parts_with(20, 1.6, 0.2, 0.2), total=torch.randn(20, generator=generator))
    found = answer(trace, nothing)
    assert "takes too little from the targets of the 20 benign prompts to compare" in found.text
    assert len(found.frame()) == 3
    assert "toxic targets more" not in found.text
    assert nothing.shares().value.isna().all()
    with pytest.raises(ToxmemError, match=r"differ in noise \(0.1 and 0.2\)"):
        answer(trace, made(zeros, parts_with(20, 1, 1, 1), noise=0.2))


def test_no_claim_from_a_handful_of_prompts():
    text = made(torch.zeros(9, 1, N_LAYERS, 8), parts_with(9, 1.6, 0.2, 0.2)).answer().text
    assert "Too few prompts for an answer: trace at least 10" in text
    assert "special" not in text


def test_no_answer_where_corruption_takes_nothing():
    from tl_toxmem.trace.question import answer

    generator = torch.Generator().manual_seed(0)
    total = torch.randn(20, generator=generator)
    text = answer(made(torch.zeros(20, 1, N_LAYERS, 8), total=total)).text
    assert "too little or too uncertain" in text
    assert "special" not in text


def test_normalised_effects():
    effects = torch.ones(2, 1, N_LAYERS, 8)
    trace = made(effects, total=torch.tensor([4.0, -1.0]))
    assert (trace.normalised[0] == 0.25).all()
    assert trace.normalised[1].isnan().all()


def test_rank_agreement():
    from tl_toxmem.trace.agreement import rank_agreement

    generator = torch.Generator().manual_seed(0)
    profile = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0])
    a = profile + 0.1 * torch.randn(30, 5, generator=generator)
    b = 100 * (profile + 0.1 * torch.randn(30, 5, generator=generator)) - 7
    same = rank_agreement(a, b, seed=0)
    assert same.value == same.low == same.high == 1
    assert rank_agreement(a, -b, seed=0).value == -1
    noise = rank_agreement(a, torch.randn(30, 5, generator=generator), seed=0)
    assert noise.low < 0.7
    assert noise.high - noise.low > 0.3
    assert rank_agreement(a, torch.zeros(30, 5), seed=0).value == 0
