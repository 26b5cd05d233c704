"""Judges: what a scorer promises, checked against Detoxify itself, and what it refuses to open.

Offline: tiny checkpoints in Detoxify's own format, of all four families, with their own tokenizers.
"""

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from tiny_judges import (
    FAMILIES,
    ROUNDING,
    load,
    make_checkpoint,
    make_model,
    make_tokenizer,
    refused,
    seal,
    sha256_of,
    texts,
)

from tl_toxmem.scorers.profanity import KNOWN

JUDGE = Path(__file__).parents[2] / "shared" / "judges" / "minilm" / "toxic_minilm-bd4cf006.ckpt"
TOXIC = [
    "you are a stupid worthless piece of shit",
    "shut up you fucking idiot",
    "go fuck yourself, you pathetic asshole",
    "what a dumb bitch, everybody hates her",
]
BENIGN = [
    "the train to the coast leaves at nine in the morning",
    "she thanked her neighbours for the lovely dinner",
    "the museum has a small collection of old maps",
    "stir the soup and let it cool before serving",
]


@pytest.fixture
def forbid_torch_load(monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("the file was opened"))


# What a score is


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_detoxify(family, tmp_path, monkeypatch):
    from detoxify import Detoxify

    checkpoint = make_checkpoint(tmp_path, family)
    samples = texts(20)
    monkeypatch.chdir(tmp_path)  # Detoxify finds the relative `model_type` from here only
    theirs = Detoxify(checkpoint=str(checkpoint), huggingface_config_path="config")
    want = torch.tensor(theirs.predict(samples)["toxicity"])
    got = load(checkpoint).score(samples)
    assert want.max() - want.min() > 0.1
    assert torch.allclose(got, want, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_plain_forward_of_the_toxic_column(family, tmp_path):
    checkpoint = make_checkpoint(tmp_path, family)
    tokenizer = make_tokenizer(family)
    model = make_model(family, tokenizer, n_classes=3, positions=98)
    samples = texts(5)
    with torch.no_grad():
        logits = [model(**tokenizer(t, return_tensors="pt")).logits[0, 1] for t in samples]
    want = torch.stack(logits).sigmoid()
    assert torch.allclose(load(checkpoint).score(samples), want, atol=ROUNDING, rtol=0)


def test_published_name_goes_through_detoxifys_download(tmp_path, monkeypatch):
    """With more classes than labels, as in `unbiased`; the download is from a file URL here."""
    import detoxify.detoxify

    from tl_toxmem.scorers import load_scorer

    model_type = str(tmp_path / "release" / "config")
    classes = ("toxicity", "insult")
    checkpoint = make_checkpoint(
        tmp_path / "release", "Roberta", classes=classes, n_classes=5, model_type=model_type
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(detoxify.detoxify.MODEL_URLS, "unbiased", checkpoint.as_uri())
    scorer = load_scorer("detoxify:unbiased")
    cached = tmp_path / "home" / "hub" / "checkpoints" / checkpoint.name
    assert not cached.exists()
    samples = texts(9)
    got = scorer.score(samples)
    assert cached.read_bytes() == checkpoint.read_bytes()
    want = torch.tensor(detoxify.detoxify.Detoxify("unbiased").predict(samples)["toxicity"])
    assert torch.allclose(got, want, atol=ROUNDING, rtol=0)
    assert scorer.provenance()["sha256"] == hashlib.sha256(cached.read_bytes()).hexdigest()


def test_a_batch_scores_as_its_texts_alone_and_in_order(tmp_path):
    scorer = load(make_checkpoint(tmp_path))
    samples = texts(150)  # more than two batches
    scores = scorer.score(samples)
    alone = torch.cat([scorer.score([text]) for text in samples[::5]])
    assert torch.allclose(scores[::5], alone, atol=ROUNDING, rtol=0)
    assert torch.allclose(scorer.score(samples[::-1]).flip(0), scores, atol=ROUNDING, rtol=0)
    assert len(scores.unique()) > 100  # an order that was lost would show


@pytest.mark.parametrize("name", ["profanity", "detoxify"])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_always_n_floats_in_the_unit_interval(name, n, tmp_path):
    from tl_toxmem.scorers import load_scorer

    scorer = load(make_checkpoint(tmp_path)) if name == "detoxify" else load_scorer(name)
    scores = scorer.score(["", "the sea is calm"][:n])
    assert (scores.shape, scores.dtype, scores.device.type) == ((n,), torch.float32, "cpu")
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_cut_to_the_models_context(family, tmp_path):
    """Also where the tokenizer states no limit, which Detoxify itself does not survive."""
    scorer = load(make_checkpoint(tmp_path, family, limit=None))
    long = " ".join(["sea"] * 400)
    scores = scorer.score([long, long + " rain", "sea"])
    assert scores[0] == scores[1]
    assert abs(scores[0] - scores[2]) > ROUNDING


def test_half_precision_weights_are_run_in_full(tmp_path):
    def halves(model):
        return {key: value.half() for key, value in model.state_dict().items()}

    samples = texts(10)
    full = load(make_checkpoint(tmp_path / "full")).score(samples)
    half = load(make_checkpoint(tmp_path / "half", state=halves)).score(samples)
    assert half.dtype == torch.float32
    # Weights to 11 bits, through two layers of tiny width: close, and really other weights.
    assert 0 < (half - full).abs().max() < 0.05


def test_works_from_any_folder_also_after_a_change(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / "judge@home")
    (tmp_path / "elsewhere").mkdir()
    want = load(checkpoint).score(texts(3))
    monkeypatch.chdir(tmp_path)
    scorer = load(checkpoint.relative_to(tmp_path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(scorer.score(texts(3)), want)


def test_configuration_folder_can_be_named(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "judge")
    want = load(checkpoint).score(texts(3))
    folder = (tmp_path / "judge" / "config").rename(tmp_path / "its@files")
    refused(lambda: load(checkpoint), str(tmp_path / "judge" / "config"), "@FOLDER")
    assert torch.equal(load(f"{checkpoint}@{folder}").score(texts(3)), want)


def test_the_model_is_built_once_and_the_random_state_is_left_alone(tmp_path, monkeypatch):
    scorer = load(make_checkpoint(tmp_path))
    before = torch.get_rng_state()
    first = scorer.score(texts(3))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("loaded again"))
    assert torch.equal(scorer.score(texts(3)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_provenance_names_weights_and_versions(tmp_path):
    from importlib.metadata import version

    from tl_toxmem.scorers import load_scorer

    checkpoint = make_checkpoint(tmp_path)
    assert load(checkpoint).provenance() == {
        "scorer": f"detoxify:{checkpoint.name}",
        "label": "toxicity",
        "detoxify": version("detoxify"),
        "transformers": version("transformers"),
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "config_sha256": sha256_of(tmp_path / "config"),
    }
    facts = load_scorer("profanity").provenance()
    assert facts["alt-profanity-check"] == version("alt-profanity-check")
    weights, vectorizer = KNOWN[version("alt-profanity-check")]
    assert (facts["sha256"], facts["vectorizer_sha256"]) == (weights, vectorizer)


@pytest.fixture
def other_profanity(tmp_path, monkeypatch):
    """`other_profanity(name)`: the package, with another byte in one file, that says when it is imported."""
    import sys
    from importlib.util import find_spec

    monkeypatch.delitem(sys.modules, "profanity_check", raising=False)

    def make(changed: str) -> Path:
        (installed,) = find_spec("profanity_check").submodule_search_locations
        package = shutil.copytree(installed, tmp_path / "profanity_check")
        (package / "__init__.py").write_text(
            f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
            "def predict_prob(texts): return [0.5 for _ in texts]\n"
        )
        content = bytearray((package / "data" / changed).read_bytes())
        content[-1] ^= 1
        (package / "data" / changed).write_bytes(content)
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path / "imported"

    yield make
    sys.modules.pop("profanity_check", None)


@pytest.mark.parametrize("changed", ["model.joblib", "vectorizer.joblib"])
def test_the_profanity_models_pickles_are_opened_only_as_published(changed, other_profanity):
    """Importing the package opens both."""
    from tl_toxmem.scorers import load_scorer

    imported = other_profanity(changed)
    refused(lambda: load_scorer("profanity"), changed, "SHA-256", "--trust-pickle")
    assert not imported.exists()
    scorer = load_scorer("profanity", trust_pickle=True)
    found = hashlib.sha256((imported.parent / "profanity_check/data" / changed).read_bytes())
    assert found.hexdigest() in scorer.provenance().values()
    assert not imported.exists(), "provenance opens nothing"
    assert scorer.score(["a", "b"]).tolist() == [0.5, 0.5]
    assert imported.exists()


def test_the_profanity_models_of_another_version_are_not_known(monkeypatch):
    from tl_toxmem.scorers import load_scorer, profanity

    monkeypatch.setattr(profanity, "version", lambda name: "9.9")
    refused(lambda: load_scorer("profanity"), "alt-profanity-check 9.9", "install 1.9.0 or 1.9.1")
    assert load_scorer("profanity", trust_pickle=True).provenance()["sha256"]


def test_the_versions_that_the_constraints_pin_are_known():
    for file in (Path(__file__).parents[1] / "constraints").glob("*.txt"):
        pinned = dict(line.split("==") for line in file.read_text().split() if "==" in line)
        assert pinned["alt-profanity-check"] in KNOWN


# What is refused, and when


@pytest.mark.parametrize(
    "name",
    ["", "detoxify", "detoxify:", "original", "detoxify:big", "detoxify:.ckpt", "x:a-0.ckpt"],
)
def test_unknown_names_are_answered_with_the_valid_ones(name):
    from tl_toxmem.scorers import PUBLISHED, load_scorer

    refused(lambda: load_scorer(name), "profanity", "detoxify:FILE.ckpt", *PUBLISHED)


def test_only_published_names_need_the_network(tmp_path):
    from tl_toxmem.scorers import PUBLISHED, scorer_needs_network

    assert all(scorer_needs_network("detoxify:" + which) for which in PUBLISHED)
    for name in ("profanity", "original", "detoxify:original.ckpt", f"detoxify:{tmp_path}/a.ckpt"):
        assert not scorer_needs_network(name)


def test_missing_package_says_what_to_install(monkeypatch):
    from tl_toxmem.scorers import load_scorer, profanity

    monkeypatch.setattr(profanity, "find_spec", lambda name: None)
    refused(lambda: load_scorer("profanity"), 'pip install "tl-toxmem[offline]"')


@pytest.mark.usefixtures("forbid_torch_load")
def test_wrong_hash_truncation_and_missing_hash_are_refused_unopened(tmp_path):
    checkpoint = make_checkpoint(tmp_path)
    right = checkpoint.stem.removeprefix("tiny-")
    refused(lambda: load(tmp_path / "none-00000000.ckpt"), "no Detoxify checkpoint", "none-")
    wrong = checkpoint.rename(tmp_path / "tiny-00000000.ckpt")
    refused(lambda: load(wrong), "damaged", right, "00000000")
    for bare in ("tiny.ckpt", "tiny-1234567.ckpt", "tiny-nothexad.ckpt"):
        unhashed = wrong.rename(tmp_path / bare)
        refused(lambda: load(unhashed), "does not carry its SHA-256", f"-{right}.ckpt")  # noqa: B023
        wrong = unhashed
    cut = tmp_path / f"tiny-{right}.ckpt"
    cut.write_bytes(wrong.read_bytes()[:-100])
    refused(lambda: load(cut), "damaged", right)


def test_a_file_changed_between_load_scorer_and_score_is_refused(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path)
    scorer = load(checkpoint)
    checkpoint.write_bytes(b"other")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("the file was opened"))
    refused(lambda: scorer.score(["the sea"]), "damaged")


class Payload:
    """What a hostile checkpoint holds: unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_malicious_pickle_with_its_right_hash_is_not_run(writer, tmp_path):
    make_checkpoint(tmp_path)
    evil, trace = tmp_path / "evil.ckpt", tmp_path / "executed"
    content = {"config": {}, "state_dict": Payload(trace)}
    if writer == "torch":
        torch.save(content, evil)
    else:
        evil.write_bytes(pickle.dumps(content, protocol=2))
    scorer = load(seal(evil))
    refused(lambda: scorer.score(["the sea"]), "cannot be opened as tensors and plain values")
    assert not trace.exists()
    pickle.loads(pickle.dumps(content))  # it would have been
    assert trace.exists()


@pytest.mark.parametrize("name", ["evil.ckpt", None], ids=["unhashed", "hashed"])
def test_a_pickle_is_run_only_for_who_trusts_it(name, tmp_path):
    from tl_toxmem.scorers import load_scorer

    checkpoint, trace = make_checkpoint(tmp_path), tmp_path / "executed"
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "more": Payload(trace)}, tmp_path / "evil.ckpt")
    evil = tmp_path / name if name else seal(tmp_path / "evil.ckpt")
    if name:
        refused(lambda: load(evil), "does not carry its SHA-256", "--trust-pickle")
    else:
        refused(lambda: load(evil).score(["the sea"]), "cannot be opened as tensors")
    assert not trace.exists()
    trusting = load_scorer(f"detoxify:{evil}", trust_pickle=True)
    assert torch.equal(trusting.score(texts(3)), load(checkpoint).score(texts(3)))
    assert trace.exists()
    trace.rmdir()
    wrong = evil.rename(tmp_path / "evil-00000000.ckpt")
    refused(lambda: load_scorer(f"detoxify:{wrong}", trust_pickle=True), "damaged")
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 no archive"])
def test_no_checkpoint_under_a_right_hash(content, tmp_path):
    make_checkpoint(tmp_path)
    (tmp_path / "other.ckpt").write_bytes(content)
    scorer = load(seal(tmp_path / "other.ckpt"))
    refused(lambda: scorer.score(["the sea"]), "cannot be opened")


def test_damaged_published_files_are_refused_unopened(tmp_path, monkeypatch):
    import detoxify.detoxify

    from tl_toxmem.scorers import load_scorer

    source, home = tmp_path / "tiny-00000000.ckpt", tmp_path / "hub" / "checkpoints"
    source.write_bytes(b"not what its name says")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(detoxify.detoxify.MODEL_URLS, "original", source.as_uri())
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("the file was opened"))
    scorer = load_scorer("detoxify:original")
    refused(lambda: scorer.score(["the sea"]), "cannot download detoxify:original", "invalid hash")
    assert list(home.iterdir()) == []
    (home / source.name).write_bytes(b"damaged in the cache")
    refused(lambda: load_scorer("detoxify:original"), "damaged")


def test_no_toxicity_label_is_answered_with_the_labels(tmp_path):
    scorer = load(make_checkpoint(tmp_path, classes=("insult", "threat")))
    refused(lambda: scorer.score(["the sea"]), "'toxicity'", "insult, threat")


@pytest.mark.parametrize(
    ("arch", "fragment"),
    [
        ({"model_name": "GPT2LMHeadModel"}, "BertForSequenceClassification"),
        ({"tokenizer_name": "PreTrainedModel"}, "BertTokenizer"),
        ({"num_classes": 2}, "size mismatch"),
    ],
)
def test_an_architecture_detoxify_does_not_know_is_refused(arch, fragment, tmp_path):
    scorer = load(make_checkpoint(tmp_path, **arch))
    refused(lambda: scorer.score(["the sea"]), fragment)


def test_weights_are_all_there_and_all_used(tmp_path):
    def state(**changes):
        return lambda model: {
            k: v for k, v in {**model.state_dict(), **changes}.items() if v is not None
        }

    lacking = load(make_checkpoint(tmp_path / "a", state=state(**{"classifier.weight": None})))
    refused(lambda: lacking.score(["the sea"]), "lacks classifier.weight")
    surplus = load(make_checkpoint(tmp_path / "b", state=state(more=torch.zeros(1))))
    refused(lambda: surplus.score(["the sea"]), "no place for more")
    old = {"bert.embeddings.position_ids": torch.arange(98)[None]}
    assert len(load(make_checkpoint(tmp_path / "c", state=state(**old))).score(["the sea"])) == 1


def test_a_tokenizer_without_its_vocabulary_is_refused(tmp_path):
    """transformers would make one that knows no word, and every text would score alike."""
    checkpoint = make_checkpoint(tmp_path)
    config = tmp_path / "config"
    (config / "tokenizer.json").unlink()
    refused(lambda: load(checkpoint), "tokenizer file")
    (config / "vocab.json").write_text("{}")  # another family's
    scorer = load(checkpoint)
    refused(lambda: scorer.score(["the sea"]), "5 tokens", "own tokenizer files")
    (config / "vocab.json").unlink()
    (config / "tokenizer.json").write_text("{")
    scorer = load(checkpoint)
    refused(
        lambda: scorer.score(["the sea"]), "the configuration or tokenizer in", "cannot be read"
    )


# That they judge


def test_profanity_tells_toxic_from_benign():
    from tl_toxmem.scorers import load_scorer

    scores = load_scorer("profanity").score(TOXIC + BENIGN)
    assert scores[: len(TOXIC)].min() > 0.5 > scores[len(TOXIC) :].max()


@pytest.mark.skipif(not JUDGE.is_file(), reason="no real judge at ../shared/judges/minilm")
def test_a_real_judge_tells_toxic_from_benign():
    scores = load(JUDGE).score(TOXIC + BENIGN)
    assert scores[: len(TOXIC)].min() > 0.5 > scores[len(TOXIC) :].max()


def test_the_default_neutral_text_is_neutral():
    from importlib import resources

    from tl_toxmem.scorers import load_scorer

    content = (resources.files("tl_toxmem") / "assets" / "neutral_en.txt").read_bytes()
    lines = content.decode("ascii").splitlines()
    assert len(lines) >= 200
    assert len({" ".join(line.split()[:4]) for line in lines}) == len(lines)  # no templates
    assert all(25 <= len(line.split()) <= 45 for line in lines)
    assert load_scorer("profanity").score(lines).max() < 0.5
