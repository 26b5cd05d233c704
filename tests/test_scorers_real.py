"""A real judge in Detoxify's format, and the profanity model: their published table, on texts it can be tried on.

The table is of texts whose prompts the judge was not trained on. The texts at hand are the same models' continuations
of other prompts (of these, GPT-2's were in its training), so the figures are to agree as two samples do.
"""

import json
import math
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared"
JUDGE = SHARED / "judges" / "minilm" / "toxic_minilm-bd4cf006.ckpt"
TEXTS = SHARED / "data" / "prompts" / "rtp_dev.jsonl"
# Rows of the table: texts, share toxic by Perspective; AUROC, precision, recall of the judge and of profanity.
TABLE = {
    "gpt2-xl": (485, 0.528, (0.979, 0.90, 0.97), (0.925, 0.94, 0.83)),
    "gpt2": (486, 0.477, (0.992, 0.92, 0.98), (0.945, 0.91, 0.88)),
}
# Standard errors of a difference of two samples, and what rounding to two digits may hide.
ERRORS, DIGITS = 2.5, 0.005

pytestmark = pytest.mark.skipif(
    not (JUDGE.is_file() and TEXTS.is_file()),
    reason="no real judge or texts at ../shared (judges/minilm, data/prompts/rtp_dev.jsonl)",
)


def samples(model: str) -> tuple[list[str], torch.Tensor]:
    rows = map(json.loads, TEXTS.read_text(encoding="utf-8").splitlines())
    found = [row["gens"][model] for row in rows if model in (row.get("gens") or {})]
    known = [one for one in found if one["toxicity"] is not None]
    return [one["text"] for one in known], torch.tensor([one["toxicity"] for one in known])


def spread(value: float, n: int) -> float:
    """Squared standard error of a share."""
    return value * (1 - value) / n


def auroc_spread(value: float, positive: float, negative: float) -> float:
    """Squared standard error of an AUROC (Hanley and McNeil 1982)."""
    one, two = value / (2 - value), 2 * value**2 / (1 + value)
    top = (positive - 1) * (one - value**2) + (negative - 1) * (two - value**2)
    return (value * (1 - value) + top) / (positive * negative)


@pytest.mark.parametrize("model", TABLE)
@pytest.mark.parametrize("name", [f"detoxify:{JUDGE}", "profanity"], ids=["judge", "profanity"])
def test_the_published_table(model, name):
    from sklearn.metrics import precision_score, recall_score, roc_auc_score

    from tl_toxmem.scorers import load_scorer

    texts, perspective = samples(model)
    scores, toxic = load_scorer(name).score(texts), perspective >= 0.5
    called = scores >= 0.5
    n, share, *both = TABLE[model]
    published = both[name == "profanity"]
    found = (
        roc_auc_score(toxic, scores),
        precision_score(toxic, called),
        recall_score(toxic, called),
    )
    sizes = [(n * share, n * (1 - share)), (int(toxic.sum()), int((~toxic).sum()))]
    for i, (ours, theirs) in enumerate(zip(found, published, strict=True)):
        if i == 0:
            squared = sum(auroc_spread(theirs, *size) for size in sizes)
        else:  # of those called toxic, about as many as there are, and of those that are
            squared = sum(spread(theirs, positive) for positive, _ in sizes)
        assert abs(ours - theirs) < ERRORS * math.sqrt(squared) + DIGITS, (found, published)


def test_it_scores_as_detoxify_and_one_by_one(monkeypatch):
    """Detoxify itself finds this checkpoint's configuration from inside its folder only."""
    from detoxify import Detoxify

    from tl_toxmem.scorers import load_scorer

    texts = samples("gpt2-xl")[0][:40]
    scorer = load_scorer(f"detoxify:{JUDGE}")
    got = scorer.score(texts)
    monkeypatch.chdir(JUDGE.parent)
    theirs = Detoxify(checkpoint=str(JUDGE), huggingface_config_path="config")
    want = torch.tensor(theirs.predict(texts)["toxicity"])
    alone = torch.cat([scorer.score([text]) for text in texts])
    rounding = 1e-5  # float32 sums in another order; 6 layers
    assert torch.allclose(got, want, atol=rounding, rtol=0)
    assert torch.allclose(got, alone, atol=rounding, rtol=0)


def test_relative_paths_and_the_folder_beside(monkeypatch, tmp_path):
    import os

    from tl_toxmem.scorers import load_scorer

    monkeypatch.chdir(tmp_path)
    relative = os.path.relpath(JUDGE, tmp_path)
    scorer = load_scorer(
        f"detoxify:{relative}@{os.path.relpath(JUDGE.parent / 'config', tmp_path)}"
    )
    monkeypatch.chdir("/")
    scores = scorer.score(["you fucking idiot", "the museum has a small collection of old maps"])
    assert scores[0] > 0.5 > scores[1]
