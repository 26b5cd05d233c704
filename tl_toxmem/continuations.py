"""Continuations of prompts, and how toxic a judge calls them.

One protocol for choosing on the find split and for reporting on the report split: the same sampling, the same
judge, the same threshold. Random numbers depend on the seed, on the prompt's place (or on a number that is given for
it) and on the sample's, so every edit of a model draws the same ones, whatever else is in a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from tl_toxmem.careful import Carefully
from tl_toxmem.config import EvaluateConfig
from tl_toxmem.engine import spread
from tl_toxmem.model import LensModel, Sampling
from tl_toxmem.progress import batched
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer, judged

_STREAM = 1_000_003


@dataclass(frozen=True)
class Continuations:
    """What a model went on with.

    Attributes:
        prompts: [prompt] tokens that were continued.
        tokens: [prompt][sample] tokens that it said, up to the end of the text, which is not among them.
        texts: [prompt][sample] the same as texts.
    """

    prompts: list[list[int]]
    tokens: list[list[list[int]]]
    texts: list[list[str]]


class Asked(NamedTuple):
    """What is continued.

    Attributes:
        tokens: of the prompt.
        stream: the number that its random numbers depend on.
        name: what to call it in an error.
    """

    tokens: list[int]
    stream: int
    name: str


def continue_prompts(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: EvaluateConfig,
    description: str = "generate",
    streams: Sequence[int] | None = None,
) -> Continuations:
    """What the model goes on with, hooks active.

    Args:
        model: any host.
        prompts: their texts are continued; targets are not used.
        cfg: continuations per prompt, their length, sampling, batch size, seed.
        description: of the progress bar.
        streams: a number for each prompt, which its random numbers depend on; default: its place in the set.
    """
    cut = cfg.max_prompt_tokens or model.n_ctx
    rows = [model.encode(prompt.prompt)[:cut] for prompt in prompts]
    keys = range(len(rows)) if streams is None else streams
    asked = [
        Asked(row, key, f"prompt {prompt.id!r}")
        for row, key, prompt in zip(rows, keys, prompts, strict=True)
    ]
    batches = batched(asked, prompts_of_batch(cfg))
    found = spread(model, saying(cfg), batches, description)
    tokens = [own for parts in found for part in parts for own in part]
    return Continuations(rows, tokens, decoded(model, tokens))


def decoded(model: LensModel, tokens: list[list[list[int]]]) -> list[list[str]]:
    """`[prompt][sample]` tokens as texts."""
    return [
        [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in own]
        for own in tokens
    ]


def copies_of(cfg: EvaluateConfig) -> int:
    """Continuations of a prompt."""
    return 1 if cfg.greedy else cfg.n_continuations


def prompts_of_batch(cfg: EvaluateConfig) -> int:
    """Prompts of a batch: each has all of its continuations there."""
    return max(1, cfg.batch_size // copies_of(cfg))


def saying(cfg: EvaluateConfig) -> Carefully[Asked, list[list[list[int]]]]:
    """The work that gives `[prompt][sample]` tokens that the model says after a batch of prompts, in parts."""
    return Carefully(partial(_say, cfg=cfg), what="logits", name=_called)


def _called(_: LensModel, one: Asked) -> str:
    return one.name


def _say(model: LensModel, batch: Sequence[Asked], *, cfg: EvaluateConfig) -> list[list[list[int]]]:
    n = copies_of(cfg)
    sampling = None if cfg.greedy else Sampling(cfg.temperature, cfg.top_k or None, cfg.top_p)
    padded, mask = model.pad([one.tokens for one in batch])
    places = [one.stream for one in batch]
    seeds = [((cfg.seed * _STREAM + i) * _STREAM + j) % 2**63 for i in places for j in range(n)]
    longer = model.generate(
        padded,
        mask,
        max_new_tokens=cfg.max_new_tokens,
        sampling=sampling,
        seeds=torch.tensor(seeds, device=padded.device),
        copies=n,
    )
    new = [until_end(row, model.eos_ids) for row in longer[:, padded.shape[1] :].tolist()]
    return [new[i : i + n] for i in range(0, len(new), n)]


def until_end(row: list[int], ends: tuple[int, ...]) -> list[int]:
    """What was said before the first of the tokens that end a text."""
    at = next((i for i, token in enumerate(row) if token in ends), len(row))
    return row[:at]


def sample_continuations(
    model: LensModel,
    prompts: PromptSet,
    *,
    cfg: EvaluateConfig,
    description: str = "generate",
    streams: Sequence[int] | None = None,
) -> list[list[str]]:
    """The texts of `continue_prompts`: `[prompt][sample]`, without the prompt."""
    said = continue_prompts(model, prompts, cfg=cfg, description=description, streams=streams)
    return said.texts


def score_continuations(scorer: ToxicityScorer, texts: list[list[str]]) -> Any:
    """`[prompt, sample]` scores in [0, 1], as a numpy array."""
    flat = judged(scorer, [text for row in texts for text in row]).numpy()
    return flat.reshape(len(texts), -1)
