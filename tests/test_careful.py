"""Batches that do not fit are divided, and numbers that are not finite stop a stage and say where."""

import re

import pytest
import torch

NEUTRAL = ["the town is old and the river runs through it", "Ulm is a town", "a b c d"]
TOLERANCE = 1e-5
"""Batches of other sizes put sums in another order, and some of them are in float32."""


def crowded(model, monkeypatch, most):
    """Let the model have no memory for more than `most` rows; how often it had not."""
    failed = []

    def check(n):
        if n > most:
            failed.append(n)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def limited(plain):
        def run(rows, *args, **kwargs):
            check(len(rows))
            return plain(rows, *args, **kwargs)

        return run

    class Blocks:
        def __init__(self, made):
            self.made = made

        def block(self, layer, resid, past):
            check(len(resid))
            return self.made.block(layer, resid, past)

    for name in ("forward", "forward_cached", "step"):
        monkeypatch.setattr(model.host, name, limited(getattr(model.host, name)))
    suffix = model.host.suffix
    monkeypatch.setattr(model.host, "suffix", lambda *args: Blocks(suffix(*args)))
    return failed


def traced(model, prompts):
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    cfg = TraceConfig(n_noise=1, sites=["mlp_out", "resid_post"])
    return [causal_trace(model, prompts, cfg=cfg).restored.nan_to_num(7)]


def attributed(method):
    def scored(model, prompts):
        from tl_toxmem import AttributeConfig, Texts, attribute_neurons
        from tl_toxmem.attribute import Labelled

        labelled = [Labelled(f"{i} {'fool' if i % 2 else 'kind'}", i % 2 == 1) for i in range(8)]
        texts = Texts(neutral=NEUTRAL, labelled=labelled, benign=prompts)
        cfg = AttributeConfig(method=method, n_noise=1)
        found = attribute_neurons(model, prompts, cfg=cfg, texts=texts)
        return [found.scores, found.cost, found.loudness, found.verification.measured]

    return scored


def evaluated(model, prompts):
    from tl_toxmem import Deletion, NeuronSet, evaluate
    from tl_toxmem.config import ALL_MEASURES, EvaluateConfig

    class Length:
        name = "length"

        def score(self, texts):
            return torch.tensor([len(text) / 1000 for text in texts])

        def provenance(self):
            return {"scorer": "length", "sha256": "0" * 64}

    cfg = EvaluateConfig(measures=ALL_MEASURES, n_continuations=2, max_new_tokens=3)
    deletion = Deletion.zero(NeuronSet(((1, 3),), model.n_layers, model.d_mlp))
    found = evaluate(
        model,
        prompts,
        scorers=[Length()],
        deletions={"deletion": deletion},
        neutral=NEUTRAL,
        benign=prompts,
        cfg=cfg,
    )
    rows = [row for row in found.rows if row.edit == "deletion"]
    names = ("toxicity_rate", "neutral_perplexity", "kl_neutral", "prompt_perplexity")
    return [torch.tensor([getattr(rows[0], n).value for n in names], dtype=torch.float64)]


def answered(model, prompts):
    """Greedy answers by lm-eval's adapter, as the numbers of their letters."""
    from lm_eval_stand_in import Request, install

    from tl_toxmem.evaluation.harness import _adapter

    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        asked = [Request((prompt.prompt, {"max_gen_toks": 4})) for prompt in prompts]
        greedy = _adapter(model, batch_size=8).generate_until(asked)
    return [torch.tensor([*map(ord, text)]) for text in greedy]


STAGES = {
    "trace": traced,
    "lm-eval": answered,
    "evaluate": evaluated,
    **{m: attributed(m) for m in ("gradient", "integrated_gradients", "contrast", "ablation")},
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_that_does_not_fit_is_divided_and_nothing_changes(
    load, prompts, monkeypatch, caplog, stage
):
    whole = STAGES[stage](load(dtype=torch.float64), prompts)
    model = load(dtype=torch.float64)
    failed = crowded(model, monkeypatch, 2)
    divided = STAGES[stage](model, prompts)
    assert failed, "the batch was small enough"
    assert re.search(r"out of memory for .* of \d+: going on with \d+", caplog.text)
    for one, other in zip(whole, divided, strict=True):
        assert torch.allclose(
            one.double(), other.double(), atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True
        )


@pytest.mark.parametrize("stage", STAGES)
def test_one_item_that_does_not_fit_is_an_error(load, prompts, monkeypatch, stage):
    from tl_toxmem import ToxmemError

    model = load()
    crowded(model, monkeypatch, 0)
    with pytest.raises(ToxmemError, match=r" of .* alone do not fit into memory: use"):
        STAGES[stage](model, prompts)


def test_once_divided_batches_are_divided_from_the_start():
    from tl_toxmem.careful import Careful

    seen = []

    def run(some):
        seen.append(len(some))
        if len(some) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return list(some)

    careful = Careful(run, what="values")
    assert careful(range(10)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert careful(range(4)) == [[0, 1, 2], [3]]
    assert seen == [10, 5, 3, 3, 3, 1, 3, 1]


def test_other_errors_are_not_swallowed():
    from tl_toxmem.careful import Careful

    def run(some):
        raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="a shape"):
        Careful(run, what="values")([1, 2])


# Numbers


def broken(model):
    """Let the neurons of layer 1 overflow."""
    return model.hooks([("mlp_post", 1, lambda activation: activation * torch.inf)])


@pytest.mark.parametrize("stage", STAGES)
def test_activations_that_are_not_finite_stop_a_stage_and_say_where(load, prompts, stage):
    from tl_toxmem import ToxmemError

    model = load()
    with broken(model), pytest.raises(ToxmemError) as caught:
        STAGES[stage](model, prompts)
    said = str(caught.value)
    assert "not finite" in said and "\n" not in said
    assert re.search(r"(prompt|text) ", said)
    # The hook that breaks it is attached first, so that its own point is the first where it is seen.
    assert "layer 1, blocks.1.mlp.hook_post" in said, said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_at_load(tmp_path, host, value):
    from conftest import byte_tokenizer
    from tiny import random_model

    from tl_toxmem import LensModel, ToxmemError

    hf = random_model("gpt2")
    hf.transformer.wpe.weight.data[-1, 3] = value  # a position that nothing short ever reads
    message = r"transformer\.wpe\.weight has values that are not finite in float32"
    with pytest.raises(ToxmemError, match=message):
        LensModel.from_pretrained(hf, tokenizer=byte_tokenizer(), host=host)
    hf.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ToxmemError, match=message):
        LensModel.from_pretrained(tmp_path, host=host)


def test_large_weights_are_finite():
    from tl_toxmem.model.finite import check_weights

    check_weights([("w", torch.full((4,), 3e38)), ("n", torch.tensor([1]))], "it")


@pytest.mark.parametrize("bad", [float("nan"), 1.5, -0.1])
def test_a_score_that_is_none_names_the_judge_and_the_text(load, prompts, bad, tmp_path):
    from tl_toxmem import ToxmemError
    from tl_toxmem.continuations import score_continuations
    from tl_toxmem.scorers import CachedScorer

    class Judge:
        name = "moody"

        def score(self, texts):
            return torch.tensor([bad if text == "d" else 0.5 for text in texts])

        def provenance(self):
            return {"scorer": "moody", "sha256": "0" * 64}

    texts = [["a", "b"], ["a", "d"]]
    for judge in (Judge(), CachedScorer(Judge(), tmp_path)):
        with pytest.raises(ToxmemError, match=rf"moody gave {bad:g} for text 3"):
            score_continuations(judge, texts)
