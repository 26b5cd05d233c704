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


def brute(model, hf, item, cfg, site, layers, positions):
    """Logits of the corrupted rows at the end of prompt and target, by one plain forward."""
    from tl_toxmem.corrupt import corrupted_embeddings

    level = cfg.noise_level or 0.0
    changed = corrupted_embeddings(model, item, cfg=cfg, level=level, full=True)
    plain = PlainTracer(hf, item.full, lambda _: changed, len(changed))
    return plain.run([(site, layer, positions) for layer in layers])


@pytest.fixture(params=["gpt2", "llama", "gpt_neox"])
def pair(request, shared, tiny_folder, host):
    """A model on a host, and the same in plain transformers."""
    from transformers import AutoModelForCausalLM

    folder = tiny_folder(request.param)
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    return shared(host, torch.float64, request.param), hf


@pytest.fixture
def rich_prompts():
    """Targets of several tokens, neutral targets, counterfactuals of equal length."""
    from tl_toxmem import Prompt, PromptSet

    more = {"neutral_target": "kind"}
    return PromptSet.of(
        [
            Prompt(
                prompt="Bob is a", target=" fool", subject="Bob", counterfactual="Tim is a", **more
            ),
            Prompt(
                prompt="the town of Ulm is",
                target=" x",
                subject="Ulm",
                counterfactual="the town of Bad is",
                neutral_target="y",
            ),
        ]
    )


@pytest.mark.parametrize("corruption", ["noise", "replace", "mean"])
def test_every_metric_under_every_corruption(pair, rich_prompts, corruption):
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig
    from tl_toxmem.tokens import align
    from tl_toxmem.trace.metrics import METRICS

    model, hf = pair
    cfg = TraceConfig(
        corruption=corruption, noise_level=0.5, n_noise=3, window=2, metrics=METRICS, severed=()
    )
    trace = causal_trace(model, rich_prompts, cfg=cfg)
    assert trace.metrics == METRICS
    for p, item in enumerate(align(model, rich_prompts)):
        n = len(item.tokens)
        neutral = model.encode(item.prompt.neutral_target)[0]
        target = torch.tensor(item.target)

        def expected(logits, clean, n=n, neutral=neutral, target=target):
            log_probs = logits.log_softmax(-1)
            first = log_probs[:, n - 1]
            reference = clean.log_softmax(-1)[n - 1]
            span = log_probs[:, n - 1 :].gather(-1, target.expand(len(logits), -1)[..., None])
            values = {
                "log_prob": first[:, target[0]],
                "prob": first[:, target[0]].exp(),
                "logit": logits[:, n - 1, target[0]],
                "kl": (reference.exp() * (reference - first)).sum(-1),
                "span_log_prob": span.sum((1, 2)),
                "logit_diff": logits[:, n - 1, target[0]] - logits[:, n - 1, neutral],
            }
            return torch.stack([values[name].mean() for name in METRICS]).float()

        def check(found, logits):
            wanted = expected(logits[1:], logits[0])
            assert torch.allclose(found, wanted, atol=1e-5, rtol=1e-5)

        check(trace.corrupted[:, p], brute(model, hf, item, cfg, "mlp_out", [], []))
        s = trace.sites.index("attn_out")
        for layer, layers in ((0, [0]), (1, [0, 1]), (3, [2, 3])):
            for pos in range(n):
                logits = brute(model, hf, item, cfg, "attn_out", layers, [pos])
                check(trace.restored[:, p, s, layer, pos], logits)
        start = trace.subjects[p][0]
        everywhere = range(start, len(item.full))
        for i, layers in enumerate(([0], [1, 2], [3], [0, 1, 2, 3])):
            for k, site in enumerate(("mlp_out", "attn_out")):
                logits = brute(model, hf, item, cfg, site, layers, everywhere)
                check(trace.parts[:, p, k, i], logits)
        # Positive where a state mediates: also for KL, which restoring lowers.
        total = trace.in_metric("kl").total_effect[p]
        assert float(total) == pytest.approx(float(trace.corrupted[3, p]), abs=1e-5)


def test_the_subject_stays_the_subject_under_replacement(shared, host):
    """Classes of tokens go by it; without one, it is what the counterfactual changes."""
    from tl_toxmem import Prompt, PromptSet, causal_trace
    from tl_toxmem.config import TraceConfig

    model = shared(host, torch.float64, "gpt2")
    prompts = PromptSet.of(
        [
            Prompt(
                prompt="so Bob Roy is",
                target="x",
                subject="Bob Roy",
                counterfactual="so Tim Roy is",
            ),
            Prompt(prompt="so Bob Roy is", target="x", counterfactual="so Tim Roy is", id="none"),
        ]
    )
    trace = causal_trace(model, prompts, cfg=TraceConfig(corruption="replace"))
    assert trace.subjects == ((3, 10), (3, 6))
    assert trace.n_noise == 1
    assert (trace.effect[:, :, :, :3].nan_to_num() == 0).all()
    assert torch.equal(trace.parts[:, 0], trace.parts[:, 1])


def test_the_mean_embedding_and_the_noise_level(shared, tiny_folder, host, prompts):
    """Against the embedding matrix of plain transformers."""
    from transformers import AutoModelForCausalLM

    from tl_toxmem.config import TraceConfig
    from tl_toxmem.corrupt import corrupted_embeddings, level_of
    from tl_toxmem.tokens import align

    model = shared(host, torch.float32, "gpt2")
    matrix = AutoModelForCausalLM.from_pretrained(tiny_folder("gpt2")).transformer.wte.weight.data
    items = align(model, prompts)
    subjects = torch.tensor([t for i in items for t in i.tokens[slice(*i.subject)]])
    level = level_of(model, items, cfg=TraceConfig(noise_sigma=2))
    assert level == pytest.approx(2 * float(matrix[subjects].std(correction=0)), rel=1e-5)
    found = corrupted_embeddings(model, items[1], cfg=TraceConfig(corruption="mean"), level=0.0)
    start, end = items[1].subject
    assert torch.allclose(found[0, start:end], matrix.mean(0).expand(end - start, -1), atol=1e-6)
    clean = matrix[torch.tensor(items[1].tokens)]
    assert torch.equal(found[0, :start], clean[:start])


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_models_of_few_layers(host, n_layers, prompts):
    from conftest import byte_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    from tl_toxmem import LensModel, causal_trace

    torch.manual_seed(0)
    small = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}
    hf = GPT2LMHeadModel(GPT2Config(n_layer=n_layers, n_embd=32, n_head=4, n_positions=32, **small))
    model = LensModel.from_pretrained(hf.eval(), tokenizer=byte_tokenizer(), host=host)
    trace = causal_trace(model, prompts)
    assert trace.parts.isfinite().all()
    assert len(trace.shares()) == 8


def test_a_long_prompt_beside_a_short_one_in_little_memory(shared, host):
    """What fits alone fits in company: groups are by padded size."""
    from tl_toxmem import Prompt, PromptSet, causal_trace
    from tl_toxmem.config import TraceConfig
    from tl_toxmem.trace import plan_trace
    from tl_toxmem.trace.plan import batch_bytes, state_bytes

    model = shared(host, torch.float32, "gpt2")
    texts = ("a long prompt of many letters, so it is", "b")
    prompts = PromptSet.of(Prompt(prompt=t, target="x") for t in texts)
    cfg = TraceConfig(n_noise=2)
    needs = [
        state_bytes(model, [p], cfg) + batch_bytes(model, [p], cfg)
        for p in plan_trace(model, prompts, cfg=cfg)
    ]
    tight = cfg.model_copy(update={"max_memory": 1.0001 * max(needs) / 1e9})
    whole, little = (causal_trace(model, prompts, cfg=c) for c in (cfg, tight))
    assert torch.allclose(little.effect.nan_to_num(), whole.effect.nan_to_num(), atol=1e-4)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gpt_neox"])
def test_agrees_with_transformer_lens_patching(shared, host, arch):
    """Its own sweeps, on tokens of equal length, for every site it has."""
    from transformer_lens import patching

    from tl_toxmem import Prompt, PromptSet, causal_trace
    from tl_toxmem.config import TraceConfig

    model = shared(host, torch.float64, arch)
    prompts = PromptSet.of([Prompt(prompt="Bob is a", target="x", counterfactual="Tim is a")])
    sites = ("resid_pre", "mlp_out", "attn_out")
    cfg = TraceConfig(corruption="replace", sites=sites, window=1, severed=(), parts=False)
    trace = causal_trace(model, prompts, cfg=cfg)
    clean, corrupted = (torch.tensor([model.encode(t)]) for t in ("Bob is a", "Tim is a"))
    raw = model.host.raw
    with torch.no_grad():
        _, cache = raw.run_with_cache(clean)
    token = model.encode("x")[0]

    def metric(logits):
        return logits[0, -1].log_softmax(-1)[token]

    for s, site in enumerate(sites):
        sweep = getattr(patching, f"get_act_patch_{site}")
        with torch.no_grad():
            found = sweep(raw, corrupted, cache, metric)
        assert torch.allclose(trace.restored[0, 0, s], found.float(), atol=RESOLUTION)


def test_sites_that_are_the_same_state(shared, host, prompts, arch):
    """What leaves a layer enters the next; neurons restored together are the MLP's output restored."""
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    model = shared(host, torch.float64, arch)
    sites = ("resid_pre", "resid_post", "mlp_out", "mlp_post")
    trace = causal_trace(model, prompts, cfg=TraceConfig(sites=sites, window=2, n_noise=2))
    effect = dict(zip(trace.sites, trace.effect.nan_to_num().unbind(1), strict=True))
    assert torch.allclose(effect["resid_pre"][:, 1:], effect["resid_post"][:, :-1], atol=1e-6)
    assert torch.allclose(effect["mlp_post"], effect["mlp_out"], atol=1e-6)
    assert torch.allclose(effect["mlp_post_single"], effect["mlp_out_single"], atol=1e-6)
    assert effect["mlp_out"].abs().max() > 0.01


def test_metrics_are_float32_in_a_bfloat16_model(tiny_folder, host, prompts):
    from tl_toxmem import LensModel, causal_trace
    from tl_toxmem.config import TraceConfig

    model = LensModel.from_pretrained(tiny_folder("gpt2"), host=host, dtype=torch.bfloat16)
    trace = causal_trace(model, prompts, cfg=TraceConfig(n_noise=2))
    assert trace.clean.dtype == torch.float32
    # Of more than bfloat16's 8 bits.
    assert (trace.clean != trace.clean.bfloat16().float()).any()
    assert torch.allclose(trace.in_metric("prob").clean[0].exp(), trace.clean[0].exp())


def test_positions_before_the_subject_are_exactly_zero(shared, host, prompts):
    from tl_toxmem import causal_trace

    trace = causal_trace(shared(host, torch.float32, "gpt2"), prompts)
    start, _ = trace.subjects[1]
    assert start == len("the town of ")
    maps = trace.effect[1, :5]
    assert (maps[:, :, :start] == 0).all()
    assert maps[:, :, len("the town of Ulm") :].isnan().all()
    # The last layer's output is read at the last position alone.
    assert (maps[0, -1, start:-1].nan_to_num() == 0).all()
    assert (maps[0, :-1, start : start + 3] != 0).all()


def test_restoring_everything_that_was_corrupted_gives_the_clean_run(shared, host):
    """One corrupted token: its residual stream restored at layer 0 is the clean run, up to its own attention."""
    from tl_toxmem import Prompt, PromptSet, causal_trace

    prompts = PromptSet.of([Prompt(prompt="a", target="b")])
    trace = causal_trace(shared(host, torch.float32, "gpt2"), prompts)
    assert torch.allclose(trace.effect[0, 0, :, 0], trace.total_effect[0].expand(4), atol=1e-5)


def test_numbers_do_not_depend_on_memory_or_company(shared, host, prompts, monkeypatch):
    """A budget for one cell at a time, and every prompt alone, give what large batches give."""
    from tl_toxmem import PromptSet, causal_trace
    from tl_toxmem.config import TraceConfig
    from tl_toxmem.trace import sweep

    model = shared(host, torch.float64, "gpt2")
    cfg = TraceConfig(n_noise=2)
    sizes = []
    plain = sweep._sweep
    monkeypatch.setattr(sweep, "_sweep", lambda g, c, n: sizes.append(len(c)) or plain(g, c, n))
    whole = causal_trace(model, prompts, cfg=cfg)
    largest, sizes[:] = max(sizes), []
    one = causal_trace(model, prompts, cfg=cfg.model_copy(update={"max_memory": 1.2e-3}))
    assert max(sizes) < largest / 3
    assert torch.allclose(one.restored.nan_to_num(), whole.restored.nan_to_num(), atol=1e-6)
    fixed = cfg.model_copy(update={"noise_level": whole.noise})
    for p, prompt in enumerate(prompts):
        alone = causal_trace(model, PromptSet.of([prompt]), cfg=fixed)
        n = len(alone.words[0])
        same = whole.restored[:, p, ..., :n].nan_to_num()
        assert torch.allclose(alone.restored[:, 0].nan_to_num(), same, atol=1e-6)


def test_a_stopped_trace_goes_on_at_the_next_prompt(shared, host, prompts, tmp_path, monkeypatch):
    from tl_toxmem import Deletion, NeuronSet, causal_trace
    from tl_toxmem.config import TraceConfig
    from tl_toxmem.trace import causal

    model = shared(host, torch.float32, "gpt2")
    cfg = TraceConfig(n_noise=2)
    monkeypatch.setattr(causal, "_MOST_PROMPTS", 1)
    traced = []

    def stop_after(n):
        def run_cells(group, cells, **kwargs):
            if len(traced) == n:
                raise KeyboardInterrupt
            traced.append(group.items[0].prompt.id)
            return plain(group, cells, **kwargs)

        return run_cells

    plain = causal.run_cells
    monkeypatch.setattr(causal, "run_cells", stop_after(1))
    with pytest.raises(KeyboardInterrupt):
        causal_trace(model, prompts, cfg=cfg, resume=tmp_path)
    monkeypatch.setattr(causal, "run_cells", stop_after(99))
    again = causal_trace(model, prompts, cfg=cfg, resume=tmp_path)
    assert sorted(traced) == sorted(p.id for p in prompts)
    whole = causal_trace(model, prompts, cfg=cfg)
    assert torch.equal(again.restored.nan_to_num(7), whole.restored.nan_to_num(7))
    # Another setting, or an edited model, does not take these results for its own.
    traced.clear()
    causal_trace(model, prompts, cfg=TraceConfig(n_noise=2, seed=1), resume=tmp_path)
    with Deletion.zero(NeuronSet(((0, 0), (1, 5)), 4, 128)).applied(model):
        causal_trace(model, prompts, cfg=cfg, resume=tmp_path)
    assert len(traced) == 6


def test_effects_at_one_token_of_each_prompt(shared, host, prompts):
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    model = shared(host, torch.float32, "gpt2")
    trace = causal_trace(model, prompts, cfg=TraceConfig(n_noise=2))
    lengths = [len(words) for words in trace.words]
    ends = [end for _, end in trace.subjects]
    for place, positions in (("last", lengths), ("last_subject", ends)):
        expected = torch.stack([trace.effect[p, :, :, n - 1] for p, n in enumerate(positions)])
        assert torch.equal(trace.at(place).nan_to_num(7), expected.nan_to_num(7))
        means = trace.by_layer(place).set_index(["site", "layer"]).value
        assert means["mlp_out", 1] == pytest.approx(float(expected[:, 1, 1].mean()), abs=1e-6)
    only = TraceConfig(n_noise=2, positions="last_subject", noise_level=trace.noise)
    few = causal_trace(model, prompts, cfg=only)
    assert torch.allclose(few.at("last_subject"), trace.at("last_subject"), atol=1e-5)
    assert few.effect.isnan().sum() > trace.effect.isnan().sum()


def test_saved_traces_load_without_the_model(shared, prompts, tmp_path):
    from dataclasses import replace

    from tl_toxmem import Trace, causal_trace
    from tl_toxmem.config import TraceConfig
    from tl_toxmem.trace import check_robustness

    model = shared("bridge", torch.float32, "gpt2")
    trace = causal_trace(model, prompts, cfg=TraceConfig(n_noise=2))
    card = check_robustness(model, prompts, cfg=TraceConfig(n_noise=2))
    replace(trace, benign=trace, robustness=card).save(tmp_path / "t.safetensors")
    again = Trace.load(tmp_path / "t.safetensors")
    assert torch.equal(again.effect.nan_to_num(7), trace.effect.nan_to_num(7))
    assert (again.words, again.subjects, again.sites) == (trace.words, trace.subjects, trace.sites)
    assert again.robustness == card
    assert torch.equal(again.benign.parts, trace.parts)
    frame = again.frame()
    assert len(frame) == (5 * sum(map(len, trace.words)) + 2 * 3) * 4
    row = frame[
        (frame.site == "mlp_out") & (frame.layer == 2) & (frame["prompt"] == trace.prompt_ids[0])
    ]
    assert row.effect.tolist() == trace.effect[0, 1, 2, : len(row)].tolist()
    assert row.measured.all()


def test_noise_is_seeded_by_prompt_and_spares_the_rest(shared, prompts):
    from tl_toxmem.corrupt import gaussian_noise
    from tl_toxmem.tokens import align

    items = align(shared("bridge", torch.float32, "gpt2"), prompts)
    draw = {"level": 2.0, "n_noise": 500, "d_model": 32}
    first = gaussian_noise(items[0], **draw, seed=0)
    assert torch.equal(first, gaussian_noise(items[0], **draw, seed=0))
    assert not torch.equal(first[:, :3], gaussian_noise(items[0], **draw, seed=1)[:, :3])
    assert not torch.equal(first[:, :1], gaussian_noise(items[2], **draw, seed=0)[:, :1])
    assert (first[:, 3:] == 0).all()
    assert float(first[:, :3].std()) == pytest.approx(2.0, rel=0.02)
