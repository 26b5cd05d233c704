"""Corruption: Gaussian noise on the subject's token embeddings, as in ROME (Meng et al. 2022).

The level is `sigma` standard deviations over all entries of the embeddings of the subjects' tokens. The
noise goes in at `hook_embed`, before positions are added; a BOS token is never corrupted. Draws are seeded
by the prompt, so every cell of a prompt sees the same noise and different prompts see independent noise.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_toxmem.model import HookFn, LensModel
from tl_toxmem.tokens import PromptTokens


def noise_level(model: LensModel, prompts: Sequence[PromptTokens], *, sigma: float) -> float:
    """`sigma` times the standard deviation of the subjects' embeddings."""
    ids = [token for item in prompts for token in item.tokens[slice(*item.subject)]]
    embeddings = model.embed(torch.tensor([ids], device=model.device))
    return sigma * float(embeddings.float().std(correction=0))


def gaussian_noise(
    item: PromptTokens, *, level: float, n_noise: int, d_model: int, seed: int
) -> Float[Tensor, "noise pos d_model"]:
    """Noise for one prompt, zero outside its subject; float32 on the CPU, the same on every device."""
    key = hashlib.sha256(f"{seed}\x1f{item.prompt.prompt}".encode()).digest()
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
