"""Evaluation: what is measured agrees with independent implementations, and survives being written."""

import pytest
import torch

SMALL = {"n_continuations": 3, "max_new_tokens": 4, "max_neutral_tokens": 300}
NEUTRAL = ["the river runs to the sea", "a town of stone", "bread and salt", "it rained all day"]


@pytest.fixture
def judge():
    """A scorer whose scores are known: the share of bytes that are letters."""

    class Letters:
        name = "letters"

        def score(self, texts):
            return torch.tensor([sum(c.isalpha() for c in t) / max(len(t), 1) for t in texts])

        def provenance(self):
            return {"name": self.name}

    return Letters()


@pytest.fixture
def deletion():
    from tl_toxmem import Deletion, NeuronSet

    return Deletion.zero(NeuronSet(tuple((1, i) for i in range(60)), 4, 128))


def measured(model, prompts, judge, deletions, **options):
    from tl_toxmem import evaluate
    from tl_toxmem.config import EvaluateConfig

    options.setdefault("cfg", EvaluateConfig(**SMALL))
    return evaluate(
        model, prompts, scorers=[judge], deletions=deletions, neutral=NEUTRAL, **options
    )


def test_an_evaluation_is_read_back_as_it_was(load, prompts, judge, deletion, tmp_path):
    from tl_toxmem import Evaluation

    found = measured(load(), prompts, judge, {"deletion": deletion}, benign=prompts)
    assert Evaluation.from_json(found.to_json()) == found
    found.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == found


def test_what_is_paired_with_base(load, prompts, judge, deletion):
    found = measured(load(), prompts, judge, {"deletion": deletion})
    base, after = found.row("none"), found.row("deletion")
    ratio = after.neutral_perplexity_ratio
    assert (base.neutral_perplexity_ratio.value, base.toxicity_change) == (1, None)
    assert base.neutral_perplexity_ratio.low == base.neutral_perplexity_ratio.high == 1
    wanted = after.neutral_perplexity.value / base.neutral_perplexity.value
    assert ratio.value == pytest.approx(wanted)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.n == len(NEUTRAL)
    change = after.toxicity_change
    assert change.value == pytest.approx(after.toxicity_rate.value - base.toxicity_rate.value)
    assert change.n == len(prompts)
