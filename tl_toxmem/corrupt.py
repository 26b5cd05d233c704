"""Corruption: what is done to a prompt's token embeddings so that its target goes away.

- noise: Gaussian noise on the subject's tokens, as in ROME (Meng et al. 2022). The level is `sigma` standard deviations
  over all entries of the embeddings of the subjects' tokens, or fixed. Draws are seeded by the prompt, so every cell
  of a prompt sees the same noise and different prompts see independent noise; ROME's own stream is the same for all.
- replace: the tokens of a counterfactual prompt of the same length (symmetric token replacement, Zhang and Nanda 2024),
  which stays within what the model knows.
- mean: the subject's tokens get the mean of all rows of the embedding matrix.

It goes in at `hook_embed`, before positions are added; a beginning-of-text token is never corrupted.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.config import TraceConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import HookFn, LensModel
from tl_toxmem.tokens import PromptTokens

_ROME_SEED = 1


def corrupted_embeddings(
    model: LensModel, item: PromptTokens, *, cfg: TraceConfig, level: float, full: bool = False
) -> Float[Tensor, "draw pos d_model"]:
    """A prompt's corrupted embeddings, of all tokens, the spared ones included.

    Args:
        model: whose embeddings.
        item: the prompt.
        cfg: the kind of corruption, the draws and their seed.
        level: of the noise; see `noise_level`.
        full: with all of the target but its last token after the prompt.

    Raises:
        ToxmemError: no counterfactual, or one of another length or without a difference.
    """
    tokens = item.full if full else item.tokens
    clean = model.embed(torch.tensor([tokens], device=model.device))
    if cfg.corruption == "noise":
        noise = draw_noise(item, level=level, d_model=model.d_model, cfg=cfg).to(clean)
        noisy = clean.repeat(cfg.n_noise, 1, 1)
        noisy[:, : noise.shape[1]] += noise
        return noisy
    changed = clean.clone()
    if cfg.corruption == "mean":
        changed[:, slice(*item.subject)] = model.mean_embedding()
        return changed
    other = counterfactual_tokens(model, item)
    changed[:, : len(other)] = model.embed(torch.tensor([other], device=model.device))
    return changed


def corrupted_span(model: LensModel, item: PromptTokens, *, cfg: TraceConfig) -> tuple[int, int]:
    """From the first to after the last token that is changed."""
    if cfg.corruption != "replace":
        return item.subject
    other = counterfactual_tokens(model, item)
    differing = [i for i, (a, b) in enumerate(zip(item.tokens, other, strict=True)) if a != b]
    return differing[0], differing[-1] + 1


def n_draws(cfg: TraceConfig) -> int:
    """Corrupted runs per prompt: noise has several, the other kinds one."""
    return cfg.n_noise if cfg.corruption == "noise" else 1


def counterfactual_tokens(model: LensModel, item: PromptTokens) -> list[int]:
    """The tokens of the counterfactual prompt, with the lead-in.

    Raises:
        ToxmemError: there is none, it is of another length, or it is the prompt itself.
    """
    where, text = f"prompt {item.prompt.id!r}", item.prompt.counterfactual
    if text is None:
        raise ToxmemError(
            f"{where} has no counterfactual, which trace.corruption = 'replace' needs: give one of as many tokens, or "
            "choose 'noise' or 'mean'"
        )
    tokens = model.encode(text + (item.prompt.lead_in or ""))
    if len(tokens) != len(item.tokens):
        words = [str(model.tokenizer.decode([token])) for token in tokens]
        raise ToxmemError(
            f"{where} has {len(item.tokens)} tokens {list(item.words)}, its counterfactual {len(tokens)} {words}: "
            "give one of as many tokens"
        )
    if tuple(tokens) == item.tokens:
        raise ToxmemError(f"{where}: the counterfactual is the prompt itself")
    return tokens


def noise_level(model: LensModel, prompts: Sequence[PromptTokens], *, sigma: float) -> float:
    """`sigma` times the standard deviation of the subjects' embeddings, over all entries."""
    ids = [token for item in prompts for token in item.tokens[slice(*item.subject)]]
    embeddings = model.embed(torch.tensor([ids], device=model.device))
    return sigma * float(embeddings.float().std(correction=0))


def level_of(model: LensModel, prompts: Sequence[PromptTokens], *, cfg: TraceConfig) -> float:
    """The standard deviation of the noise that a configuration asks for; 0 for the other corruptions."""
    if cfg.corruption != "noise":
        return 0.0
    return cfg.noise_level or noise_level(model, prompts, sigma=cfg.noise_sigma)


def draw_noise(
    item: PromptTokens, *, level: float, d_model: int, cfg: TraceConfig
) -> Float[Tensor, "draw pos d_model"]:
    """The noise of one prompt from the configured stream, zero outside its subject."""
    if cfg.noise_stream == "prompt":
        return gaussian_noise(
            item, level=level, n_noise=cfg.n_noise, d_model=d_model, seed=cfg.seed
        )
    start, end = item.subject
    noise = torch.zeros(cfg.n_noise, len(item.tokens), d_model)
    stream = np.random.RandomState(_ROME_SEED)  # noqa: NPY002 - ROME's
    draws = level * torch.from_numpy(stream.randn(cfg.n_noise, end - start, d_model))
    noise[:, start:end] = draws.float()
    return noise


def gaussian_noise(
    item: PromptTokens, *, level: float, n_noise: int, d_model: int, seed: int
) -> Float[Tensor, "noise pos d_model"]:
    """Noise for one prompt, zero outside its subject; float32 on the CPU, the same on every device."""
    key = hashlib.sha256(f"{seed}\x1f{item.prompt.start}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
    start, end = item.subject
    noise = torch.zeros(n_noise, len(item.tokens), d_model)
    noise[:, start:end] = level * torch.randn(n_noise, end - start, d_model, generator=generator)
    return noise


def add_noise(noise: Float[Tensor, "noise pos d_model"]) -> HookFn:
    """A hook for the site `embed` that adds the noise to a batch of as many rows (shorter on the left)."""

    def hook(embedding: Tensor) -> Tensor:
        padded = torch.zeros_like(embedding)
        padded[:, embedding.shape[1] - noise.shape[1] :] = noise.to(embedding)
        return embedding + padded

    return hook
