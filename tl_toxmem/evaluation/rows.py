"""What is put before a model: rows of tokens of which the last few are predicted, and which cluster each is of.

Prompts, windows of neutral text, last words and continuations are all of this form.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.continuations import Continuations
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.tokens import continuation


@dataclass(frozen=True)
class Row:
    """Tokens of which the last `n` are predicted, at least one and never the first; `of` is a prompt or document."""

    tokens: list[int]
    n: int
    of: int


def prompt_rows(prompts: Sequence[Sequence[int]]) -> list[Row]:
    """Every token of a prompt but its first.

    Raises:
        ToxmemError: no prompt has two tokens.
    """
    rows = [Row(list(row), len(row) - 1, i) for i, row in enumerate(prompts) if len(row) > 1]
    if not rows:
        raise ToxmemError("no prompt has two tokens, so none has a perplexity: give longer prompts")
    return rows


def continuation_rows(made: Continuations) -> list[Row]:
    """Every continuation after its prompt; those that ended at once are no rows."""
    return [
        Row(prompt + new, len(new), i)
        for i, (prompt, own) in enumerate(zip(made.prompts, made.tokens, strict=True))
        for new in own
        if new
    ]


def documents(model: LensModel, texts: Sequence[str], *, cfg: EvaluateConfig) -> list[str]:
    """The neutral documents that are measured on, detokenised: of two tokens at least, until there are enough tokens.

    Raises:
        ToxmemError: none is left, or all are shorter together than one window; see also `window_of`.
    """
    window_of(model, cfg)
    found: list[str] = []
    total = 0
    for text in map(DETOKENISERS[cfg.detokenise], texts):
        n = len(model.encode(text))
        if n < 2:
            continue
        if found and total + n > cfg.max_neutral_tokens:
            break
        found.append(text)
        total += n
    if not found:
        raise ToxmemError("the neutral text has no document of two tokens: give more text")
    if total < cfg.window:
        raise ToxmemError(
            f"the neutral text has {total} tokens, fewer than one window: give more text, or set evaluate.window "
            f"below {cfg.window} (and evaluate.max_neutral_tokens above it)"
        )
    return found


def window_rows(model: LensModel, texts: Sequence[str], *, cfg: EvaluateConfig) -> list[Row]:
    """Documents in windows, each token predicted once, from as many tokens before it as its first window has.

    Windows begin every `stride` tokens, and of each only what no window before has predicted counts; without overlap
    the first token of a window is not predicted, as in transformers' loss.

    Args:
        model: any host.
        texts: see `documents`.
        cfg: window, stride, most tokens.
    """
    window, stride = window_of(model, cfg)
    rows: list[Row] = []
    for i, text in enumerate(texts):
        tokens = model.encode(text)[: max(2, cfg.max_neutral_tokens)]
        start, known = 0, 1
        while known < len(tokens):
            end = min(start + window, len(tokens))
            n = end - max(known, start + 1)
            if n:
                rows.append(Row(tokens[start:end], n, i))
            start, known = start + stride, end
    return rows


def window_of(model: LensModel, cfg: EvaluateConfig) -> tuple[int, int]:
    """Window and stride in tokens.

    Raises:
        ToxmemError: a window that is longer than the context, or a stride longer than the window.
    """
    window = cfg.window or model.n_ctx
    named = {"half": max(1, window // 2), "window": window}
    stride = named[cfg.stride] if isinstance(cfg.stride, str) else cfg.stride
    if not 2 <= window <= model.n_ctx:
        raise ToxmemError(
            f"evaluate.window = {window} must be from 2 to the model's context of {model.n_ctx}"
        )
    if stride > window:
        raise ToxmemError(f"evaluate.stride = {stride} must be at most the window of {window}")
    return window, stride


def last_word_rows(model: LensModel, texts: Sequence[str]) -> list[Row]:
    """The last word of each document, after all that is before it; documents of one word are no rows."""
    rows = []
    for i, text in enumerate(texts):
        word = re.search(r"\w+(?:['’-]\w+)*(?=\W*$)", text)
        before = text[: word.start()].rstrip() if word else ""
        if word is None or not before:
            continue
        target = continuation(model, before, text[len(before) : word.end()])
        tokens = [*model.encode(before), *target][-model.n_ctx :]
        if 0 < len(target) < len(tokens):
            rows.append(Row(tokens, len(target), i))
    return rows


def _wikitext(text: str) -> str:
    """WikiText's tokenisation undone, so far as it can be: punctuation closes up, ` @-@ ` is a hyphen."""
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r"^ *(= )+(.*?)( =)+ *$", r"\2", text, flags=re.MULTILINE)  # headings
    text = re.sub(r" ([.,:;!?%)\]}])", r"\1", text)
    text = re.sub(r"([(\[{$£€]) ", r"\1", text)
    text = re.sub(r'" ([^"]*?) "', r'"\1"', text)
    text = re.sub(r" ('s|'re|'ve|'ll|'d|'m|n't|')(?=[\s.,:;!?)]|$)", r"\1", text)
    text = text.replace("<unk>", "unk")
    return re.sub(r" {2,}", " ", text).strip()


DETOKENISERS: dict[str, Callable[[str], str]] = {"none": lambda text: text, "wikitext": _wikitext}
"""By the name that the protocol states."""
