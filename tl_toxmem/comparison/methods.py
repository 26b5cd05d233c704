"""Which methods can be compared on a model and its material, and why others cannot."""

from collections.abc import Callable, Mapping

from tl_toxmem.attribute.texts import LEAST_LABELLED
from tl_toxmem.comparators import COMPARATORS, Comparator
from tl_toxmem.comparison.learned import LEARNED
from tl_toxmem.config import CompareConfig
from tl_toxmem.delta import stored_tensors
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel

METHODS: dict[str, Comparator] = {**COMPARATORS, **LEARNED}
"""By name."""
_TAKES: dict[str, tuple[Callable[[float], bool], str]] = {
    "count": (lambda x: x >= 1 and x == int(x), "a whole number from 1 on"),
    "share": (lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "positive": (lambda x: x > 0, "a number above 0"),
}
OUTPUT_BIAS = "output_bias"
_PARTS = {
    "alternatives": "a benign continuation of every find prompt: give each a neutral_target, or --benign FILE",
    "labelled": f"labelled text: give --labelled FILE, or --benign FILE with {LEAST_LABELLED} find prompts",
    "traced_layer": "a trace of MLP outputs where it edits: have mlp_out among trace.sites, and trace.positions 'all'",
    OUTPUT_BIAS: "an output bias in the MLP, which this model has not",
}


def what_is_there(model: LensModel, material: Mapping[str, bool]) -> dict[str, bool]:
    """What methods may need, by name, and whether it is there.

    Args:
        model: has an output bias in its MLPs, or not.
        material: the optional parts of `Material`.
    """
    bias = stored_tensors(model)(model.arch.b_out.format(layer=0)) is not None
    return {**material, OUTPUT_BIAS: bias}


def check_names(cfg: CompareConfig) -> None:
    """What can be known of a comparison's methods without a model.

    Raises:
        ToxmemError: an unknown method, or strengths that one does not take.
    """
    for name in (*cfg.methods, *cfg.strengths):
        if name not in METHODS:
            raise ToxmemError(f"unknown method {name!r}: choose from {', '.join(METHODS)}")
    for name, values in cfg.strengths.items():
        fits, words = _TAKES[METHODS[name].takes]
        for value in values:
            if not fits(value):
                raise ToxmemError(
                    f"compare.strengths.{name} has {value:g}: a strength of it ({METHODS[name].strength}) is {words}"
                )


def check_methods(
    cfg: CompareConfig, there: Mapping[str, bool]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The methods that are to be compared, and why others are not.

    A method whose law this kind of model cannot hold is left out, unless it was asked for by name; one that lacks data
    is an error, since data can be given.

    Args:
        cfg: which.
        there: see `what_is_there`.

    Raises:
        ToxmemError: an unknown method, strengths that it does not take or of a method that is not compared, or a part
            that one needs.
    """
    check_names(cfg)
    chosen = cfg.methods or tuple(METHODS)
    left_out = {}
    for name in chosen:
        lacking = [part for part in METHODS[name].needs if not there.get(part, True)]
        if lacking == [OUTPUT_BIAS] and not cfg.methods:
            left_out[name] = f"{METHODS[name].label} needs {_PARTS[OUTPUT_BIAS]}"
        elif lacking:
            raise ToxmemError(
                f"compare: {name!r} needs {_PARTS[lacking[0]]}, or name other methods in compare.methods"
            )
    compared = tuple(name for name in chosen if name not in left_out)
    for name in cfg.strengths:
        if name not in compared:
            raise ToxmemError(
                f"compare.strengths names {name!r}, which is not compared: choose from {', '.join(compared)}"
            )
    return compared, left_out


def parts_needed(cfg: CompareConfig) -> set[str]:
    """The parts of the material that the methods of a comparison need."""
    known = [METHODS[name] for name in cfg.methods or METHODS if name in METHODS]
    return {part for method in known for part in method.needs}
