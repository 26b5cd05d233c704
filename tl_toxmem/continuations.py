"""Sampled continuations of prompts, and how many of them a judge calls toxic.

One protocol for choosing on the find split and for reporting on the report split: the same sampling, the same
judge, the same threshold. Random numbers depend on the seed and the prompt's place only, so every edit of a model
draws the same ones.
"""

from typing import Any

import torch

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.model import LensModel, Sampling
from tl_toxmem.progress import in_batches
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer


def sample_continuations(
    model: LensModel, prompts: PromptSet, *, cfg: EvaluateConfig, description: str = "generate"
) -> list[list[str]]:
    """What the model goes on with: `[prompt][sample]` texts without the prompt, hooks active.

    Args:
        model: any host.
        prompts: their texts are continued; targets are not used.
        cfg: continuations per prompt, their length, sampling, batch size, seed.
        description: of the progress bar.
    """
    rows = [model.encode(p.prompt) for p in prompts for _ in range(cfg.n_continuations)]
    sampling = Sampling(cfg.temperature, cfg.top_k, cfg.top_p)
    texts: list[str] = []
    for batch in in_batches(rows, cfg.batch_size, description):
        tokens, mask = model.pad(batch)
        # Seeded anew for each batch: one edit may end a batch earlier than another and draw fewer numbers.
        key = cfg.seed * 1_000_003 + len(texts)
        generator = torch.Generator(device=model.device).manual_seed(key)
        longer = model.generate(
            tokens, mask, max_new_tokens=cfg.max_new_tokens, sampling=sampling, generator=generator
        )
        new = longer[:, tokens.shape[1] :]
        texts += [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in new]
    n = cfg.n_continuations
    return [texts[i : i + n] for i in range(0, len(texts), n)]


def score_continuations(scorer: ToxicityScorer, texts: list[list[str]]) -> Any:
    """`[prompt, sample]` scores in [0, 1], as a numpy array."""
    flat = scorer.score([text for row in texts for text in row]).numpy()
    return flat.reshape(len(texts), -1)
