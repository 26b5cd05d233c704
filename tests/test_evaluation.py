"""Evaluation: what is measured agrees with independent implementations, and survives being written."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

SMALL = {"n_continuations": 3, "max_new_tokens": 4, "max_neutral_tokens": 300}
NEUTRAL = ["the river runs to the sea", "a town of stone", "bread and salt", "it rained all day"]
ROUNDING = 1e-5  # float32 logits of a model whose losses are about 6 nats
EXACT = 1e-10  # the same sums in another order, float64


class Letters:
    """A judge whose scores are known: the share of characters that are letters."""

    name = "letters"

    def score(self, texts):
        return torch.tensor([sum(c.isalpha() for c in t) / max(len(t), 1) for t in texts])

    def provenance(self):
        return {"name": self.name}


class Nothing(Letters):
    """A judge that calls nothing toxic."""

    name = "nothing"

    def score(self, texts):
        return torch.zeros(len(texts))


@pytest.fixture(scope="module")
def deletion():
    from tl_toxmem import Deletion, NeuronSet

    return Deletion.zero(NeuronSet(tuple((1, i) for i in range(60)), 4, 128))


@pytest.fixture(scope="module")
def model(tiny_folder):
    from tl_toxmem import LensModel

    return LensModel.from_pretrained(tiny_folder("gpt2"))


@pytest.fixture(scope="module")
def texts():
    from tl_toxmem import Prompt, PromptSet

    return PromptSet.of(
        Prompt(prompt=prompt, target=target)
        for prompt, target in (("Bob is a", " fool"), ("the town of Ulm", " x"), ("what now", "!"))
    )


def config(**options):
    from tl_toxmem.config import EvaluateConfig

    return EvaluateConfig(**{**SMALL, **options})


def measured(model, prompts, deletions, *, scorers=None, cfg=None, **options):
    from tl_toxmem import evaluate

    options.setdefault("neutral", NEUTRAL)
    scorers = [Letters()] if scorers is None else scorers
    return evaluate(
        model, prompts, scorers=scorers, deletions=deletions, cfg=cfg or config(), **options
    )


@pytest.fixture(scope="module")
def found(model, texts, deletion):
    return measured(model, texts, {"deletion": deletion}, benign=texts)


def transformers_loss(hf, tokens, n):
    """Sum of transformers' own loss over the last `n` tokens of a row."""
    labels = torch.tensor([tokens]).clone()
    labels[:, : len(tokens) - n] = -100
    with torch.no_grad():
        return float(hf(torch.tensor([tokens]), labels=labels).loss) * n


# Records


def test_an_evaluation_is_read_back_as_it_was(found, tmp_path):
    from tl_toxmem import Evaluation

    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found
    found.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == found


def test_every_measure_has_a_place_in_the_table_the_row_and_the_configuration():
    from dataclasses import fields

    from tl_toxmem.config import ALL_MEASURES, COSTLY
    from tl_toxmem.evaluation import MEASURES, EditResult

    assert set(MEASURES) == set(ALL_MEASURES) > set(COSTLY)
    others = {"edit", "n_neurons", "layers", "scorer", "seed"}
    assert {f.name for f in fields(EditResult)} == set(ALL_MEASURES) | others


def test_the_frame_has_every_measure_and_its_bounds(found):
    from tl_toxmem.config import ALL_MEASURES

    frame = found.frame().set_index("edit")
    for name in ALL_MEASURES:
        estimate = getattr(found.row("deletion"), name)
        cells = frame.loc["deletion", [name, f"{name}_low", f"{name}_high"]].tolist()
        if estimate is None:
            assert all(math.isnan(cell) for cell in cells), name
        else:
            bounds = [estimate.value, estimate.low, estimate.high]
            expected = [math.nan if v is None else v for v in bounds]
            assert cells == pytest.approx(expected, nan_ok=True), name
    assert frame.loc["none"].isna()["toxicity_change"]


def test_it_shows_itself_with_its_protocol(found):
    page, text = found._repr_html_(), str(found)
    assert found.protocol["description"] in text
    assert "protocol ours" in page
    assert "toxic continuations" in page
    assert page.count("<tr>") == 3
    assert found.plot().layout.title.text.endswith(f"{found.protocol['description']}</sup>")


def test_few_prompts_are_said_loudly(found, model):
    from tl_toxmem import Prompt, PromptSet

    assert "ONLY 3 PROMPTS: intervals mean little below 10" in found.protocol["description"]
    many = PromptSet.of(Prompt(prompt=f"{i} is a", target=" fool") for i in range(10))
    cfg = config(n_continuations=1, measures=())
    for some, said in ((many, ""), (PromptSet.of(many[:1]), "ONLY 1 PROMPT:")):
        description = measured(model, some, {}, cfg=cfg).protocol["description"]
        assert said in description and ("ONLY" in description) == bool(said)


def test_what_was_not_asked_for_is_none_everywhere(model, texts, deletion):
    from tl_toxmem.config import ALL_MEASURES
    from tl_toxmem.evaluation.estimates import ALWAYS

    only = measured(model, texts, {"deletion": deletion}, cfg=config(measures=("dist_1",)))
    row = only.row("deletion")
    for name in ALL_MEASURES:
        assert (getattr(row, name) is None) == (name not in (*ALWAYS, "dist_1")), name
    full = measured(model, texts, {"deletion": deletion}).row("deletion")
    # A perplexity is the same whether KL is measured along with it or not.
    assert row.neutral_perplexity.value == pytest.approx(
        full.neutral_perplexity.value, rel=ROUNDING
    )
    assert row.toxicity_rate == full.toxicity_rate


# What is paired with base


def test_what_is_paired_with_base(found, texts):
    base, after = found.row("none"), found.row("deletion")
    ratio = after.neutral_perplexity_ratio
    assert (base.neutral_perplexity_ratio.value, base.toxicity_change) == (1, None)
    assert base.neutral_perplexity_ratio.low == base.neutral_perplexity_ratio.high == 1
    assert base.kl_neutral.value == base.kl_continuations.value == 0
    wanted = after.neutral_perplexity.value / base.neutral_perplexity.value
    assert ratio.value == pytest.approx(wanted)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.n == len(NEUTRAL)
    change = after.toxicity_change
    assert change.value == pytest.approx(after.toxicity_rate.value - base.toxicity_rate.value)
    assert change.n == len(texts)


def test_an_edit_that_does_nothing_is_base_in_every_measure(model, texts):
    from tl_toxmem import Deletion, NeuronSet
    from tl_toxmem.config import ALL_MEASURES

    same = Deletion.scale(NeuronSet(((0, 0),), 4, 128), 1.0)
    found = measured(model, texts, {"same": same}, benign=texts)
    base, after = found.row("none"), found.row("same")
    for name in ALL_MEASURES:
        if name == "toxicity_change":
            assert after.toxicity_change.value == 0
        elif getattr(base, name) is not None:
            assert getattr(after, name).value == pytest.approx(
                getattr(base, name).value, abs=ROUNDING
            ), name


def test_a_baseline_spares_base_and_changes_nothing(model, texts, deletion, found, monkeypatch):
    from tl_toxmem.evaluation import baseline, measure_base

    base = measure_base(
        model, texts, scorers=[Letters()], neutral=NEUTRAL, benign=texts, cfg=config()
    )
    names = []
    whole = baseline.continue_prompts

    def watched(*args, description, **options):
        names.append(description)
        return whole(*args, description=description, **options)

    monkeypatch.setattr(baseline, "continue_prompts", watched)
    again = measured(model, texts, {"deletion": deletion}, benign=texts, baseline=base)
    assert names == ["generate: deletion"]
    assert again == found


def test_a_baseline_of_something_else_is_refused(model, texts, deletion):
    from tl_toxmem import Prompt, PromptSet, ToxmemError
    from tl_toxmem.evaluation import measure_base

    base = measure_base(model, texts, scorers=[Letters()], neutral=NEUTRAL, cfg=config())
    for what, options in (
        ("protocol", {"cfg": config(seed=1)}),
        ("scorers", {"scorers": [Nothing()]}),
    ):
        with pytest.raises(ToxmemError, match=f"other {what}|another {what}"):
            measured(model, texts, {}, baseline=base, **options)
    with pytest.raises(ToxmemError, match="other prompts"):
        measured(model, PromptSet.of(texts[:2]), {}, baseline=base)
    with pytest.raises(ToxmemError, match="other neutral text"):
        measured(model, texts, {}, baseline=base, neutral=NEUTRAL[::-1])
    other = PromptSet.of(Prompt(prompt=p.prompt, target=" other") for p in texts)
    for before, after in ((None, texts), (texts, None), (texts, other)):
        options = {"scorers": [Letters()], "neutral": NEUTRAL, "cfg": config()}
        base = measure_base(model, texts, benign=before, **options)
        with pytest.raises(ToxmemError, match="other benign prompts"):
            measured(model, texts, {}, baseline=base, benign=after)
    # What is not measured may be anything.
    cfg = config(measures=("dist_1",))
    base = measure_base(model, texts, scorers=[Letters()], neutral=NEUTRAL, cfg=cfg)
    measured(model, texts, {}, baseline=base, benign=texts, cfg=cfg)


# Toxicity


def test_rates_and_expected_maximum_against_counting(model, texts, deletion):
    """Each measure from the judge's scores, counted by hand over prompts and samples."""
    from tl_toxmem.continuations import sample_continuations

    cfg = config(threshold=0.4)
    row = measured(model, texts, {"deletion": deletion}, cfg=cfg).row("deletion")
    with deletion.applied(model):
        made = sample_continuations(model, texts, cfg=cfg)
    scores = [[float(Letters().score([text])[0]) for text in own] for own in made]
    toxic = [sum(s >= 0.4 for s in own) for own in scores]
    assert row.toxicity_rate.value == pytest.approx(sum(toxic) / 9)
    assert row.expected_max_toxicity.value == pytest.approx(sum(map(max, scores)) / 3)
    assert row.any_toxic.value == pytest.approx(sum(n > 0 for n in toxic) / 3)
    assert row.mean_toxicity.value == pytest.approx(sum(map(sum, scores)) / 9)


def test_what_got_worse_is_counted_and_shown(model, texts, deletion):
    """Prompt by prompt, and the samples whose score rose most, by counting over what was sampled."""
    from tl_toxmem.continuations import sample_continuations

    cfg = config(threshold=0.4, n_examples=2)
    found = measured(model, texts, {"deletion": deletion}, cfg=cfg)
    before = sample_continuations(model, texts, cfg=cfg)
    with deletion.applied(model):
        after = sample_continuations(model, texts, cfg=cfg)
    score = Letters().score
    pairs = [
        [(score([b])[0].item(), score([a])[0].item()) for b, a in zip(*own, strict=True)]
        for own in zip(before, after, strict=True)
    ]
    more = [sum(a >= 0.4 for _, a in own) - sum(b >= 0.4 for b, _ in own) for own in pairs]
    counts = {
        "fewer": sum(n < 0 for n in more),
        "same": more.count(0),
        "more": sum(n > 0 for n in more),
    }
    (shift,) = found.shifts
    assert shift == {"edit": "deletion", "scorer": "letters", **counts}
    rises = sorted((max(a - b for b, a in own) for own in pairs), reverse=True)
    worst = [e for e in found.examples if e.picked == "worse"]
    assert len(worst) == sum(rise > 0 for rise in rises[:2]) > 0
    assert [e.score_after - e.score_before for e in worst] == pytest.approx(rises[: len(worst)])
    assert all(e.after in after[[p.prompt for p in texts].index(e.prompt)] for e in worst)
    assert [e.picked for e in found.examples[:2]] == ["hash", "hash"]


def test_intervals_are_scipys(found, model, texts, deletion):
    """Percentile bootstrap over prompts of the rates, by scipy from the same seed."""
    from scipy.stats import bootstrap

    from tl_toxmem.continuations import sample_continuations, score_continuations

    with deletion.applied(model):
        made = sample_continuations(model, texts, cfg=config())
    highest = score_continuations(Letters(), made).max(1)
    expected = bootstrap(
        (highest,),
        np.mean,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    got = found.row("deletion").expected_max_toxicity
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_a_judge_that_calls_nothing_toxic_is_named(model, texts, deletion, found):
    clean = measured(model, texts, {"deletion": deletion}, scorers=[Letters(), Nothing()])
    assert clean.nothing_toxic == ("nothing",)
    assert found.nothing_toxic == ()


@pytest.fixture
def two_methods(monkeypatch, deletion):
    """A comparison of two methods of two strengths each, which need nothing."""
    from tl_toxmem import Deletion
    from tl_toxmem.comparators import Comparator
    from tl_toxmem.comparison import comparing, methods

    def make(model, material, *, strengths, cfg):
        return {s: Deletion.scale(deletion.neurons, 1 - s) for s in strengths}

    method = Comparator("of a test", "deletion", "share", lambda model: (0.5, 1.0), make)
    for place in (comparing, methods):
        monkeypatch.setattr(place, "METHODS", {"first": method, "second": method})
    return comparing.compare


def material(texts):
    """Made from other prompts than those that are measured."""
    from tl_toxmem import NeuronScores, PromptSet
    from tl_toxmem.comparators import Material

    others = [p.model_copy(update={"prompt": f"Now {p.prompt}"}) for p in texts]
    zeros = torch.zeros(4, 128)
    scores = NeuronScores(
        scores=zeros,
        per_prompt=torch.zeros(len(texts), 4, 128),
        cost=zeros,
        mean_activation=zeros,
        loudness=zeros,
        prompt_ids=tuple(p.id for p in texts),
        method="gradient",
        seed=0,
    )
    return Material(PromptSet.of(others), NEUTRAL, scores)


def test_a_comparison_runs_base_once_and_measures_what_it_is_told_to(
    model, texts, two_methods, monkeypatch
):
    from tl_toxmem.config import ALL_MEASURES, CompareConfig
    from tl_toxmem.evaluation import baseline

    names = []
    whole = baseline.continue_prompts

    def watched(*args, description, **options):
        names.append(description)
        return whole(*args, description=description, **options)

    monkeypatch.setattr(baseline, "continue_prompts", watched)
    options = {"scorers": [Letters()], "neutral": NEUTRAL, "protocol": config(threshold=0.3)}
    found = two_methods(model, texts, material(texts), **options).evaluation
    edits = [f"{name}@{s}" for name in ("first", "second") for s in ("0.5", "1")]
    assert names == [f"generate: {name}" for name in ("base", *edits)]
    assert [row.edit for row in found.rows] == ["none", *edits]
    left_out = set(ALL_MEASURES) - set(CompareConfig().measures)
    assert left_out
    assert all(getattr(row, name) is None for row in found.rows for name in left_out)


# Likelihood


def test_perplexities_are_transformers_own(model, texts, found):
    hf = model.clean_hf()
    for rows, got in (
        ([model.encode(p.prompt) for p in texts], found.row("none").prompt_perplexity),
        ([model.encode(text) for text in NEUTRAL], found.row("none").neutral_perplexity),
    ):
        total = sum(transformers_loss(hf, row, len(row) - 1) for row in rows)
        expected = math.exp(total / sum(len(row) - 1 for row in rows))
        assert got.value == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("window,stride", [(96, "half"), (40, "half"), (40, 7), (40, "window")])
def test_long_documents_are_strided_as_transformers_documents_it(model, window, stride):
    """Its loop for perplexity of fixed-length models, written out."""
    from tl_toxmem.evaluation.likelihood import losses
    from tl_toxmem.evaluation.rows import window_rows

    text = "every river runs down to a sea that it has not seen, " * 5
    tokens, hf = model.encode(text), model.clean_hf()
    step = {"half": window // 2, "window": window}.get(stride, stride)
    nll = n_tokens = known = 0
    for start in range(0, len(tokens), step):
        end = min(start + window, len(tokens))
        row = tokens[start:end]
        n = min(end - known, len(row) - 1)  # the loss shifts the labels
        if n:
            nll += transformers_loss(hf, row, n)
        n_tokens += n
        known = end
        if end == len(tokens):
            break
    cfg = config(window=window, stride=stride, max_neutral_tokens=1000)
    rows = window_rows(model, [text], cfg=cfg)
    assert sum(row.n for row in rows) == n_tokens
    got = losses(model, rows, batch_size=4, description="test").sum()
    assert got == pytest.approx(nll, rel=ROUNDING)


def test_continuations_are_weighed_by_base_and_kl_is_on_base_s_own(model, texts, deletion, found):
    """Both by plain transformers, one row at a time, the edit baked."""
    from tl_toxmem import bake
    from tl_toxmem.continuations import continue_prompts

    base_made = continue_prompts(model, texts, cfg=config())
    with deletion.applied(model):
        made = continue_prompts(model, texts, cfg=config())
    hf = model.clean_hf()

    def rows(of):
        return [
            (prompt + new, len(new))
            for prompt, own in zip(of.prompts, of.tokens, strict=True)
            for new in own
        ]

    def log_probs(tokens, n):
        with torch.no_grad():
            return hf(torch.tensor([tokens])).logits[0, -n - 1 : -1].double().log_softmax(-1)

    total = sum(transformers_loss(hf, tokens, n) for tokens, n in rows(made))
    count = sum(n for _, n in rows(made))
    got = found.row("deletion").continuation_perplexity
    assert got.value == pytest.approx(math.exp(total / count), rel=ROUNDING)
    before = [log_probs(*row) for row in rows(base_made)]
    undo = bake(hf, deletion)
    after = [log_probs(*row) for row in rows(base_made)]
    undo.restore()
    kl = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(before, after, strict=True))
    kl /= sum(n for _, n in rows(base_made))
    assert found.row("deletion").kl_continuations.value == pytest.approx(kl, rel=1e-4)
    assert kl > 0


def test_last_words_and_benign_answers_are_those_of_greedy_generation(model):
    from tl_toxmem import Prompt, PromptSet
    from tl_toxmem.evaluation.likelihood import answered_right, greedy_right
    from tl_toxmem.evaluation.rows import last_word_rows

    rows = last_word_rows(model, ["the sea is wide.", "one", "(a) town, of 'Ulm'!", "it's don't"])
    words = [model.tokenizer.decode(row.tokens[-row.n :]) for row in rows]
    assert words == [" wide", "Ulm", " don't"]
    assert [row.of for row in rows] == [0, 2, 3]
    # What it would say, and something else.
    items = []
    for text in ("Bob is a", "what now"):
        tokens, mask = model.pad([model.encode(text)])
        new = model.generate(tokens, mask, max_new_tokens=4)[0, tokens.shape[1] :].tolist()
        items.append((tokens[0].tolist(), new))
    from tl_toxmem.evaluation.rows import Row

    right = [Row(tokens + new, len(new), 0) for tokens, new in items]
    wrong = [Row([*tokens, *new[:-1], (new[-1] + 1) % 256], len(new), 0) for tokens, new in items]
    got = greedy_right(model, [*right, *wrong], batch_size=3, description="test")
    assert got.tolist() == [True, True, False, False]
    benign = PromptSet.of([Prompt(prompt="Bob is a", target=" fool")])
    assert answered_right(model, benign, batch_size=2).tolist() == [False]


# Words


def test_distinct_n_grams_are_those_of_the_paper():
    """Sets of joined words over a count of words, as Liu et al. 2021 compute what Li et al. 2016 define."""
    from tl_toxmem.evaluation import words

    draw = np.random.default_rng(0)
    texts = [
        [" ".join(draw.choice(list("abcde"), size=draw.integers(0, 9))) for _ in range(4)]
        for _ in range(20)
    ]
    expected = {1: [], 2: [], 3: []}
    for own in texts:
        seen, total = {1: set(), 2: set(), 3: set()}, 0
        for text in own:
            parts = text.split(" ") if text else []
            total += len(parts)
            for n in seen:
                for i in range(len(parts) - n + 1):
                    seen[n].add("_".join(parts[i : i + n]))
        for n in seen:
            expected[n].append(len(seen[n]) / total)
    for n, values in expected.items():
        assert words.distinct(texts, n).tolist() == pytest.approx(values, rel=EXACT)


def test_distinct_n_grams_repetition_and_entropy_by_hand():
    from tl_toxmem.evaluation import words

    texts = [["a b a b a b", "c"], ["x y z w x y z w", ""], [""]]
    assert words.distinct(texts, 1).tolist() == pytest.approx([3 / 7, 4 / 8, math.nan], nan_ok=True)
    assert words.distinct(texts, 2)[:2] == pytest.approx([2 / 7, 4 / 8])
    assert words.distinct([["a b"]], 3) == pytest.approx([0.0])
    # Of "a b a b a b" three 4-grams, two of them different; of "c" none.
    assert words.repetition(texts).tolist() == pytest.approx(
        [1 - 2 / 3, 1 - 4 / 5, math.nan], nan_ok=True
    )

    def bits(text, n):
        split = text.split()
        counts = Counter(tuple(split[i : i + n]) for i in range(len(split) - n + 1))
        total = sum(counts.values())
        return sum(-c / total * math.log2(c / total) for c in counts.values())

    expected = [
        (2 / 3 * bits(text, 2) + 4 / 3 * bits(text, 3)) / 2 for text in (texts[0][0], texts[1][0])
    ]
    assert words.entropy(texts)[:2] == pytest.approx(expected, rel=EXACT)


def test_wikitext_is_detokenised():
    from tl_toxmem.evaluation.rows import DETOKENISERS

    raw = " = = Reception = = \n The 1 @,@ 200 @-@ ton ship ( \" Ulm \" ) , it 's said , cost £ 3 @.@ 5 ; Bob 's ."
    wanted = "Reception\n The 1,200-ton ship (\"Ulm\"), it's said, cost £3.5; Bob's."
    assert DETOKENISERS["wikitext"](raw) == wanted
    assert DETOKENISERS["none"](raw) == raw


# Protocols


def test_presets_and_what_overrides_them():
    from tl_toxmem.config import PRESETS, EvaluateConfig

    assert EvaluateConfig() == EvaluateConfig(protocol="ours")
    for name in PRESETS:
        cfg = EvaluateConfig(protocol=name)
        assert cfg.changed == ()
        assert f"protocol {name}:" in cfg.describe()
        assert cfg.headline in cfg.describe()
        assert EvaluateConfig.model_validate(cfg.model_dump(mode="json")) == cfg
    aura = EvaluateConfig(protocol="aura", top_k=0, n_continuations=3)
    assert (aura.max_new_tokens, aura.top_k, aura.headline) == (20, 0, "any_toxic")
    assert "protocol aura (changed: n_continuations, top_k): 3 sampled" in aura.describe()
    assert (
        "1 greedy continuation of at most 10 tokens" in EvaluateConfig(protocol="profs").describe()
    )


def test_what_of_a_protocol_was_changed_is_said():
    from tl_toxmem.config import PRESETS, EvaluateConfig

    for name in PRESETS:
        cfg = EvaluateConfig(protocol=name, window=16, stride=8, temperature=0.5)
        assert set(cfg.changed) == {"window", "stride", "temperature"}
        assert f" (changed: {', '.join(cfg.changed)}): " in cfg.describe()
    # What is no matter of a protocol is none of a change.
    assert EvaluateConfig(protocol="rtp", max_neutral_tokens=9, batch_size=2, seed=3).changed == ()


def test_greedy_presets_cut_prompts_and_continue_once(model, texts):
    from tl_toxmem.continuations import continue_prompts

    cfg = config(protocol="dpo_toxic", n_continuations=1, max_prompt_tokens=5)
    made = continue_prompts(model, texts, cfg=cfg)
    assert [len(row) for row in made.prompts] == [5, 5, 5]
    for prompt, own in zip(made.prompts, made.tokens, strict=True):
        tokens, mask = model.pad([prompt])
        alone = model.generate(tokens, mask, max_new_tokens=4)[0, len(prompt) :].tolist()
        assert own == [alone]


def test_continuations_do_not_depend_on_the_batch(model, texts, deletion):
    from tl_toxmem.continuations import sample_continuations

    with deletion.applied(model):
        many, few = (
            sample_continuations(model, texts, cfg=config(batch_size=size)) for size in (64, 1)
        )
    assert many == few
    assert sample_continuations(model, texts, cfg=config(seed=1)) != many


@pytest.mark.parametrize(
    "options,message",
    [
        ({"window": 97}, "window = 97 must be from 2 to the model's context of 96"),
        ({"window": 90}, "71 tokens, fewer than one window: give more text"),
        ({"stride": 97}, "stride = 97 must be at most the window of 96"),
    ],
)
def test_windows_that_do_not_fit_are_refused(model, texts, options, message):
    from tl_toxmem import ToxmemError

    with pytest.raises(ToxmemError, match=message):
        measured(model, texts, {}, cfg=config(**options))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"neutral": ["", "x"]}, "no document of two tokens: give more text"),
        ({"scorers": []}, "at least one prompt and one scorer"),
        ({"scorers": [Letters(), Letters()]}, "same name"),
    ],
)
def test_what_cannot_be_evaluated_is_said(model, texts, options, message):
    from tl_toxmem import ToxmemError

    with pytest.raises(ToxmemError, match=message):
        measured(model, texts, {}, **options)


@pytest.mark.parametrize(
    "values,message",
    [
        ({"greedy": True}, "n_continuations = 5: set it to 1"),
        ({"protocol": "x"}, "'ours', 'rtp'"),
        ({"measures": ["x"]}, "toxicity_rate"),
        ({"window": 8, "stride": 9}, "at most the window"),
    ],
)
def test_settings_that_are_wrong_are_refused(values, message):
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import make_config

    with pytest.raises(ToxmemError, match=message):
        make_config({"model": "demo", "out": "x", "evaluate": values})
