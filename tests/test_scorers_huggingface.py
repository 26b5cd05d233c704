"""Any sequence classifier as a judge, against transformers' own pipeline; which label, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import byte_tokenizer
from tiny_judges import FAMILIES, ROUNDING, make_model, make_tokenizer, refused, texts

MULTI = "multi_label_classification"


@pytest.fixture
def save(tmp_path):
    """`save(labels, ...)`: a tiny classifier in a folder."""

    def make(
        *labels: str, family: str = "Bert", problem: str | None = None, name: str = "judge"
    ) -> Path:
        tokenizer = make_tokenizer(family)
        model = make_model(family, tokenizer, n_classes=len(labels), positions=98)
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
        model.config.problem_type = problem
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def load(name, **kwargs):
    from tl_toxmem.scorers import load_scorer

    return load_scorer(f"hf:{name}", **kwargs)


def by_pipeline(folder: Path, label: str, samples: list[str]) -> torch.Tensor:
    """One text at a time."""
    from transformers import pipeline

    judge = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")
    found = [{row["label"]: row["score"] for row in judge([text])[0]} for text in samples]
    return torch.tensor([row[label] for row in found])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("labels", "label", "problem"),
    [
        (("neutral", "toxic"), "toxic", None),
        (("neutral", "toxic"), "toxic", MULTI),
        (("insult", "Toxicity", "threat"), "Toxicity", "single_label_classification"),
        (("insult", "toxic", "threat"), "toxic", MULTI),
        (("toxic",), "toxic", None),
    ],
)
def test_equals_transformers_own_pipeline(save, family, labels, label, problem):
    folder = save(*labels, family=family, problem=problem)
    samples = [*texts(12), ""]
    got, want = load(folder).score(samples), by_pipeline(folder, label, samples)
    assert (got.dtype, got.shape) == (torch.float32, (13,))
    assert want.max() - want.min() > 1000 * ROUNDING  # texts that were mixed up would show
    assert torch.allclose(got, want, atol=ROUNDING, rtol=0)


def test_a_batch_scores_as_its_texts_alone_and_in_order(save):
    scorer = load(save("neutral", "toxic"))
    samples = texts(150)  # more than two batches
    scores = scorer.score(samples)
    alone = torch.cat([scorer.score([text]) for text in samples[::5]])
    assert torch.allclose(scores[::5], alone, atol=ROUNDING, rtol=0)
    assert torch.allclose(scorer.score(samples[::-1]).flip(0), scores, atol=ROUNDING, rtol=0)
    assert len(scores.unique()) > 100
    assert scorer.score([]).shape == (0,)


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_cut_to_the_models_context(save, family):
    scorer = load(save("neutral", "toxic", family=family))
    long = " ".join(["sea"] * 400)
    scores = scorer.score([long, long + " rain", "sea"])
    assert scores[0] == scores[1]
    assert abs(scores[0] - scores[2]) > ROUNDING


@pytest.mark.parametrize("pads", [False, True])
def test_a_decoder_judges_by_the_last_token_also_without_padding(tmp_path, pads):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    tokenizer = byte_tokenizer()
    if pads:
        tokenizer.pad_token = tokenizer.eos_token
    config = GPT2Config(
        n_layer=2, n_embd=16, n_head=2, n_positions=48, vocab_size=257, bos_token_id=256,
        eos_token_id=256, pad_token_id=tokenizer.pad_token_id, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    samples = [*texts(9), "sea " * 60, ""]
    rows = [tokenizer(text)["input_ids"][:48] or [256] for text in samples]
    with torch.no_grad():
        want = [model(input_ids=torch.tensor([row])).logits.softmax(-1)[0, 1] for row in rows]
    got = load(tmp_path / "judge").score(samples)
    assert torch.allclose(got, torch.stack(want), atol=ROUNDING, rtol=0)


# Which label


@pytest.mark.parametrize(
    ("labels", "column"),
    [
        (("LABEL_0", "LABEL_1"), 1),
        (("LABEL_0",), 0),
        (("toxic", "non-toxic"), 0),
        (("non_toxic", "TOXIC"), 1),
        (("hate", "Toxic-Comment", "obscene"), 1),
    ],
)
def test_a_label_that_says_toxic_is_found(labels, column):
    from tl_toxmem.scorers.labels import pick_label

    assert pick_label(labels, None, where="x") == column


@pytest.mark.parametrize(
    ("labels", "wanted", "problem"),
    [
        (("LABEL_0", "LABEL_1", "LABEL_2"), None, "has no label that says toxic"),
        (("NOT_HATE", "HATE"), None, "has no label that says toxic"),
        (("LABEL_1", "LABEL_0"), None, "has no label that says toxic"),
        (("neutral",), None, "has no label that says toxic"),
        (("toxic", "toxicity"), None, "has several labels that say toxic"),
        (("neutral", "toxic"), "rude", "has no label 'rude'"),
        (("Toxic", "toxic"), "TOXIC", "has several labels 'TOXIC'"),
    ],
)
def test_a_wrong_or_ambiguous_label_is_answered_with_the_labels(save, labels, wanted, problem):
    folder = save(*labels)
    name = f"{folder}#{wanted}" if wanted else folder
    refused(lambda: load(name), problem, ", ".join(labels), "hf:MODEL#LABEL")


def test_a_label_can_be_named_and_is_part_of_name_and_provenance(save):
    folder = save("neutral", "toxic")
    scorer = load(f"{folder}#Neutral")
    assert torch.allclose(
        scorer.score(texts(5)), 1 - load(folder).score(texts(5)), atol=ROUNDING, rtol=0
    )
    assert (scorer.name, scorer.provenance()["label"]) == ("hf:judge#Neutral", "neutral")
    assert load(folder).provenance()["label"] == "toxic"
    exact = save("Toxic", "toxic", name="case")
    assert load(f"{exact}#Toxic").provenance()["label"] == "Toxic"


def test_provenance_has_the_hash_of_weights_and_of_configuration(save, tmp_path):
    import hashlib

    folder = save("neutral", "toxic")
    facts = load(folder).provenance()
    weights = (folder / "model.safetensors").read_bytes()
    assert facts["sha256"] == hashlib.sha256(weights).hexdigest()
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "vocab.txt").write_text("more")
    other = load(tmp_path / "other").provenance()
    assert other["sha256"] == facts["sha256"]
    assert other["config_sha256"] != facts["config_sha256"]


# From where


def test_a_relative_folder_is_found_also_after_a_change_of_directory(save, tmp_path, monkeypatch):
    folder = save("neutral", "toxic", name="a#b")  # no label: it is the folder's name
    want = load(folder).score(texts(3))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    scorer = load("./a#b")
    labelled = load("a#b#toxic")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(scorer.score(texts(3)), want)
    assert torch.equal(labelled.score(texts(3)), want)


def test_a_hub_id_is_fetched_at_the_first_score(save, tmp_path, monkeypatch):
    """The hub's cache is laid out as huggingface_hub does; no hub is asked."""
    import huggingface_hub

    from tl_toxmem.scorers import scorer_needs_network

    commit = "0123456789" * 4
    snapshot = tmp_path / "models--some--judge" / "snapshots" / commit
    shutil.copytree(save("neutral", "toxic"), snapshot)
    asked = []

    def fetch(name, **kwargs):
        asked.append((name, kwargs["allow_patterns"]))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert scorer_needs_network("hf:some/judge#toxic")
    assert not scorer_needs_network(f"hf:{snapshot}#toxic")
    scorer = load("some/judge#toxic")
    assert not asked
    assert "sha256" not in scorer.provenance()
    assert len(scorer.score(["sea", "rain"])) == 2
    assert [name for name, _ in asked] == ["some/judge"]
    assert not any("bin" in pattern for pattern in asked[0][1])
    facts = scorer.provenance()
    assert (facts["scorer"], facts["revision"]) == ("hf:some/judge#toxic", commit)
    bad = load("some/judge#rude")
    refused(lambda: bad.score(["sea"]), "has no label 'rude'", "neutral, toxic")


def test_a_hub_id_that_cannot_be_had(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(*args, **kwargs):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    scorer = load("some/judge")
    refused(lambda: scorer.score(["sea"]), "'some/judge'", "no connection", "hf:FOLDER")


# What is refused


def test_pickled_weights_are_opened_only_if_trusted(save, monkeypatch):
    from safetensors.torch import load_file

    folder = save("neutral", "toxic")
    want = load(folder).score(texts(4))
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    refused(lambda: load(folder), "no weights (model*.safetensors)")
    torch.save(state, folder / "pytorch_model.bin")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *a, **k: pytest.fail("the file was opened"))
        refused(lambda: load(folder), "not opened", "--trust-pickle")
    trusting = load(folder, trust_pickle=True)
    assert torch.equal(trusting.score(texts(4)), want)


def test_safetensors_are_preferred_to_a_pickle_beside_them(save):
    folder = save("neutral", "toxic")
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    assert len(load(folder, trust_pickle=True).score(["sea"])) == 1


@pytest.mark.parametrize("change", ["lacks", "has no place for"])
def test_weights_are_all_there_and_all_used(save, change):
    """transformers would put a random head where there is none, and warn at most."""
    from safetensors.torch import load_file, save_file

    folder = save("neutral", "toxic")
    state = load_file(folder / "model.safetensors")
    if change == "lacks":
        state = {k: v for k, v in state.items() if not k.startswith("classifier")}
    else:
        state["bert.encoder.layer.7.more"] = torch.zeros(2)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    scorer = load(folder)
    refused(lambda: scorer.score(["sea"]), change)


def test_a_folder_that_is_no_classifier(save, tmp_path, gpt2_folder):
    refused(lambda: load("./nowhere"), "no model folder at ./nowhere", "hf:OWNER/NAME")
    refused(lambda: load(tmp_path), "no config.json")
    regression = save("toxic", problem="regression")
    refused(lambda: load(regression), "is a regression", "classifier")
    scorer = load(gpt2_folder)  # a language model: its configuration has two unnamed labels
    refused(lambda: scorer.score(["sea"]), "lacks score.weight")
    for name in ("", "#toxic", f"{regression}#"):
        refused(lambda name=name: load(name), "unknown scorer", "hf:NAME_OR_FOLDER[#LABEL]")
    (regression / "config.json").write_text("{")
    refused(lambda: load(regression), "config.json cannot be read")


def test_truncated_weights(save):
    folder = save("neutral", "toxic")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    scorer = load(folder)
    refused(lambda: scorer.score(["sea"]), "cannot be read", "not fully covered")


def test_a_vocabulary_of_another_model(save):
    folder = save("neutral", "toxic")
    for file in folder.glob("*token*"):
        file.unlink()
    byte_tokenizer().save_pretrained(folder)
    scorer = load(folder)
    refused(lambda: scorer.score(["sea"]), "257 tokens, the model 17", "own tokenizer files")
