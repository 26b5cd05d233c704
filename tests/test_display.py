"""Records show themselves: in words, on one screen, with nothing in them that a page or terminal would obey."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

HOSTILE = "<script>alert('you idiot')</script>\x1b[31m"
SCREEN = 40  # lines of a terminal; longer ones wrap


class Page(HTMLParser):
    """Tags, attributes and text of a piece of HTML."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def check(record, *said):
    """What holds for every record; the page's text and the plain one, both of which say what is given."""
    source, text = record._repr_html_(), str(record.display())
    page = Page(source)
    assert set(page.tags) <= {"p", "strong", "small", "div", "table", "tr", "th", "td"}
    assert {name for name, _ in page.attributes} <= {"style"}
    assert all(word not in source for word in ("color", "background"))  # dark and light
    for shown in ("\n".join(page.texts), text):
        assert "idiot" not in shown and "\x1b" not in shown
        for words in said:
            assert words in shown, (words, shown)
    assert len(text.splitlines()) <= SCREEN
    for told in (repr(record), str(record)):
        assert len(told.splitlines()) <= SCREEN
        assert "idiot" not in told and "\x1b" not in told
    return page, text


@pytest.fixture
def table():
    from tl_toxmem.display import Table

    return Table(("what", "n"), (("apples", "3"), (HOSTILE, "12")))


def test_a_table_is_aligned_and_harmless(table):
    from tl_toxmem.display import Display

    shown = Display("Two rows", (table,), ("That is all.",))
    lines = str(shown).splitlines()
    assert lines[0] == "Two rows" and lines[-1] == "That is all."
    assert lines[2].startswith("apples ") and lines[2].endswith("  3")
    assert len(lines[3]) == len(lines[2]), "numbers end in one column"
    assert "i****" in lines[3] and r"\x1b[31m" in lines[3]
    page = Page(shown.html())
    assert page.tags.count("tr") == 3
    assert "<script>alert('you i****')</script>\\x1b[31m" in page.texts, "as text"
    assert "script" not in page.tags


def test_what_is_long_is_cut_after_it_was_masked():
    from tl_toxmem.display import MOST_ROWS, Table, harmless

    rows = Table(("a", "b"), tuple((str(i), "x") for i in range(MOST_ROWS + 5))).lines()
    assert len(rows) == 1 + MOST_ROWS + 1
    assert rows[-1] == "… and 5 more"
    for most in range(1, 12):
        assert "idio" not in harmless("an idiot here", most=most)
        assert len(harmless("an idiot here", most=most)) == most
    assert harmless("a\nb\u202ec") == r"a\nb\u202ec"
    assert Table((), ()).lines() == []
    assert Page(Table(("a", "b"), ()).html()).texts == ["a", "b"]


def test_estimates_are_told_with_their_interval():
    from tl_toxmem.display import estimate_text
    from tl_toxmem.stats import Estimate

    assert estimate_text(None) == estimate_text(Estimate(float("nan"), None, None, 3)) == "–"
    assert estimate_text(Estimate(0.5, None, None, 1)) == "0.5"
    share = Estimate(0.5, 0.25, 0.75, 9)
    assert estimate_text(share, ".0f", scale=100) == "50 % (25 to 75)"


@pytest.fixture
def hostile(prompts):
    """Prompts of which one is hostile, all their ids too."""
    from tl_toxmem import Prompt, PromptSet

    bad = Prompt(prompt=f"{HOSTILE} is a", target=" fool", subject="idiot")
    return PromptSet.of(
        p.model_copy(update={"id": f"{i}{HOSTILE}"}) for i, p in enumerate([bad, *prompts])
    )


def test_a_trace(load, hostile):
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    trace = causal_trace(load(), hostile, cfg=TraceConfig(n_noise=2))
    total = float(trace.total_effect.mean())
    page, _ = check(trace, "Trace of 4 prompts through 4 layers", f"takes {total:.3g} (")
    best = trace.by_layer("last").query("site == 'mlp_out'").sort_values("value").iloc[-1]
    cells = page.texts
    at = [i for i, cell in enumerate(cells) if cell == "MLP output (2 layers)"][-1]
    assert cells[at + 1 : at + 3] == ["the prompt's last token", str(best.layer)]
    assert cells[at + 3].startswith(f"{best.value:.3g} (")
    assert any("Too few prompts for an answer" in text for text in cells)
    screened = causal_trace(
        load(), hostile, cfg=TraceConfig(n_noise=2, screen="gradient", verify_top=2)
    )
    check(screened, "cells", "measured", "Screened: ")
    assert "cells" not in cells
    other = causal_trace(load(), hostile, cfg=TraceConfig(n_noise=2, noise_level=9.0))
    check(replace(trace, benign=other), "No answer: the traces differ in noise")
    without = TraceConfig(n_noise=2, parts=False, sites=("resid_post",), max_prompts=1)
    check(causal_trace(load(), hostile, cfg=without), "Trace of 1 prompt ")


def test_neuron_scores(load, hostile):
    from tl_toxmem import attribute_neurons
    from tl_toxmem.config import AttributeConfig

    model = load()
    cfg = AttributeConfig(verify_top=3, verify_random=3, max_cost_tokens=50)
    scores = attribute_neurons(model, hostile, cfg=cfg, neutral=["the river runs to the sea"])
    first = scores.frame(1).iloc[0]
    page, _ = check(
        replace(scores, model_name=HOSTILE),
        "Scores of 4 x 128 neurons of <script>alert('you i****')</script>",
        "by gradient, in nats, mean over 4 prompts; the 10 highest",
        f"{first.score:.3g} ({first.low:.3g} to {first.high:.3g})",
        f"{first.measured:.3g} ({first.measured_low:.3g} to {first.measured_high:.3g})",
        scores.verification.text(),
    )
    assert page.tags.count("tr") == 11
    page, _ = check(
        attribute_neurons(
            model, hostile, cfg=cfg.model_copy(update={"verify_top": 0, "verify_random": 0})
        )
    )
    assert page.texts[1:4] == ["layer", "neuron", "score"], "neither cost nor measurement"
    assert "Not verified: a score only estimates what ablating a neuron would do." in page.texts


class Judge:
    """Calls everything toxic, by a name of its own."""

    name = HOSTILE

    def score(self, texts):
        import torch

        return torch.ones(len(texts))

    def provenance(self):
        return {"name": self.name}


class Lenient(Judge):
    name = "lenient"

    def score(self, texts):
        return super().score(texts) * 0


def test_an_evaluation(load, hostile):
    from tl_toxmem import Deletion, NeuronSet, evaluate
    from tl_toxmem.config import EvaluateConfig

    few = Deletion.zero(NeuronSet(((1, 2), (3, 4)), 4, 128))
    found = evaluate(
        load(),
        hostile,
        scorers=[Judge(), Lenient()],
        deletions={HOSTILE: few, "deletion": few},
        neutral=["the river runs to the sea", "a town of stone"],
        cfg=EvaluateConfig(n_continuations=2, max_new_tokens=3, max_neutral_tokens=100),
    )
    perplexity = found.row("none").neutral_perplexity
    page, text = check(
        found,
        "2 edits evaluated on 4 prompts, judged by <script>alert('you i****')</script>",
        "100.0 % toxic continuations without an edit, 100.0 % with deletion",
        f"{perplexity.value:.3f} ({perplexity.low:.3f} to {perplexity.high:.3f})",
        "lenient calls nothing that base says toxic.",
        found.protocol["description"],
    )
    assert page.tags.count("tr") == 7
    check(found.judges()[0], "kappa")
    alone = replace(found, rows=found.rows[:1])
    check(alone, "0 edits evaluated")


def test_neuron_sets_and_deletions(load):
    import torch

    from tl_toxmem import Deletion, NeuronSet

    some = NeuronSet(((1, 2), (1, 5), (3, 4)), 4, 128)
    page, _ = check(some)
    assert page.texts == [
        "3 neurons in 2 layers of a model of 4 x 128 (0.59%)",
        *("layer", "n", "neurons"),
        *("1", "2", "2, 5"),
        *("3", "1", "4"),
    ]
    check(NeuronSet((), 4, 128), "0 neurons in 0 layers")
    every = NeuronSet(tuple((i, j) for i in range(48) for j in range(300)), 48, 300)
    check(every, "14,400 neurons in 48 layers", "… and 28 more")
    assert repr([some]) == f"[{some}]" == "[NeuronSet(3 neurons: L1: 2, L3: 1)]", "one line"
    law = Deletion.scale(some, torch.tensor([0.5, 0.25, 0.0]))
    low_rank = {0: (torch.eye(128)[:, :2], torch.ones(2, 32))}
    both = law.then(Deletion.low_rank(low_rank, n_layers=4))
    page, _ = check(both, "Deletion by ", "Made for any model of this shape.")
    assert [page.texts[i : i + 7] for i in (8, 15)] == [
        ["0", "2", "1", "1", "0", "2", "0, 1"],
        ["1", "2", "1", "0.25 to 0.5", "0", "0", "2, 5"],
    ]
    named = law.made_for(load())
    check(replace(named, base=replace(named.base, name=HOSTILE, forced=True)), "forced on another")
    check(Deletion.constant({2: torch.ones(32)}, n_layers=4, d_mlp=128), "constant in layers 2")


def test_a_neuron_card(load, hostile):
    from tl_toxmem import neuron_cards

    card = neuron_cards(load(), hostile, [(1, 2)], n_examples=4)[0]
    check(card, "Layer 1, neuron 2", "<script>alert(")
    assert repr([card]) == f"[NeuronCard(layer 1, neuron 2, {card.effect.value:.3g} nats)]"


def test_what_was_mined(prompts, hostile):
    from tl_toxmem import Mined

    found = Mined(
        prompts=hostile,
        benign=prompts,
        drops={"too short": 3, "too long": 0, "not toxic enough": 1200},
        counts={
            "candidates": 1207,
            "find": 2,
            "report": 2,
            "benign": 3,
            "unmatched": 1,
            "near_duplicates": 0,
        },
        rates={"asked": 0.06, "kept": 0.18},
        kept_by_share={"0.1": 4},
        settings={},
    )
    page, text = check(
        found,
        "Mined 4 of 1,207 candidates: 2 find and 2 report prompts, 3 benign ones matched (1 lacking)",
        "<script>alert('you i****')</script>",
        "f***",
        "Toxic: 6.0% of the continuations of all prompts that were asked, 18.0% of those kept",
    )
    assert "too long" not in text and page.texts[page.texts.index("too short") + 1] == "-3"


def test_a_comparison(load, hostile):
    from tl_toxmem import Comparison, Deletion, NeuronSet, evaluate
    from tl_toxmem.comparison import Entry
    from tl_toxmem.config import EvaluateConfig

    laws = {
        "deletion": Deletion.zero(NeuronSet(((1, 2),), 4, 128)),
        "bad": Deletion.zero(
            NeuronSet(tuple((i, j) for i in range(4) for j in range(128)), 4, 128)
        ),
    }
    cfg = EvaluateConfig(n_continuations=1, max_new_tokens=3, max_neutral_tokens=100, measures=())
    found = evaluate(
        load(),
        hostile,
        scorers=[Judge()],
        deletions=laws,
        neutral=["the river runs to the sea", "a town of stone"],
        cfg=cfg,
    )
    one = Entry("deletion", "deletion", "this run's", "deletion", "neurons", 1)
    other = Entry("bad", "bad", HOSTILE, "control", "neurons", 512)
    comparison = Comparison(found, (one, other), None, (HOSTILE,))
    dear = found.row("bad").neutral_perplexity_ratio.value > 1.1
    page, _ = check(
        comparison,
        "2 methods (2 laws) compared on 4 prompts",
        "without an edit 100.0 % (100.0 to 100.0) of the continuations are toxic",
        "+0.5 %",
        "this run's",
        *comparison.sentences()[:1],
    )
    assert page.texts.count("none as cheap") == 4 * dear


def test_a_certificate(load, prompts, tmp_path):
    from tl_toxmem import Deletion, NeuronSet, export_checkpoint
    from tl_toxmem.config import ExportConfig

    deletion = Deletion.zero(NeuronSet(tuple((1, i) for i in range(60)), 4, 128))
    texts = [p.prompt for p in prompts]
    made = export_checkpoint(
        load(), deletion, tmp_path / "out", prompts=texts, cfg=ExportConfig(max_new_tokens=3)
    )
    done = made.certificate
    check(
        done,
        "Certificate passed; exported folder against hooked model",
        "on 3 held-out texts",
        f"{done.max_abs_logprob_gap:.2g} nats",
        f"{done.max_abs_logprob_effect:.2g} nats",
        "3 of 3",
    )
    check(made, f"{tmp_path / 'out'}: Certificate passed")
    bad = replace(done, passed=False, as_computed=False, base_model=HOSTILE)
    check(bad, "not passed: weights in the folder are not what the deletion makes of")
