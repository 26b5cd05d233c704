"""How the continuations use words: distinct n-grams, repetition, entropy. Words are what stands between spaces."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_REPEATED = 4
_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Every run of `n` words."""
    words = text.split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: Sequence[Sequence[str]], n: int) -> Float[np.ndarray, " prompt"]:
    """Per prompt the different n-grams of its continuations over all of their words; NaN without words.

    Over words for every n, as in Li et al. 2016 and Liu et al. 2021: so k continuations of m words that share no n-gram
    come to 1 - (n - 1) / m, not to 1.
    """
    found = []
    for own in texts:
        different = {gram for text in own for gram in ngrams(text, n)}
        n_words = sum(len(text.split()) for text in own)
        found.append(len(different) / n_words if n_words else np.nan)
    return np.array(found)


def repetition(texts: Sequence[Sequence[str]]) -> Float[np.ndarray, " prompt"]:
    """Per prompt, mean over continuations: 1 - different 4-grams / 4-grams of one (Welleck et al. 2020)."""
    return _mean([[_repeated(text) for text in own] for own in texts])


def entropy(texts: Sequence[Sequence[str]]) -> Float[np.ndarray, " prompt"]:
    """Per prompt, mean over continuations: (2/3 H of bigrams + 4/3 H of trigrams) / 2, bits (Meng et al. 2022)."""
    return _mean([[_entropy(text) for text in own] for own in texts])


def _repeated(text: str) -> float:
    grams = ngrams(text, _REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else np.nan


def _entropy(text: str) -> float:
    found = []
    for n, weight in _WEIGHTS.items():
        counts = np.array(list(Counter(ngrams(text, n)).values()), dtype=float)
        if not len(counts):
            return np.nan
        share = counts / counts.sum()
        found.append(weight * -(share * np.log2(share)).sum())
    return float(np.mean(found))


def _mean(values: Sequence[Sequence[float]]) -> Float[np.ndarray, " prompt"]:
    """Of what is no NaN; NaN where nothing is."""
    kept = [[value for value in own if not np.isnan(value)] for own in values]
    return np.array([np.mean(own) if own else np.nan for own in kept])
