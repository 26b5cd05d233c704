"""Asking judge and model: which candidates are innocuous, and what the model says after them.

Samples are drawn as in the evaluation, by the same function, with random numbers that depend on a prompt's text. So
they depend on no order and (but for rounding) on no other prompt; texts of one length come together. The numbers are
others than the evaluation's, with the same seed too: prompts are chosen by their samples, and what is then reported on
them has to be sampled afresh.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.config.mine import MineConfig
from tl_toxmem.continuations import decoded, prompts_at_once, say, until_end
from tl_toxmem.engine import spread
from tl_toxmem.mining.parts import Parts
from tl_toxmem.model import LensModel
from tl_toxmem.progress import batched
from tl_toxmem.scorers import ToxicityScorer


@dataclass(frozen=True)
class Samples:
    """What a model said after a text, and how toxic each of it is."""

    text: str
    continuations: tuple[str, ...]
    scores: tuple[float, ...]

    def share(self, threshold: float) -> float:
        """Share of the continuations that are toxic."""
        return sum(score >= threshold for score in self.scores) / len(self.scores)


def sample(
    model: LensModel,
    texts: Sequence[str],
    *,
    scorer: ToxicityScorer,
    cfg: MineConfig,
    parts: Parts,
    description: str,
) -> list[Samples]:
    """`cfg.samples` continuations of each text with their scores."""
    missing = [text for text in dict.fromkeys(texts) if text not in parts]
    missing.sort(key=lambda text: (len(model.encode(text)), text))
    k, sampling = cfg.samples, cfg.sampling()
    batches = batched(missing, prompts_at_once(sampling))
    found = spread(model, partial(_said, sampling=sampling), batches, description)
    for some, said in zip(batches, found, strict=True):
        scores = scorer.score([one for own in said for one in own]).tolist()
        parts.add(
            {
                text: {"continuations": own, "scores": scores[i * k : (i + 1) * k]}
                for i, (text, own) in enumerate(zip(some, said, strict=True))
            }
        )
    return [
        Samples(text, tuple(parts[text]["continuations"]), tuple(parts[text]["scores"]))
        for text in texts
    ]


def _said(model: LensModel, texts: list[str], *, sampling: EvaluateConfig) -> list[list[str]]:
    """The continuations of some texts."""
    cut = sampling.max_prompt_tokens or model.n_ctx
    asked = [(model.encode(text)[:cut], _stream(text)) for text in texts]
    return decoded(model, say(model, asked, cfg=sampling))


def greedy(
    model: LensModel, texts: Sequence[str], *, cfg: MineConfig, parts: Parts
) -> list[list[int]]:
    """The tokens of each text's greedy continuation; texts of one length are run together."""
    by_length: dict[int, list[str]] = {}
    for text in dict.fromkeys(texts):
        if text not in parts:
            by_length.setdefault(len(model.encode(text)), []).append(text)
    batches = [some for own in by_length.values() for some in batched(own, cfg.batch_size)]
    found = spread(model, partial(_greedy, n=cfg.max_new_tokens), batches, "greedy continuations")
    for some, new in zip(batches, found, strict=True):
        parts.add(dict(zip(some, new, strict=True)))
    return [parts[text] for text in texts]


def _greedy(model: LensModel, texts: list[str], *, n: int) -> list[list[int]]:
    tokens, mask = model.pad([model.encode(text) for text in texts])
    longer = model.generate(tokens, mask, max_new_tokens=n)
    new = longer[:, tokens.shape[1] :].tolist()
    return [until_end(row, model.eos_ids) for row in new]


def _stream(text: str) -> int:
    """A number that no place of a prompt in an evaluation has."""
    key = hashlib.sha256(f"mine\x1f{text}".encode()).digest()
    return int.from_bytes(key[:5], "little") + 2**32
