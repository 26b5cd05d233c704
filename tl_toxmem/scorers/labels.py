"""Which output of a classifier is toxicity, and how it becomes a probability."""

from collections.abc import Sequence
from typing import Any

from tl_toxmem.errors import ToxmemError
from tl_toxmem.scorers.classifier import Output

_TOXIC = ("toxic", "toxicity", "is_toxic", "toxic_comment", "toxic_content")
"""Names that are found by themselves; hate, insult or offence are something else, and have to be asked for."""


def pick_label(labels: Sequence[str], wanted: str | None, *, where: str) -> int:
    """The column of a label: the one asked for, or the only one that says toxic.

    Without a name asked for, a classifier whose labels have no names counts as one of toxicity if it has one output, or
    two, of which the second (`LABEL_1`) is then the positive one.

    Args:
        labels: by column.
        wanted: a label's name, upper or lower case alike; None to find it.
        where: whose labels.

    Raises:
        ToxmemError: no such label, or several; it names them all.
    """
    plain = [_plain(label) for label in labels]
    if wanted is not None:
        exact = [i for i, label in enumerate(labels) if label == wanted]
        found = exact or [i for i, label in enumerate(plain) if label == _plain(wanted)]
        problem = f"has no label {wanted!r}" if not found else f"has several labels {wanted!r}"
    else:
        found = [i for i, label in enumerate(plain) if label in _TOXIC]
        problem = "has several labels that say toxic" if found else "has no label that says toxic"
        if plain in (["label_0"], ["label_0", "label_1"]):
            found = [len(plain) - 1]
    if len(found) != 1:
        raise ToxmemError(
            f"{where} {problem}: name one of its labels ({', '.join(labels)}) as hf:MODEL#LABEL"
        )
    return found[0]


def _plain(label: str) -> str:
    return "_".join(label.lower().replace("-", " ").replace("_", " ").split())


def output_of(config: Any, *, where: str) -> Output:
    """What makes probabilities of the outputs, by the configuration's `problem_type`.

    As transformers' own pipeline: sigmoid for several labels at once and for a single output, else softmax.

    Raises:
        ToxmemError: a regression, whose output is no probability.
    """
    kind = config.problem_type
    if kind == "regression":
        raise ToxmemError(
            f"{where} is a regression (problem_type), whose output is no probability: give a classifier"
        )
    if kind == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"
