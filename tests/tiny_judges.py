"""Tiny judges on disk: checkpoints in Detoxify's own format, of all four families, with their own tokenizers."""

import hashlib
import random
from pathlib import Path

import pytest
import torch

# Padding changes the order of float32 sums, and weights of size 1 amplify that: 4e-6 was measured here,
# and 4e-15 for the same models and texts in float64.
ROUNDING = 2e-5
WORDS = ["the", "sea", "is", "calm", "you", "are", "a", "fool", "rain", "falls", "on", "hills"]
FAMILIES = ["Bert", "Roberta", "Albert", "XLMRoberta"]


def texts(n: int, *, seed: int = 0, longest: int = 12) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(n)]


def make_tokenizer(family: str, **kwargs):
    import transformers

    pieces = [("\u2581" + word, -1.0 - i) for i, word in enumerate(WORDS)]
    roberta = ["<s>", "<pad>", "</s>", "<unk>"]
    if family == "Bert":
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        vocab = {name: i for i, name in enumerate(names)}
    elif family == "Roberta":
        letters = sorted({*"".join(WORDS), "\u0120"})
        vocab = {name: i for i, name in enumerate([*roberta, "<mask>", *letters])}
        kwargs["merges"] = []
    elif family == "Albert":
        vocab = [(n, 0.0) for n in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")] + pieces
    else:
        vocab = [(n, 0.0) for n in roberta] + pieces + [("<mask>", 0.0)]
    return getattr(transformers, family + "Tokenizer")(vocab=vocab, **kwargs)


def make_model(family: str, tokenizer, *, n_classes: int, positions: int):
    import transformers

    model_class = getattr(transformers, family + "ForSequenceClassification")
    config = model_class.config_class(
        vocab_size=len(tokenizer),
        hidden_size=16,
        embedding_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=n_classes,
        initializer_range=1.0,  # so that the scores spread over [0, 1]
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return model_class(config).eval()


def seal(file: Path) -> Path:
    """Give a file the name that its content asks for."""
    return file.rename(
        file.with_name(f"tiny-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.ckpt")
    )


def make_checkpoint(
    folder: Path,
    family: str = "Bert",
    *,
    classes: tuple[str, ...] = ("severe_toxic", "toxic", "insult"),
    n_classes: int | None = None,
    limit: int | None = 96,
    state=None,
    **arch,
) -> Path:
    """A checkpoint in Detoxify's format; its `model_type` names the folder relatively, as real ones do."""
    folder.mkdir(exist_ok=True)
    n_classes = n_classes or len(classes)
    tokenizer = make_tokenizer(family, **({"model_max_length": limit} if limit else {}))
    model = make_model(family, tokenizer, n_classes=n_classes, positions=98)
    model.config.save_pretrained(folder / "config")
    tokenizer.save_pretrained(folder / "config")
    args = {
        "num_classes": n_classes,
        "model_type": "config",
        "model_name": f"{family}ForSequenceClassification",
        "tokenizer_name": f"{family}Tokenizer",
        **arch,
    }
    config = {"arch": {"args": args}, "dataset": {"args": {"classes": list(classes)}}}
    content = {"config": config, "state_dict": state(model) if state else model.state_dict()}
    torch.save(content, folder / "tiny.ckpt")
    return seal(folder / "tiny.ckpt")


def sha256_of(folder: Path) -> str:
    """As docs/formats.md says: over the names and hashes of the folder's files, by name."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        total.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def load(checkpoint: Path | str):
    from tl_toxmem.scorers import load_scorer

    return load_scorer(f"detoxify:{checkpoint}")


def refused(call, *fragments: str) -> None:
    """The call fails with one line that has all the fragments."""
    from tl_toxmem.errors import ToxmemError

    with pytest.raises(ToxmemError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
