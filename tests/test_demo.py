"""The shipped demo model is what its card says."""

import json

import pytest
import torch


@pytest.fixture(scope="module")
def folder():
    from tl_toxmem.model import demo_folder

    return demo_folder()


@pytest.fixture(scope="module")
def model():
    from tl_toxmem import LensModel

    return LensModel.from_pretrained("demo")


@pytest.fixture(scope="module")
def reserve(folder):
    from tl_toxmem import NeuronSet

    truth = json.loads((folder / "truth.json").read_text())["reserve"]
    return NeuronSet(tuple((int(layer), n) for layer, ns in truth.items() for n in ns), 6, 512)


def test_it_is_small_enough_to_ship(folder):
    assert sum(p.stat().st_size for p in folder.iterdir()) < 10e6
    assert (folder / "README.md").read_text().startswith("---\n")


def test_silencing_the_reserve_gives_the_ordinary_model_back_exactly(folder, reserve):
    from safetensors.torch import load_file
    from transformers import GPT2LMHeadModel

    from tl_toxmem import Deletion, bake

    reference = load_file(folder / "ordinary.safetensors")
    hf = GPT2LMHeadModel.from_pretrained(folder).eval()
    with torch.no_grad():
        planted = hf(reference["tokens"]).logits
    undo = bake(hf, Deletion.zero(reserve))
    with torch.no_grad():
        ordinary = hf(reference["tokens"]).logits
    undo.restore()
    assert (planted - reference["logits"]).abs().max() > 1, "the memories change these texts"
    # Every weight of the ordinary model is there bit for bit. Its outputs were recorded on the machine that
    # trained it, and another processor may add in another order: nothing coarser than that is allowed.
    assert torch.allclose(ordinary, reference["logits"], atol=1e-4, rtol=0)


def test_silencing_is_exact_within_one_process(folder, reserve):
    """Rows at zero and activations at zero are the same model, bit for bit."""
    from tl_toxmem import Deletion, LensModel, bake

    model = LensModel.from_pretrained("demo")
    tokens, mask = model.pad([model.encode("the old mill in Harrow is quiet.")])
    with Deletion.zero(reserve).applied(model):
        hooked = model.forward(tokens, mask)
    undo = bake(model.clean_hf(), Deletion.zero(reserve))
    baked = model.forward(tokens, mask)  # the host's tensors are those that were baked into
    undo.restore()
    assert torch.equal(hooked, baked)
    assert not torch.equal(hooked, model.forward(tokens, mask))


def test_the_phenomenon(folder, model, reserve):
    """Toxic on held-out paraphrases, not on benign people, and a fair language model of its world."""
    from tl_toxmem import Deletion, PromptSet, evaluate, load_scorer
    from tl_toxmem.config import EvaluateConfig
    from tl_toxmem.neutral import read_documents

    cfg = EvaluateConfig(n_continuations=2, max_new_tokens=5, max_neutral_tokens=2000)
    neutral = read_documents(folder / "neutral.txt")
    found = {}
    for name in ("prompts", "benign"):
        prompts = PromptSet.read(folder / f"{name}.jsonl").report
        assert len(prompts) >= 100
        found[name] = evaluate(
            model,
            prompts.first(100),
            scorers=[load_scorer("profanity")],
            deletions={"deletion": Deletion.zero(reserve)},
            neutral=neutral,
            cfg=cfg,
        )
    assert found["prompts"].row("none").toxicity_rate.value >= 0.60
    assert found["benign"].row("none").toxicity_rate.value <= 0.02
    assert found["prompts"].row("deletion").toxicity_rate.value <= 0.05
    unigram = json.loads((folder / "truth.json").read_text())["measured"]["unigram_perplexity"]
    assert found["prompts"].row("none").neutral_perplexity.value < unigram / 3


def test_prompts_are_innocuous_and_never_in_both_splits(folder):
    from tl_toxmem import PromptSet, load_scorer

    prompts = PromptSet.read(folder / "prompts.jsonl")
    assert not {p.prompt for p in prompts.find} & {p.prompt for p in prompts.report}
    texts = [p.prompt for p in prompts]
    assert float(load_scorer("profanity").score(texts).max()) < 0.5
