"""Strengths that count something."""

from collections.abc import Sequence

from tl_toxmem.errors import ToxmemError


def whole_numbers(method: str, strengths: Sequence[float]) -> list[int]:
    """The strengths as whole numbers above 0.

    Raises:
        ToxmemError: there are none, or one is something else.
    """
    wrong = [x for x in strengths if x < 1 or x != int(x)]
    if wrong or not strengths:
        got = f"not {wrong[0]:g}" if wrong else "and there are none"
        raise ToxmemError(f"{method}: strengths are whole numbers above 0, {got}")
    return [int(x) for x in strengths]
