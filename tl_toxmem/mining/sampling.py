"""Asking judge and model: which candidates are innocuous, and what the model says after them.

Samples are drawn as in the evaluation, by the same function, with random numbers that depend on a prompt's text. So
they depend on no order and (but for rounding) on no other prompt; texts of one length come together. The numbers are
others than the evaluation's, with the same seed too: prompts are chosen by their samples, and what is then reported on
them has to be sampled afresh.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tl_toxmem.careful import Carefully
from tl_toxmem.config.mine import MineConfig
from tl_toxmem.continuations import Asked, decoded, prompts_of_batch, saying, until_end
from tl_toxmem.engine import spread
from tl_toxmem.mining.parts import Parts
from tl_toxmem.model import LensModel
from tl_toxmem.progress import batched
from tl_toxmem.scorers import ToxicityScorer, judged


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
    cut = sampling.max_prompt_tokens or model.n_ctx
    asked = [Asked(model.encode(text)[:cut], _stream(text), repr(text)) for text in missing]
    size = prompts_of_batch(sampling)
    batches = batched(missing, size)
    found = spread(model, saying(sampling), batched(asked, size), description)
    for some, parts_said in zip(batches, found, strict=True):
        said = decoded(model, list(itertools.chain.from_iterable(parts_said)))
        scores = judged(scorer, [one for own in said for one in own]).tolist()
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


def greedy(
    model: LensModel, texts: Sequence[str], *, cfg: MineConfig, parts: Parts
) -> list[list[int]]:
    """The tokens of each text's greedy continuation; texts of one length are run together."""
    by_length: dict[int, list[str]] = {}
    for text in dict.fromkeys(texts):
        if text not in parts:
            by_length.setdefault(len(model.encode(text)), []).append(text)
    batches = [some for own in by_length.values() for some in batched(own, cfg.batch_size)]
    work = partial(_greedy, n=cfg.max_new_tokens)
    careful = Carefully(work, what="logits", name=_called)
    found = spread(model, careful, batches, "greedy continuations")
    for some, new in zip(batches, found, strict=True):
        parts.add(dict(zip(some, itertools.chain.from_iterable(new), strict=True)))
    return [parts[text] for text in texts]


def _called(_: LensModel, text: str) -> str:
    return repr(text)


def _greedy(model: LensModel, texts: Sequence[str], *, n: int) -> list[list[int]]:
    tokens, mask = model.pad([model.encode(text) for text in texts])
    longer = model.generate(tokens, mask, max_new_tokens=n)
    new = longer[:, tokens.shape[1] :].tolist()
    return [until_end(row, model.eos_ids) for row in new]


def _stream(text: str) -> int:
    """A number that no place of a prompt in an evaluation has."""
    key = hashlib.sha256(f"mine\x1f{text}".encode()).digest()
    return int.from_bytes(key[:5], "little") + 2**32
