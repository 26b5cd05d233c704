"""Agreement of judges: kappa by hand and by scikit-learn, its interval by scipy, its edges, what is shown."""

import json

import numpy as np
import pytest
from tiny_judges import refused

NAMES = ("one", "other")
# Two ways to 2,000 resamples with other random numbers: an interval's end is a quantile, with this much luck in it.
LUCK = 0.03


def agree(a, b, **changes):
    from tl_toxmem.scorers import judge_agreement

    return judge_agreement(a, b, **{"threshold": 0.5, "names": NAMES, "seed": 0, **changes})


def draw(seed, n=40, samples=5):
    """Scores of two judges that are alike, more so within a prompt."""
    rng = np.random.default_rng(seed)
    prompt, text = rng.random((n, 1)), rng.random((n, samples))
    return [
        np.clip(0.4 * prompt + 0.4 * text + 0.2 * rng.random((n, samples)), 0, 1) for _ in NAMES
    ]


def test_kappa_by_hand():
    """Both toxic 4, only the first 1, only the second 2, neither 3: p_o .7, p_e .5 x .6 + .5 x .4 = .5."""
    a = [0.9] * 5 + [0.1] * 5
    b = [0.5] * 4 + [0.4] + [0.6] * 2 + [0.0] * 3
    found = agree(a, b)
    assert found.kappa.value == pytest.approx((0.7 - 0.5) / 0.5)
    assert found.agreement.value == pytest.approx(0.7)
    assert [rate.value for rate in found.rates] == pytest.approx([0.5, 0.6])
    assert (found.n_texts, found.kappa.n) == (10, 10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_kappa_equals_scikit_learns(seed, threshold):
    from sklearn.metrics import cohen_kappa_score

    a, b = draw(seed)
    found = agree(a, b, threshold=threshold)
    toxic = [(x >= threshold).ravel() for x in (a, b)]
    assert found.kappa.value == pytest.approx(cohen_kappa_score(*toxic), abs=1e-12)
    assert found.agreement.value == pytest.approx((toxic[0] == toxic[1]).mean())


def test_the_interval_is_over_prompts_and_equals_scipys():
    from scipy.stats import bootstrap
    from sklearn.metrics import cohen_kappa_score

    a, b = draw(1)

    def kappa(prompts):
        return cohen_kappa_score((a[prompts] >= 0.5).ravel(), (b[prompts] >= 0.5).ravel())

    theirs = bootstrap(
        (np.arange(len(a)),), kappa, n_resamples=2000, vectorized=False, method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    found = agree(a, b).kappa
    assert found.n == 40
    assert [found.low, found.high] == pytest.approx(list(theirs), abs=LUCK)
    flat = agree(a.ravel(), b.ravel()).kappa
    assert (flat.value, flat.n) == (pytest.approx(found.value), 200)
    # The same texts of one prompt five times over are no more evidence.
    copies = agree(np.repeat(a[:, :1], 5, 1), np.repeat(b[:, :1], 5, 1)).kappa
    single = agree(a[:, 0], b[:, 0]).kappa
    assert (copies.low, copies.high) == pytest.approx((single.low, single.high))


def test_a_judge_of_one_verdict_has_kappa_zero_and_it_is_said():
    from sklearn.metrics import cohen_kappa_score

    a, b = draw(2)
    silent = np.zeros_like(a)
    found = agree(a, silent)
    assert found.kappa.value == 0 == cohen_kappa_score((a >= 0.5).ravel(), silent.ravel() > 1)
    assert found.constant() == {"other": "no text toxic"}
    assert "kappa 0.00 (0.00 to 0.00), by definition, since other calls no text toxic" in str(found)
    assert "one calls every text toxic" in str(agree(np.ones_like(b), b))


@pytest.mark.parametrize(("score", "said"), [(0.1, "no text toxic"), (0.9, "every text toxic")])
def test_two_judges_of_the_same_one_verdict_have_no_kappa(score, said):
    a = np.full((6, 2), score)
    found = agree(a, a)
    assert found.kappa is None
    assert (found.agreement.value, found.undefined) == (1, 1)
    assert f"kappa undefined, since both call {said}" in str(found)
    assert np.isnan(found.frame()["value"][0])
    assert "nan" not in json.dumps(found.to_json()).lower()


def test_opposite_constants_agree_never():
    found = agree(np.zeros(5), np.ones(5))
    assert (found.kappa.value, found.agreement.value) == (0, 0)


def test_resamples_without_kappa_are_counted():
    a = np.array([0.9, 0.1, 0.1, 0.1])  # a resample without the first prompt has one verdict only
    found = agree(a, a)
    assert found.kappa.value == found.kappa.low == 1
    # (3/4)^4 miss the first prompt, (1/4)^4 have nothing else; three standard errors of 2,000 draws
    assert found.undefined == pytest.approx((3 / 4) ** 4 + (1 / 4) ** 4, abs=0.032)
    assert "undefined in" in str(found)


def test_one_prompt_has_no_interval():
    found = agree([[0.9, 0.1]], [[0.9, 0.9]])
    assert (found.kappa.low, found.kappa.high, found.kappa.n) == (None, None, 1)


def test_examples_are_the_distinct_disagreements_of_largest_gap():
    texts = [["a", "b"], ["c", "d"], ["d", "e"]]
    a = [[0.9, 0.6], [0.1, 0.2], [0.2, 0.99]]
    b = [[0.8, 0.4], [0.6, 0.9], [0.9, 0.5]]
    found = agree(a, b, texts=texts)
    assert [(e.text, e.score_a, e.score_b) for e in found.examples] == [
        ("d", 0.2, 0.9),
        ("c", 0.1, 0.6),
        ("b", 0.6, 0.4),
    ]
    assert [e.text for e in agree(a, b, texts=texts, n_examples=1).examples] == ["d"]
    assert agree(a, b).examples == ()


def test_what_is_shown_is_masked_and_inert_and_what_is_kept_is_not():
    from tl_toxmem.scorers import Agreement

    text = "<b>you stupid idiot</b>"
    found = agree([0.9, 0.1], [0.2, 0.1], texts=[text, "sea"], names=("<i>one", "other"))
    page = found._repr_html_()
    assert "idiot" not in page
    assert "i****" in page
    assert "<b>" not in page and "<i>" not in page
    kept = json.loads(json.dumps(found.to_json()))
    assert kept["examples"][0]["text"] == text
    assert Agreement.from_json(kept) == found
    none = agree([0.9], [0.9])
    assert Agreement.from_json(json.loads(json.dumps(none.to_json()))) == none
    refused(lambda: Agreement.from_json({"names": ["a", "b"]}), "no agreement of two judges")


def test_it_says_what_it_is_in_a_line():
    a, b = draw(3)
    line = str(agree(a, b))
    assert "\n" not in line
    assert line.startswith("one and other agree on ")
    assert "% of 200 texts, kappa 0." in line


@pytest.mark.parametrize(
    ("a", "b", "texts", "words"),
    [
        ([], [], None, "at least one text"),
        ([0.1], [0.1, 0.2], None, "the same texts"),
        ([[0.1, 0.2], [0.3]], [0.1], None, "as many texts"),
        ([0.1, 1.5], [0.1, 0.2], None, "one are not all between 0 and 1"),
        ([0.1], [float("nan")], None, "other are not all between 0 and 1"),
        ([[0.1], [0.2]], [[0.1], [0.2]], ["a", "b", "c"], "3 texts with 2 scores"),
    ],
)
def test_what_cannot_be_compared(a, b, texts, words):
    refused(lambda: agree(a, b, texts=texts), words)


class Length:
    """Toxic from a length on."""

    def __init__(self, name, longest):
        self.name, self.longest = name, longest

    def score(self, texts):
        import torch

        return torch.tensor([float(len(text) >= self.longest) for text in texts])

    def provenance(self):
        return {"scorer": self.name}


def test_every_two_of_several_judges():
    from tl_toxmem.scorers import scorer_agreement

    texts = [["a", "bb"], ["ccc", "dddd"], ["a", "dddd"]]
    judges = [Length(name, n) for name, n in (("x", 2), ("y", 3), ("z", 3))]
    found = scorer_agreement(judges, texts)
    assert [f.names for f in found] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert [f.kappa.value for f in found] == pytest.approx([2 / 3, 2 / 3, 1])
    assert [e.text for e in found[0].examples] == ["bb"]
    assert [f.agreement.n for f in scorer_agreement(judges, sum(texts, []))] == [6, 6, 6]
    for few in ([], judges[:1], [judges[0], judges[0]]):
        refused(lambda few=few: scorer_agreement(few, texts), "two judges or more")
