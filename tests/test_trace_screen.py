"""Screening: what is measured is exact, what is estimated says so."""

import pytest
import torch

pytestmark = pytest.mark.host


def both(model, prompts, **settings):
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    exact = causal_trace(model, prompts, cfg=TraceConfig(n_noise=3))
    screened = causal_trace(model, prompts, cfg=TraceConfig(n_noise=3, **settings))
    return exact, screened


@pytest.mark.parametrize("screen", ["gradient", "bfloat16"])
def test_the_highest_cells_are_measured(shared, host, arch, prompts, screen):
    model = shared(host, torch.float32, arch)
    exact, screened = both(model, prompts, screen=screen, verify_top=3)
    assert exact.exact[~exact.effect.isnan()].all()
    known = screened.exact
    assert torch.allclose(screened.effect[known], exact.effect[known], atol=1e-5)
    assert torch.allclose(screened.parts, exact.parts, atol=1e-5)
    start, end = exact.subjects[0]
    for s, site in enumerate(exact.sites):
        possible = ~exact.effect[0, s].isnan()
        if "_without_" in site:  # few, and always measured
            assert known[0, s][possible].all()
            continue
        zero = possible.clone()
        zero[:, start:] = False
        measured = known[0, s] & possible & ~zero
        assert int(measured.sum()) >= 3
        # Uphill: nothing beside the best measured cell is left unmeasured.
        effects = screened.effect[0, s].masked_fill(~measured, -torch.inf)
        layer, pos = divmod(int(effects.argmax()), effects.shape[1])
        layers = range(max(0, layer - 2), min(model.n_layers, layer + 3))
        beside = [(i, pos) for i in layers] + [(layer, pos - 1), (layer, pos + 1)]
        assert all(
            known[0, s, i, p] or not possible[i, p] for i, p in beside if 0 <= p < possible.shape[1]
        )
        rest = screened.effect[0, s][possible & ~known[0, s]]
        assert rest.numel()
        assert rest.isfinite().all()


def test_screened_by_what_restoring_lowers(shared, host, prompts):
    """KL: the cells that lower it most are measured."""
    exact, screened = both(
        shared(host, torch.float32, "gpt2"), prompts, screen="bfloat16", verify_top=1, metric="kl"
    )
    own = exact.in_metric("kl").effect
    for p in range(len(exact.words)):
        for s in range(5):
            best = int(own[p, s].nan_to_num(-1).argmax())
            assert screened.exact[p, s].flatten()[best]


def test_a_copy_in_bfloat16_must_be_the_same_model(shared, host, prompts):
    from tl_toxmem import Deletion, NeuronSet, ToxmemError, causal_trace
    from tl_toxmem.config import TraceConfig

    cfg = TraceConfig(screen="bfloat16")
    model = shared(host, torch.float32, "gpt2")
    edit = Deletion.zero(NeuronSet(((0, 0),), 4, 128))
    with edit.applied(model), pytest.raises(ToxmemError, match="without the hooks"):
        causal_trace(model, prompts, cfg=cfg)
    with pytest.raises(ToxmemError, match="gains nothing"):
        causal_trace(shared(host, torch.bfloat16, "gpt2"), prompts, cfg=cfg)


def test_bfloat16_estimates_every_metric(shared, host, prompts):
    exact, screened = both(
        shared(host, torch.float32, "gpt2"), prompts, screen="bfloat16", verify_top=1
    )
    for metric in ("log_prob", "prob", "kl"):
        a, b = (t.in_metric(metric).effect[:, :5].nan_to_num() for t in (exact, screened))
        assert float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) > 0.95


def test_gradients_estimate_one_metric(shared, host, prompts):
    """To first order, so exact where noise is small and one layer is restored.

    In a window the estimate counts what one layer does through the next, which the restored next layer does not.
    """
    from tl_toxmem import ToxmemError, causal_trace
    from tl_toxmem.config import TraceConfig

    model = shared(host, torch.float64, "gpt2")
    small = {"n_noise": 3, "noise_level": 1e-4, "severed": (), "metric": "logit"}
    trace = causal_trace(model, prompts, cfg=TraceConfig(**small))
    alone = [s for s, site in enumerate(trace.sites) if site not in ("mlp_out", "attn_out")]
    exact = trace.effect[:, alone].double()
    cfg = TraceConfig(**small, screen="gradient", verify_top=1)
    screened = causal_trace(model, prompts, cfg=cfg)
    guessed = screened.effect[:, alone].double()
    there = ~exact.isnan()
    largest = float(exact[there].abs().max())
    assert largest > 0
    assert float((guessed - exact)[there].abs().max()) < 0.02 * largest
    with pytest.raises(ToxmemError, match="screened by 'logit': 'kl' is known of few cells"):
        screened.in_metric("kl")
