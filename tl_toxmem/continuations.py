"""Continuations of prompts, and how toxic a judge calls them.

One protocol for choosing on the find split and for reporting on the report split: the same sampling, the same
judge, the same threshold. Random numbers depend on the seed, on the prompt's place (or on a number that is given for
it) and on the sample's, so every edit of a model draws the same ones, whatever else is in a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.engine import spread
from tl_toxmem.model import LensModel, Sampling
from tl_toxmem.progress import batched
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer

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
    asked = list(zip(rows, keys, strict=True))
    batches = batched(asked, prompts_at_once(cfg))
    found = spread(model, partial(say, cfg=cfg), batches, description)
    tokens = [own for some in found for own in some]
    return Continuations(rows, tokens, decoded(model, tokens))


def decoded(model: LensModel, tokens: list[list[list[int]]]) -> list[list[str]]:
    """`[prompt][sample]` tokens as texts."""
    return [
        [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in own]
        for own in tokens
    ]


def prompts_at_once(cfg: EvaluateConfig) -> int:
    """Prompts of a batch: each has all of its continuations there."""
    return max(1, cfg.batch_size // (1 if cfg.greedy else cfg.n_continuations))


def say(
    model: LensModel, batch: Sequence[tuple[list[int], int]], *, cfg: EvaluateConfig
) -> list[list[list[int]]]:
    """`[prompt][sample]` tokens that the model says after some prompts, each with the number of its random numbers."""
    n = 1 if cfg.greedy else cfg.n_continuations
    sampling = None if cfg.greedy else Sampling(cfg.temperature, cfg.top_k or None, cfg.top_p)
    padded, mask = model.pad([row for row, _ in batch])
    seeds = [((cfg.seed * _STREAM + i) * _STREAM + j) % 2**63 for _, i in batch for j in range(n)]
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
    flat = scorer.score([text for row in texts for text in row]).numpy()
    return flat.reshape(len(texts), -1)
