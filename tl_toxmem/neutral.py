"""Neutral text: what deletion should leave alone, in documents and in tokens."""

import hashlib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_lines
from tl_toxmem.model import LensModel


def default_neutral() -> Path:
    """The English text that comes with the package."""
    return Path(str(resources.files("tl_toxmem") / "assets" / "neutral_en.txt"))


def read_documents(path: str | Path) -> list[str]:
    """Neutral text: one document a line, blank lines skipped.

    Raises:
        ToxmemError: file missing, no UTF-8, or without text.
    """
    path = Path(path)
    documents = [line.strip() for line in read_lines(path, "neutral text") if line.strip()]
    if len(documents) < 2:
        raise ToxmemError(f"{path} has {len(documents)} documents: give at least 2, one a line")
    return documents


def split_documents(documents: list[str]) -> tuple[list[str], list[str]]:
    """Two disjoint halves by hash: the text that costs are estimated on, and the text that is reported on.

    Equal documents stay together, so no reported text was seen in choosing.
    """
    order = sorted(set(documents), key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    half = len(order) // 2
    choosing = set(order[:half])
    return [t for t in documents if t in choosing], [t for t in documents if t not in choosing]


def encode_documents(
    model: LensModel, texts: Sequence[str], *, max_tokens: int, piece: int | None = None
) -> list[list[int]]:
    """Documents in tokens, until `max_tokens` are reached; those of one token left out.

    A document is cut to the context, or divided into pieces of at most `piece` tokens.

    Raises:
        ToxmemError: if nothing is left.
    """
    rows: list[list[int]] = []
    n_tokens = 0
    for row in _cut(model, texts, piece):
        if len(row) < 2:
            continue
        if rows and n_tokens + len(row) > max_tokens:
            break
        rows.append(row)
        n_tokens += len(row)
    if not rows:
        raise ToxmemError("the neutral text has no document of two tokens: give more text")
    return rows


def _cut(model: LensModel, texts: Sequence[str], piece: int | None) -> Iterator[list[int]]:
    for text in texts:
        row = model.encode(text)[: model.n_ctx]
        step = piece or model.n_ctx
        yield from (row[start : start + step] for start in range(0, len(row), step))


def called(_: LensModel, row: Sequence[int]) -> str:
    """What to call a row of neutral text in an error."""
    return f"a text of {len(row)} tokens"


def next_token_log_probs(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
) -> Float[Tensor, "batch next"]:
    """Log-probability of each real token that has a real token before it; 0 elsewhere. float32, nats."""
    log_probs = logits[:, :-1].float().log_softmax(-1)
    chosen = log_probs.gather(-1, tokens[:, 1:, None])[..., 0]
    return chosen * (mask[:, 1:] * mask[:, :-1])
