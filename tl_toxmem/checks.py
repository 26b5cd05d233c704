"""Early checks of what a function was given, for people who call it from Python."""

import operator
from numbers import Real
from typing import Any

from tl_toxmem.errors import ToxmemError

MOST_SEED = 2**32 - 1
"""What numpy's older generators, and so scikit-learn and optuna, take."""


def whole(value: Any, name: str, *, least: int = 0, most: int | None = None, why: str = "") -> int:
    """A whole number, also one of numpy or torch.

    Args:
        value: what was given.
        name: what to call it.
        least: it may be.
        most: it may be; None for any.
        why: what the limit is, such as `the model has 512 neurons`.

    Raises:
        ToxmemError: no whole number, or beyond the limits.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        span = f"from {least} on" if most is None else f"from {least} to {most}"
        reason = f" ({why})" if why else ""
        raise ToxmemError(f"{name} is {value!r}: give a whole number {span}{reason}")
    return number


def prompt_set(prompts: Any) -> None:
    """Refuse what is no `PromptSet`, such as a list of prompts.

    Raises:
        ToxmemError: it is something else.
    """
    from tl_toxmem.prompts import PromptSet

    if not isinstance(prompts, PromptSet):
        raise ToxmemError(
            f"prompts are a {type(prompts).__name__}: give a PromptSet, such as PromptSet.of(prompts)"
        )


def seed_of(value: Any) -> int:
    """A seed that every generator takes.

    Raises:
        ToxmemError: no whole number from 0 to 2**32 - 1.
    """
    return whole(value, "seed", most=MOST_SEED)


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8; a JSON escape may give half of a pair of surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def list_of_texts(texts: Any) -> None:
    """Refuse what no judge can read.

    Raises:
        ToxmemError: one text in place of several, whose letters would be judged one by one; something else than text,
            or half of a pair of surrogates, which no tokenizer takes.
    """
    if isinstance(texts, str):
        raise ToxmemError("score takes a list of texts, not one text: give [text]")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise ToxmemError(f"text {number} to be judged is a {type(text).__name__}: give texts")
        if not is_text(text):
            raise ToxmemError(f"text {number} to be judged has half of a surrogate pair: remove it")


def several_numbers(values: Any, name: str) -> None:
    """Refuse one number in place of several.

    Raises:
        ToxmemError: no list or tuple, or something else than numbers in it.
    """
    if not isinstance(values, list | tuple) or any(
        isinstance(value, bool) or not isinstance(value, Real) for value in values
    ):
        raise ToxmemError(f"{name} are {values!r}: give a list of numbers, such as [0.01]")
