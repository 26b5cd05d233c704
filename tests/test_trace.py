"""The trace equals one full plain-transformers forward per cell, and says what it restored."""

import pytest
import torch
from plain import PlainTracer, rome_noise
from tiny import TINY

pytestmark = pytest.mark.host

# Float64 throughout: the trace keeps float32, and this is its resolution for values up to about one.
RESOLUTION = 1e-6
ROME = {"noise_stream": "rome", "noise_level": 0.5, "metric": "prob"}


def window(layer, *, width, n_layers):
    """ROME's clipped window, [layer - width // 2, layer + width / 2)."""
    return range(max(0, layer - width // 2), min(n_layers, layer - (-width // 2)))


def plain_of(model, hf, item, cfg):
    span = item.subject
    noise = rome_noise(cfg.n_noise, span, model.d_model, cfg.noise_level)

    def add(embeddings):
        embeddings[:, slice(*span)] += noise.to(embeddings)
        return embeddings

    return PlainTracer(hf, item.tokens, add, cfg.n_noise)


@pytest.mark.parametrize("arch", TINY)
def test_parity_with_rome(shared, tiny_folder, host, arch, prompts):
    """Every cell of every panel, with prompts of unequal length traced together (so left-padded)."""
    from transformers import AutoModelForCausalLM

    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig
    from tl_toxmem.tokens import align

    model = shared(host, torch.float64, arch)
    cfg = TraceConfig(window=2, n_noise=3, parts=False, **ROME)
    trace = causal_trace(model, prompts, cfg=cfg)
    hf = AutoModelForCausalLM.from_pretrained(
        tiny_folder(arch), dtype=torch.float64, attn_implementation="eager"
    ).eval()
    assert trace.sites == (
        "resid_post",
        "mlp_out",
        "mlp_out_single",
        "attn_out",
        "attn_out_single",
        "resid_post_without_mlp",
        "resid_post_without_attn",
    )
    for p, item in enumerate(align(model, prompts)):
        plain = plain_of(model, hf, item, cfg)
        target = item.target[0]
        assert float(trace.corrupted[0, p]) == pytest.approx(
            float(plain.prob(plain.run(), target)), abs=RESOLUTION
        )
        last = item.subject[1] - 1
        for s, name in enumerate(trace.sites):
            site = "_".join(name.split("_")[:2])
            severed = name.partition("_without_")[2]
            frozen = plain.outputs(f"{severed}_out", last) if severed else {}
            for layer in range(4):
                layers = range(layer, layer + 1)
                if name in ("mlp_out", "attn_out"):
                    layers = window(layer, width=2, n_layers=4)
                assert int(trace.n_restored[s, layer]) == len(layers)
                for pos in range(len(item.tokens)) if not severed else [last]:
                    logits = plain.run(
                        [(site, at, [pos]) for at in layers],
                        [(f"{severed}_out", at, pos, v) for at, v in frozen.items() if at > layer],
                    )
                    expected = float(plain.prob(logits, target))
                    found = float(trace.restored[0, p, s, layer, pos])
                    assert found == pytest.approx(expected, abs=RESOLUTION), (name, layer, pos)
