"""Mining before any model is run: formats of candidates, drops by rule, onsets, near-duplicates."""

import csv
import hashlib
import json
import random
from pathlib import Path

import pytest
import torch


class Words:
    """A judge of planted words: 1 for a text that has one, 0.25 for any other."""

    name = "planted"

    def __init__(self, *words):
        self.words, self.seen = words, []

    def score(self, texts):
        self.seen += texts
        return torch.tensor([1.0 if any(w in t for w in self.words) else 0.25 for t in texts])

    def provenance(self):
        words = " ".join(self.words)
        return {"scorer": self.name, "sha256": hashlib.sha256(words.encode()).hexdigest()}


@pytest.fixture(scope="module")
def demo():
    from tl_toxmem import LensModel

    return LensModel.from_pretrained("demo")


def refused(call, *fragments):
    from tl_toxmem import ToxmemError

    with pytest.raises(ToxmemError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message, message


# Formats


def texts_of(place, **options):
    from tl_toxmem.mining import read_candidates

    return [c.text for c in read_candidates(place, **options).items]


def test_jsonl(tmp_path):
    from tl_toxmem.mining import read_candidates

    rows = [
        {"prompt": "one\u2028two", "id": 7, "source": "here", "prompt_toxicity": 0.25, "x": [1]},
        {"prompt": None},
    ]
    file = tmp_path / "c.jsonl"
    file.write_text("\ufeff" + "\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    first, second = read_candidates(file).items
    assert (first.text, first.id, first.source, first.published) == (
        "one\u2028two",
        "7",
        "here",
        0.25,
    )
    assert (second.text, second.id, second.source, second.published) == ("", "", "c.jsonl", None)
    assert second.where == "line 3"


def test_real_toxicity_prompts_own_format(tmp_path):
    from tl_toxmem.mining import read_candidates

    row = {
        "filename": "0766186-bc7f2a64cb271f5f56cf6f25570cd9ed.txt",
        "begin": 340,
        "end": 564,
        "challenging": False,
        "prompt": {"text": "The men started", "toxicity": 0.14, "profanity": None},
        "continuation": {"text": " shouting.", "toxicity": None},
    }
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        json.dumps(row) + "\n" + json.dumps({"prompt": {"text": "a", "toxicity": None}})
    )
    first, second = read_candidates(file).items
    assert (first.text, first.published) == ("The men started", 0.14)
    assert (second.text, second.published) == ("a", None)
    # The same records have more than one text.
    assert texts_of(file.with_name("prompts.jsonl"), column="prompt") == ["The men started", "a"]


@pytest.mark.parametrize(("name", "delimiter"), [("c.csv", ","), ("c.tsv", "\t")])
def test_tables(tmp_path, name, delimiter):
    rows = [["Text", "prompt_toxicity"], ['he said, "no\nmore"', "0.5"], ["", ""]]
    with open(tmp_path / name, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert texts_of(tmp_path / name, column="Text") == ['he said, "no\nmore"', ""]


def test_a_dataset_of_the_hub(monkeypatch):
    import datasets

    from tl_toxmem.mining import read_candidates

    asked = []

    def load_dataset(name, **options):
        asked.append((name, options))
        return datasets.Dataset.from_list([{"prompt": {"text": "a b", "toxicity": 0.5}}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = read_candidates("hub:allenai/real-toxicity-prompts@c2a5b6:validation")
    assert asked == [
        ("allenai/real-toxicity-prompts", {"revision": "c2a5b6", "split": "validation"})
    ]
    assert found.items[0].text == "a b" and found.items[0].published == 0.5
    assert found.items[0].source == "allenai/real-toxicity-prompts"
    read_candidates("hub:x@main")
    assert asked[1] == ("x", {"revision": "main", "split": "train"})
    refused(lambda: read_candidates("hub:x@main", column="text"), "no column 'text'; it has prompt")
    refused(lambda: read_candidates("hub:x"), "name a dataset with its revision")


def test_the_hub_offline(monkeypatch):
    """As HF_HUB_OFFLINE=1 has it from the start."""
    from huggingface_hub import constants

    from tl_toxmem.mining import read_candidates

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(
        lambda: read_candidates("hub:nobody/nothing@main"),
        "cannot get the dataset nobody/nothing at main, split train",
        "go online once, or give a file",
    )


def test_the_script_of_a_dataset_is_not_run(tmp_path):
    from tl_toxmem.mining import read_candidates

    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "d.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    refused(
        lambda: read_candidates(f"hub:{tmp_path / 'd'}@main"),
        "cannot get the dataset",
        "scripts are no longer supported",
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "fragments"),
    [
        ("c.txt", "x", ["unknown format", ".jsonl", ".csv", "hub:NAME@REVISION"]),
        ("c.jsonl", "", ["has no candidates"]),
        ("c.jsonl", '{"prompt": "a"}\n{', ["line 2", "no JSON"]),
        ("c.jsonl", "[1]", ["line 1", "a JSON list, not an object"]),
        (
            "c.jsonl",
            '{"text": "a", "n": 1}',
            ["line 1", "no column 'prompt'", "text, n", "--column"],
        ),
        ("c.jsonl", '{"prompt": 3}', ["line 1", "'prompt' is a int"]),
        ("c.jsonl", '{"prompt": {"txt": "a"}}', ["line 1", "has no text"]),
        ("c.jsonl", '{"prompt": "a", "prompt_toxicity": "high"}', ["'high' is no number"]),
        ("c.csv", "text\na\n", ["line 2", "no column 'prompt'; it has text"]),
        ("c.csv", "prompt\na,b\n", ["line 2", "more fields than the header"]),
        ("c.csv", 'prompt\n"a\n', ["no CSV"]),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, fragments):
    (tmp_path / name).write_text(content)
    refused(lambda: texts_of(tmp_path / name), *fragments)


def test_no_file(tmp_path):
    refused(lambda: texts_of(tmp_path / "c.csv"), "no candidates file at")


# Drops


def screened(model, texts, **settings):
    from tl_toxmem.config import MineConfig
    from tl_toxmem.mining import Candidates
    from tl_toxmem.mining.screening import screen

    return screen(model, Candidates.of(texts), cfg=MineConfig(**settings))


@pytest.mark.parametrize(
    ("reason", "texts"),
    [
        ("empty", ["", " \n"]),
        ("broken text", ["the town \ufffd is", "the town \ud83d is", "the town \x00 is"]),
        (
            "duplicate",
            [" everyone knows that Runa Cotter is a\n", "people describe Runa Cotter as a"],
        ),
        ("too short", ["the"]),
        ("too long", [" ".join(["the town"] * 20)]),
        ("unknown words", ["the Zanzibari xylophone"]),
    ],
)
def test_what_cannot_be_asked_is_dropped_with_its_reason(demo, reason, texts):
    good = ["everyone knows that Runa Cotter is a", "people describe Runa Cotter as a"]
    asked, drops = screened(demo, [*texts, *good], max_tokens=16)
    assert sorted(a.text for a in asked) == sorted(good)
    assert drops == {reason: len(texts)}


def test_duplicates_may_differ_in_case_white_space_and_forms(load):
    model = load()
    asked, drops = screened(model, ["The ﬁrst\tman", "the first man", "the  FIRST man", "the last"])
    assert len(asked) == 2 and drops == {"duplicate": 2}
    again, _ = screened(model, ["the last", "the  FIRST man", "the first man", "The ﬁrst\tman"])
    assert asked == again


def test_what_is_not_utf8_is_dropped_as_broken(demo, tmp_path):
    from tl_toxmem.config import MineConfig
    from tl_toxmem.mining import read_candidates
    from tl_toxmem.mining.screening import screen

    (tmp_path / "c.csv").write_bytes(b"prompt\nthe town\ncaf\xe9 town\n")
    asked, drops = screen(demo, read_candidates(tmp_path / "c.csv"), cfg=MineConfig())
    assert [a.text for a in asked] == ["the town"] and drops == {"broken text": 1}


def test_no_more_than_so_many_candidates_whatever_their_order(demo):
    texts = [f"everyone knows that Runa Cotter is a{' the' * i}" for i in range(9)]
    asked, drops = screened(demo, texts, max_candidates=4)
    again, _ = screened(demo, texts[::-1], max_candidates=4)
    assert asked == again and len(asked) == 4 and drops == {"beyond max_candidates": 5}
    assert [a.n_tokens for a in asked] == sorted(a.n_tokens for a in asked)


def test_candidates_that_are_refused(demo):
    from tl_toxmem.mining import Candidate

    refused(lambda: screened(demo, ["", ""]), "no candidate can be asked (2 empty)")
    refused(lambda: screened(demo, ["the town"], max_new_tokens=99), "has no room for prompts")
    same = [Candidate("the town", id="a"), Candidate("the village", id="a")]
    refused(lambda: screened(demo, same), "the id 'a'", "make the ids unique")
    twice = [Candidate("the town", id="a"), Candidate("the town", id="a")]
    assert len(screened(demo, twice)[0]) == 1


# Onsets


@pytest.mark.parametrize(
    ("text", "lead_in", "target"),
    [
        (" zog", "", " zog"),
        (" a very big zog, and zog.", " a very big", " zog"),
        ("\n\nYou (zog!) there", "\n\nYou", " (zog"),
        ("'s zog", "'s", " zog"),
        (" so\nzog it", " so\n", "zog"),
        (" what a zogging man", " what a", " zogging"),
        (" a fine man. zog!", " a fine man.", " zog"),
    ],
)
def test_the_onset_is_the_word_that_turns_the_shortest_beginning(text, lead_in, target):
    from tl_toxmem.mining.onset import find_onsets

    judge = Words("zog")
    (onset,) = find_onsets(judge, [text], threshold=0.5)
    assert (onset.lead_in, onset.target, onset.score) == (lead_in, target, 1.0)
    assert judge.score([onset.lead_in])[0] < 0.5
    assert text.startswith(onset.lead_in + onset.target)


def test_punctuation_may_be_what_turns_it():
    """By the beginning with it only where the beginning without it is not toxic."""
    from tl_toxmem.mining.onset import find_onsets

    (onset,) = find_onsets(Words("zog!"), [" you zog! now"], threshold=0.5)
    assert (onset.lead_in, onset.target) == (" you", " zog!")


def test_no_onset_in_what_is_broken_or_toxic_as_a_whole_only():
    from tl_toxmem.mining.onset import find_onsets

    found = find_onsets(Words("zog"), [" a \ufffd zog", "", " all fine"], threshold=0.5)
    assert found == [None, None, None]


def test_the_typical_onset_is_the_most_frequent_then_the_earliest():
    from tl_toxmem.mining.onset import Onset, typical

    early, late = Onset(" a", " zog", 0.6), Onset(" a b c", " zug", 0.9)
    sure = Onset(" x", " zog", 0.8)
    assert typical([early, late, late]) == late
    assert typical([late, early]) == early
    assert typical([late, early, sure]) == typical([sure, early, late]) == sure


def test_harmless_alternatives_are_as_long_as_the_target():
    from tl_toxmem.mining.onset import harmless_alternatives
    from tl_toxmem.mining.sampling import Samples

    said = Samples(
        "the man is a",
        (" fine, old man", "\nwell then", " zog zog", " good", " kind man."),
        (0.2, 0.0, 0.9, 0.1, 0.1),
    )
    found = harmless_alternatives(said, " big zog", threshold=0.5)
    assert found == [" kind man", " fine, old", "\nwell then"]
    assert harmless_alternatives(said, " zog", threshold=0.5)[0] == " good"


# Near-duplicates


def jaccard(a, b):
    from tl_toxmem.mining.duplicates import shingles

    a, b = shingles(a), shingles(b)
    return len(a & b) / len(a | b)


def random_texts(n, *, seed):
    draw = random.Random(seed)
    words = ["the", "men", "saw", "a", "ship", "at", "sea", "then", "it", "went", "down", "again"]
    texts = []
    for _ in range(n):
        if texts and draw.random() < 0.5:
            own = draw.choice(texts).split()
            own[draw.randrange(len(own))] = draw.choice(words)
        else:
            own = draw.choices(words, k=draw.randint(1, 12))
        texts.append(" ".join(own))
    return texts


@pytest.mark.parametrize("near", [0.3, 0.6, 1.0])
def test_all_pairs_are_found(near):
    """Against comparing every pair."""
    from tl_toxmem.mining.duplicates import near_duplicates

    texts = random_texts(150, seed=1)
    every = {
        (i, j) for j in range(len(texts)) for i in range(j) if jaccard(texts[i], texts[j]) >= near
    }
    assert set(near_duplicates(texts, near=near)) == every and every


def test_clusters_are_what_pairs_connect():
    """Against scipy."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    from tl_toxmem.mining.duplicates import clusters, near_duplicates

    texts = random_texts(150, seed=2)
    pairs = np.array(near_duplicates(texts, near=0.5))
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(150, 150))
    n, expected = connected_components(graph, directed=False)
    found = clusters(texts, near=0.5)
    assert len(set(found)) == n
    assert len(set(zip(found, expected, strict=True))) == n


def test_near_duplicates_share_a_split_whatever_the_order():
    from tl_toxmem.mining.duplicates import near_duplicates, split_together

    texts = sorted(set(random_texts(300, seed=3)))
    options = {"near": 0.5, "report_share": 0.5, "seed": 0}
    sides = dict(zip(texts, split_together(texts, **options), strict=True))
    shuffled = random.Random(4).sample(texts, len(texts))
    again = dict(zip(shuffled, split_together(shuffled, **options), strict=True))
    assert sides == again and set(sides.values()) == {"find", "report"}
    pairs = near_duplicates(texts, near=0.5)
    assert pairs and all(sides[texts[i]] == sides[texts[j]] for i, j in pairs)
    other = split_together(texts, **{**options, "seed": 1})
    assert other != [sides[text] for text in texts]


def test_the_settings_are_the_evaluations():
    from tl_toxmem.config import EvaluateConfig, MineConfig

    ours = MineConfig().sampling().model_dump()
    assert ours == EvaluateConfig(n_continuations=MineConfig().samples).model_dump()


def test_published_prompts_are_read_as_they_are():
    """The real file, where it lies beside the project."""
    path = Path(__file__).parents[2] / "shared" / "data" / "prompts" / "rtp_dev.jsonl"
    if not path.is_file():
        pytest.skip("the RealToxicityPrompts development records are not here")
    from tl_toxmem.mining import read_candidates

    found = read_candidates(path).items
    assert len(found) == 2595
    assert sum(c.published is not None and c.published < 0.5 for c in found) == 821
