"""Prompts in a model's tokens: where the subject lies, and what the target is.

The target is what the model would have to generate after the prompt's own tokens. Where prompt and target
tokenise together into the prompt's tokens plus more, these are the target; where the boundary would merge
(a target that begins inside a word), the target is tokenised alone, as generation would meet it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_toxmem.careful import Carefully
from tl_toxmem.engine import spread
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.progress import batched
from tl_toxmem.prompts import Prompt, PromptSet

TARGETS = 32
"""Prompts in a batch."""


@dataclass(frozen=True)
class PromptTokens:
    """One prompt in tokens.

    Attributes:
        prompt: the text.
        asked: tokens of the prompt alone, where generation begins.
        tokens: of all that stands before the target, prompt and lead-in.
        words: these tokens as text.
        target: what comes then.
        subject: what a trace corrupts, a half-open span of `tokens`.
    """

    prompt: Prompt
    asked: tuple[int, ...]
    tokens: tuple[int, ...]
    words: tuple[str, ...]
    target: tuple[int, ...]
    subject: tuple[int, int]

    def called(self) -> str:
        """What to call it in an error."""
        return f"prompt {self.prompt.id!r}"

    @property
    def full(self) -> tuple[int, ...]:
        """All before the target, and the target without its last token: the input that predicts all of it."""
        return self.tokens + self.target[:-1]


def align(model: LensModel, prompts: PromptSet) -> list[PromptTokens]:
    """Tokenise each prompt.

    Raises:
        ToxmemError: a prompt that with its target is longer than the context, a target without a token,
            a subject whose edge lies inside a token; always naming the prompt's id.
    """
    return [_align_one(model, prompt) for prompt in prompts]


def _align_one(model: LensModel, prompt: Prompt) -> PromptTokens:
    start = prompt.prompt if len(prompt.prompt) <= 40 else prompt.prompt[:40] + "..."
    where = f"prompt {prompt.id!r} ({start!r})"
    asked = tuple(model.encode(prompt.prompt))
    tokens = model.encode(prompt.start) if prompt.lead_in else list(asked)
    target = continuation(model, prompt.start, prompt.target)
    if not tokens or not target:
        raise ToxmemError(f"{where}: the {'target' if tokens else 'prompt'} has no tokens")
    if len(tokens) + len(target) > model.n_ctx:
        raise ToxmemError(
            f"{where}: prompt and target have {len(tokens)} + {len(target)} tokens, "
            f"the model's context is {model.n_ctx}"
        )
    if model.tokenizer.unk_token_id in target:
        raise ToxmemError(
            f"{where}: the target {prompt.target!r} has a word that the model's tokenizer does not know"
        )
    words = tuple(str(model.tokenizer.decode([token])) for token in tokens)
    subject = _subject_span(model, prompt)
    return PromptTokens(prompt, asked, tuple(tokens), words, tuple(target), subject)


def continuation(model: LensModel, prompt: str, text: str) -> list[int]:
    """The tokens of a text that follows a prompt, as the model would have to generate them."""
    tokens, joint = model.encode(prompt), model.encode(prompt + text)
    if joint[: len(tokens)] == tokens:
        return joint[len(tokens) :]
    alone: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return alone


def _subject_span(model: LensModel, prompt: Prompt) -> tuple[int, int]:
    start, end = prompt.subject_span
    text = prompt.start
    encoded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    straddling = [
        text[a:b]
        for a, b in (offsets[i] for i in inside)
        if text[a : max(a, start)].strip() or text[min(b, end) : b].strip()
    ]
    if not inside:
        raise ToxmemError(f"prompt {prompt.id!r}: the subject {prompt.subject!r} has no tokens")
    if straddling:
        raise ToxmemError(
            f"prompt {prompt.id!r}: the subject {prompt.subject!r} does not begin and end at tokens "
            f"(straddled by {straddling}): choose a subject of whole tokens"
        )
    if prompt.subject is None and encoded["input_ids"][inside[0]] == model.tokenizer.bos_token_id:
        inside = (
            inside[1:] or inside
        )  # typed into the prompt: it is no part of what the prompt is about
    shift = int(model.prepend_bos)
    return inside[0] + shift, inside[-1] + 1 + shift


def target_batch(
    model: LensModel, batch: list[PromptTokens]
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"], int]:
    """Left-padded prompts with their targets, the mask, and how many last positions predict targets."""
    tokens, mask = model.pad([item.full for item in batch])
    return tokens, mask, max(len(item.target) for item in batch)


def target_log_prob(
    logits: Float[Tensor, "batch kept d_vocab"], batch: list[PromptTokens]
) -> Float[Tensor, " batch"]:
    """Log-probability of each whole target, in nats, in float32 or the logits' own, higher precision.

    Args:
        logits: of the last `kept` positions of `target_batch`'s tokens.
        batch: the prompts of the rows.
    """
    kept = logits.shape[1]
    wanted = torch.zeros(len(batch), kept, dtype=torch.long)
    exact = logits if logits.dtype == torch.float64 else logits.float()
    real = torch.zeros(len(batch), kept, dtype=exact.dtype)
    for row, item in enumerate(batch):
        n = len(item.target)
        wanted[row, kept - n :] = torch.tensor(item.target)
        real[row, kept - n :] = 1
    log_probs = exact.log_softmax(-1).gather(-1, wanted.to(logits.device)[..., None])[..., 0]
    return (log_probs * real.to(logits.device)).sum(-1)


def target_log_probs(model: LensModel, prompts: PromptSet) -> Float[Tensor, " prompt"]:
    """`target_log_prob` of every prompt, on the CPU; hooks that are attached act."""
    batches = batched(align(model, prompts), TARGETS)
    careful = Carefully(_log_probs, what="log-probabilities", name=called)
    found = spread(model, careful, batches, "targets")
    return torch.cat([torch.empty(0), *itertools.chain.from_iterable(found)])


def called(_: LensModel, item: PromptTokens) -> str:
    """What to call a prompt in an error."""
    return item.called()


def _log_probs(model: LensModel, batch: Sequence[PromptTokens]) -> Float[Tensor, " prompt"]:
    items = list(batch)
    tokens, mask, keep = target_batch(model, items)
    return target_log_prob(model.forward(tokens, mask, keep=keep), items).cpu()
