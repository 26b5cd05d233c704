"""Asking judge and model: which candidates are innocuous, and what the model says after them.

Samples are drawn as in the evaluation, by the same function, with random numbers that depend on a prompt's text. So
they depend on no order and (but for rounding) on no other prompt; texts of one length come together. The numbers are
others than the evaluation's, with the same seed too: prompts are chosen by their samples, and what is then reported on
them has to be sampled afresh.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tl_toxmem.careful import Careful
from tl_toxmem.config.mine import MineConfig
from tl_toxmem.continuations import sample_continuations, until_end
from tl_toxmem.mining.parts import Parts
from tl_toxmem.model import LensModel
from tl_toxmem.progress import meter
from tl_toxmem.prompts import Prompt, PromptSet
from tl_toxmem.scorers import ToxicityScorer, judged

_ANY = "."


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
    with meter(description, len(missing)) as done:
        for some in _some(missing, max(1, cfg.batch_size // cfg.samples)):
            # A prompt has a target; sampling does not use it.
            asked = PromptSet.of(Prompt(prompt=text, target=_ANY) for text in some)
            streams = [_stream(text) for text in some]
            said = sample_continuations(model, asked, cfg=cfg.sampling(), streams=streams)
            done(len(some))
            scores = judged(scorer, [one for own in said for one in own]).tolist()
            k = cfg.samples
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

    def said(some: Sequence[str]) -> list[list[int]]:
        tokens, mask = model.pad([model.encode(text) for text in some])
        longer = model.generate(tokens, mask, max_new_tokens=cfg.max_new_tokens)
        new: list[list[int]] = longer[:, tokens.shape[1] :].tolist()
        return new

    batches = [some for own in by_length.values() for some in _some(own, cfg.batch_size)]
    with meter("greedy continuations", len(batches)) as done:
        run = Careful(said, what="logits", model=model)
        for some in batches:
            new = itertools.chain(*run(some))
            parts.add(dict(zip(some, (until_end(row, model.eos_ids) for row in new), strict=True)))
            done(1)
    return [parts[text] for text in texts]


def _stream(text: str) -> int:
    """A number that no place of a prompt in an evaluation has."""
    key = hashlib.sha256(f"mine\x1f{text}".encode()).digest()
    return int.from_bytes(key[:5], "little") + 2**32


def _some(texts: Sequence[str], n: int) -> Iterator[list[str]]:
    for i in range(0, len(texts), n):
        yield list(texts[i : i + n])
