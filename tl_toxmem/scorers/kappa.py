"""Do two judges say the same? Cohen's kappa of their verdicts, and the texts they differ most on.

With the share of texts `p_o` that both judge alike, and the share `p_e` that two judges of the same two toxic rates
would by chance:

    kappa = (p_o - p_e) / (1 - p_e)

1 is always, 0 is by chance. A judge that gives one verdict to all texts agrees by chance only: kappa is then 0. Two
judges that both give all texts the same one verdict have no kappa (0 / 0), whatever that says of them. Intervals are
95 % bootstrap intervals over prompts (Cohen 1960; resampling as in `stats.py`).
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from tl_toxmem.errors import ToxmemError
from tl_toxmem.scorers.agreement import Agreement, Disagreement
from tl_toxmem.scorers.protocol import ToxicityScorer, judged
from tl_toxmem.stats import Estimate, interval, resampled


def judge_agreement(
    scores_a: Any,
    scores_b: Any,
    *,
    threshold: float,
    names: tuple[str, str],
    seed: int,
    texts: Sequence[Any] | None = None,
    n_examples: int = 5,
) -> Agreement:
    """How far the scores of two judges agree.

    Args:
        scores_a: [prompt, sample], or [text] where each text stands for itself.
        scores_b: the other judge's, of the same texts.
        threshold: scores from here on are toxic.
        names: of the judges.
        seed: of the intervals.
        texts: the texts, nested as the scores are; None gives no examples.
        n_examples: at most so many disagreeing texts are kept.

    Raises:
        ToxmemError: no scores, of unlike shape, or outside 0 to 1; texts of another shape.
    """
    a, b = _clusters(scores_a, names[0]), _clusters(scores_b, names[1])
    if a.shape != b.shape:
        raise ToxmemError(
            f"the scores of {names[0]} and {names[1]} have shapes {np.shape(scores_a)} and {np.shape(scores_b)}: give "
            "scores of the same texts"
        )
    toxic_a, toxic_b = a >= threshold, b >= threshold
    cells = (toxic_a & toxic_b, toxic_a & ~toxic_b, ~toxic_a & toxic_b, ~toxic_a & ~toxic_b)
    table = np.stack([cell.sum(1) for cell in cells], axis=1)
    drawn = resampled(len(table), np.random.default_rng(seed)) @ table
    resamples = measures(drawn)
    kappa, *others = (
        _estimate(value, resamples[:, column], len(table))
        for column, value in enumerate(measures(table.sum(0)))
    )
    return Agreement(
        names=names,
        threshold=threshold,
        n_texts=int(a.size),
        kappa=None if np.isnan(kappa.value) else kappa,
        agreement=others[0],
        rates=(others[1], others[2]),
        undefined=float(np.isnan(resamples[:, 0]).mean()),
        examples=_examples(a, b, toxic_a != toxic_b, texts, n_examples),
        seed=seed,
    )


def scorer_agreement(
    scorers: Sequence[ToxicityScorer],
    texts: Sequence[Any],
    *,
    threshold: float = 0.5,
    seed: int = 0,
    n_examples: int = 5,
) -> list[Agreement]:
    """Every two of several judges on the same texts.

    Args:
        scorers: at least two, of different names.
        texts: texts, or for each prompt a list of as many texts.
        threshold: scores from here on are toxic.
        seed: of the intervals.
        n_examples: at most so many disagreeing texts of each two are kept.

    Raises:
        ToxmemError: fewer than two judges, two of one name, no texts.
    """
    names = [scorer.name for scorer in scorers]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ToxmemError(
            f"agreement is between two judges or more, of different names: got {', '.join(names) or 'none'}"
        )
    array = _as_array(texts)
    flat = [str(text) for text in array.ravel()]
    scores = {s.name: judged(s, flat).numpy().reshape(array.shape) for s in scorers}
    return [
        judge_agreement(
            scores[one],
            scores[other],
            threshold=threshold,
            names=(one, other),
            seed=seed,
            texts=texts,
            n_examples=n_examples,
        )
        for one, other in combinations(names, 2)
    ]


def measures(table: Any) -> Any:
    """Kappa (NaN where it is undefined), agreement and both toxic rates.

    Args:
        table: [..., 4] how many texts both call toxic, only the first, only the second, neither.

    Returns:
        [..., 4].
    """
    both, only_a, only_b, neither = np.moveaxis(np.asarray(table, dtype=float), -1, 0)
    n = both + only_a + only_b + neither
    same, rate_a, rate_b = (both + neither) / n, (both + only_a) / n, (both + only_b) / n
    # The same as above in counts, and so exactly 0 where a judge has one verdict.
    below = (both + only_a) * (only_a + neither) + (both + only_b) * (only_b + neither)
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = np.where(below > 0, 2 * (both * neither - only_a * only_b) / below, np.nan)
    return np.stack([kappa, same, rate_a, rate_b], axis=-1)


def _estimate(value: Any, resamples: Any, n: int) -> Estimate:
    there = resamples[~np.isnan(resamples)]
    if n < 2 or not len(there):
        return Estimate(float(value), None, None, n)
    return Estimate(float(value), *interval(there), n)


def _clusters(scores: Any, name: str) -> Any:
    """Scores as [prompt, sample]."""
    array = _as_array(scores).astype(float)
    if not ((array >= 0) & (array <= 1)).all():
        raise ToxmemError(f"the scores of {name} are not all between 0 and 1")
    return array.reshape(len(array), -1)


def _as_array(values: Any) -> Any:
    """Numbers or texts, one for each text or nested by prompt."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of unlike length
        array = np.zeros(0)
    if not array.size or array.ndim > 2:
        raise ToxmemError(
            "no agreement: give at least one text, or for each prompt a list of as many texts"
        )
    return array


def _examples(
    a: Any, b: Any, differ: Any, texts: Sequence[Any] | None, n: int
) -> tuple[Disagreement, ...]:
    """The distinct texts with different verdicts whose scores are furthest apart."""
    if texts is None:
        return ()
    array = _as_array(texts)
    if array.reshape(len(array), -1).shape != a.shape:
        raise ToxmemError(f"{array.size} texts with {a.size} scores: nest texts as the scores are")
    flat, gaps = array.ravel(), np.where(differ, np.abs(a - b), -1.0).ravel()
    found: dict[str, Disagreement] = {}
    for i in np.argsort(-gaps, kind="stable"):
        if len(found) == n or gaps[i] < 0:
            break
        text = str(flat[i])
        found.setdefault(text, Disagreement(text, float(a.flat[i]), float(b.flat[i])))
    return tuple(found.values())
