"""The trace equals one full plain-transformers forward per cell, and says what it restored."""

import pytest
import torch

pytestmark = pytest.mark.host


def plain_trace(hf, item, noise, *, site, layers):
    """The metric with `site` restored at each position, by one full forward pass per cell."""
    tokens = torch.tensor([item.tokens])
    blocks = hf.transformer.h

    def module(layer):
        block = blocks[layer]
        return {"resid_post": block, "mlp_out": block.mlp, "attn_out": block.attn}[site]

    def tensor_of(output):
        return output[0] if isinstance(output, tuple) else output

    clean = {}
    handles = [
        module(layer).register_forward_hook(
            lambda m, i, o, layer=layer: clean.__setitem__(layer, tensor_of(o).detach().clone())
        )
        for layer in layers
    ]
    with torch.no_grad():
        hf(tokens)
    for handle in handles:
        handle.remove()

    def corrupt(m, i, o):
        return o + noise.to(o)

    values = []
    for pos in range(len(item.tokens)):

        def restore(m, i, o, layer, pos=pos):
            state = tensor_of(o).clone()
            state[:, pos] = clean[layer][0, pos]
            return (state, *o[1:]) if isinstance(o, tuple) else state

        handles = [hf.transformer.wte.register_forward_hook(corrupt)]
        handles += [
            module(layer).register_forward_hook(
                lambda m, i, o, layer=layer: restore(m, i, o, layer)
            )
            for layer in layers
        ]
        with torch.no_grad():
            logits = hf(tokens.expand(len(noise), -1)).logits[:, -1]
        for handle in handles:
            handle.remove()
        values.append(logits.float().softmax(-1)[:, item.target[0]].mean())
    return torch.stack(values)


def test_every_cell_equals_a_plain_forward(load, host, prompts, gpt2_folder):
    from transformers import GPT2LMHeadModel

    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig
    from tl_toxmem.corrupt import gaussian_noise
    from tl_toxmem.tokens import align

    model = load(host, torch.float64)
    cfg = TraceConfig(window=3, n_noise=4, metric="prob", batch_size=7, seed=5)
    trace = causal_trace(model, prompts, cfg=cfg)
    hf = GPT2LMHeadModel.from_pretrained(gpt2_folder, dtype=torch.float64).eval()
    for p, item in enumerate(align(model, prompts)):
        noise = gaussian_noise(item, level=trace.noise, n_noise=4, d_model=model.d_model, seed=5)
        for s, site in enumerate(trace.sites):
            for layer in range(4):
                window = range(layer, layer + 1)
                if site != "resid_post":
                    window = range(max(0, layer - 1), min(4, layer + 2))
                expected = plain_trace(hf, item, noise, site=site, layers=window)
                found = trace.restored[0, p, s, layer, : len(item.tokens)]
                # The trace keeps float32: compare at its resolution.
                assert torch.allclose(found, expected.float(), atol=1e-7, rtol=1e-5)
                assert int(trace.n_restored[s, layer]) == len(window)


def test_positions_before_the_subject_are_exactly_zero(load, host, prompts):
    from tl_toxmem import causal_trace

    trace = causal_trace(load(host), prompts)
    start, _ = trace.subjects[1]
    assert start == len("the town of ")
    assert (trace.effect[1, :, :, :start] == 0).all()
    assert trace.effect[1, :, :, len("the town of Ulm") :].isnan().all()
    # The last layer's output is read at the last position alone.
    assert (trace.effect[1, 0, :-1, start : start + 3] != 0).all()


def test_restoring_everything_that_was_corrupted_gives_the_clean_run(load, host):
    """One corrupted token: its residual stream restored at layer 0 is the clean run, up to its own attention."""
    from tl_toxmem import Prompt, PromptSet, causal_trace

    prompts = PromptSet.of([Prompt(prompt="a", target="b")])
    trace = causal_trace(load(host), prompts)
    assert torch.allclose(trace.effect[0, 0, :, 0], trace.total_effect[0].expand(4), atol=1e-5)


def test_effects_at_one_token_of_each_prompt(load, prompts):
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    trace = causal_trace(load(), prompts, cfg=TraceConfig(n_noise=2))
    lengths = [len(words) for words in trace.words]
    ends = [end for _, end in trace.subjects]
    for place, positions in (("last", lengths), ("last_subject", ends)):
        expected = torch.stack([trace.effect[p, :, :, n - 1] for p, n in enumerate(positions)])
        assert torch.equal(trace.at(place), expected)
        means = trace.by_layer(place).set_index(["site", "layer"]).value
        assert means["mlp_out", 1] == pytest.approx(float(expected[:, 1, 1].mean()), abs=1e-6)
    assert not torch.equal(trace.at("last"), trace.at("last_subject"))


def test_saved_traces_load_without_the_model(load, prompts, tmp_path):
    from tl_toxmem import Trace, causal_trace

    trace = causal_trace(load(), prompts)
    trace.save(tmp_path / "t.safetensors")
    again = Trace.load(tmp_path / "t.safetensors")
    assert torch.equal(again.effect.nan_to_num(7), trace.effect.nan_to_num(7))
    assert (again.words, again.subjects, again.sites) == (trace.words, trace.subjects, trace.sites)
    frame = again.frame()
    assert len(frame) == 3 * 4 * sum(map(len, trace.words))
    row = frame[
        (frame.site == "mlp_out") & (frame.layer == 2) & (frame["prompt"] == trace.prompt_ids[0])
    ]
    assert row.effect.tolist() == trace.effect[0, 1, 2, : len(row)].tolist()


def test_noise_is_seeded_by_prompt_and_spares_the_rest(load, prompts):
    from tl_toxmem.corrupt import gaussian_noise
    from tl_toxmem.tokens import align

    first, second, _ = align(load(), prompts)
    make = {"level": 1.0, "n_noise": 2, "d_model": 8, "seed": 0}
    assert torch.equal(gaussian_noise(first, **make), gaussian_noise(first, **make))
    start, end = first.subject
    noise = gaussian_noise(first, **make)
    assert (noise[:, :start] == 0).all()
    assert (noise[:, end:] == 0).all()
    assert (noise[:, start:end] != 0).all()
    other = gaussian_noise(second, **make)
    assert not torch.equal(noise[:, start:end], other[:, slice(*second.subject)])


def test_window_larger_than_the_model(load, prompts):
    from tl_toxmem import ToxmemError, causal_trace
    from tl_toxmem.config import TraceConfig

    with pytest.raises(ToxmemError, match="window is 5 layers, the model has 4"):
        causal_trace(load(), prompts, cfg=TraceConfig(window=5))
