"""Texts besides the prompts: neutral ones, labelled ones, benign prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tl_toxmem.checks import is_text
from tl_toxmem.config import FORMAT_VERSION
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import check_version, read_lines
from tl_toxmem.prompts import PromptSet
from tl_toxmem.reading import parse_json

LEAST_LABELLED = 10
"""Texts of each class: with fewer, a probe or an AUROC says nothing."""


@dataclass(frozen=True)
class Labelled:
    """A text, and whether it is toxic."""

    text: str
    toxic: bool


@dataclass(frozen=True)
class Texts:
    """What some methods need besides the prompts.

    Attributes:
        neutral: documents that costs are estimated on; not those that perplexity is reported on.
        labelled: toxic and other texts, for `experts` and `probe`.
        benign: prompts matched with the find prompts, for `contrast` and the decoy control.
    """

    neutral: Sequence[str] | None = None
    labelled: Sequence[Labelled] | None = None
    benign: PromptSet | None = None


def labelled_of(texts: Texts | None, *, method: str) -> Sequence[Labelled]:
    """The labelled texts.

    Raises:
        ToxmemError: there are none, or too few of one class.
    """
    if texts is None or not texts.labelled:
        raise ToxmemError(
            f"{method!r} needs labelled text: give labelled= to Texts or Material, or --labelled FILE"
        )
    n_toxic = sum(one.toxic for one in texts.labelled)
    n_other = len(texts.labelled) - n_toxic
    if min(n_toxic, n_other) < LEAST_LABELLED:
        raise ToxmemError(
            f"{method!r} needs at least {LEAST_LABELLED} toxic and {LEAST_LABELLED} other texts: the "
            f"labelled text has {n_toxic} toxic and {n_other} other"
        )
    return texts.labelled


def read_labelled(path: str | Path) -> list[Labelled]:
    """Labelled texts: JSONL of `{"text": ..., "toxic": true | false}`.

    Raises:
        ToxmemError: file missing, no UTF-8, without texts, or a line that is no such object (naming the line).
    """
    path = Path(path)
    found = []
    for number, line in enumerate(read_lines(path, "labelled text"), start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line, broken=True)
        except ValueError as error:
            raise ToxmemError(f"{path}, line {number}: no JSON ({error})") from None
        if isinstance(values, dict):
            check_version(f"{path}, line {number}", values.get("format_version", FORMAT_VERSION))
        fits = isinstance(values, dict) and isinstance(values.get("text"), str)
        if not fits or not values["text"].strip() or not isinstance(values.get("toxic"), bool):
            raise ToxmemError(
                f'{path}, line {number}: give {{"text": "...", "toxic": true or false}}'
            )
        if not is_text(values["text"]):
            raise ToxmemError(
                f"{path}, line {number}: the text has half of a surrogate pair (an escape such as \\ud83d alone): "
                "remove it"
            )
        found.append(Labelled(values["text"], values["toxic"]))
    if not found:
        raise ToxmemError(
            f'{path} has no texts: give {{"text": "...", "toxic": true or false}}, one a line'
        )
    return found
