"""Near-duplicates: found by the Jaccard index of their shingles, and kept together in one split.

A text's shingles are all runs of five characters of its words (letters and digits in lower case, one space between
words). Two texts are near-duplicates if the shingles that they share are at least `near` of those that either has;
clusters are what such pairs connect. All pairs are found exactly: of two texts that are so alike, at least one of the
rarest few shingles of either is shared, so that only those are indexed (prefix filtering, Bayardo et al. 2007).
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from tl_toxmem.mining.screening import normalised, text_hash

_LENGTH = 5
_WORDS = re.compile(r"\w+")
Split = Literal["find", "report"]


def shingles(text: str) -> frozenset[str]:
    """All runs of five characters of a text's words; all of it, if it is shorter."""
    words = " ".join(_WORDS.findall(normalised(text))) or normalised(text)
    return frozenset(words[i : i + _LENGTH] for i in range(max(1, len(words) - _LENGTH + 1)))


def near_duplicates(texts: Sequence[str], *, near: float) -> list[tuple[int, int]]:
    """All pairs whose Jaccard index is at least `near`, the smaller index first."""
    sets = [shingles(text) for text in texts]
    often = Counter(shingle for own in sets for shingle in own)
    rarest_first = [sorted(own, key=lambda s: (often[s], s)) for own in sets]
    index: defaultdict[str, list[int]] = defaultdict(list)
    pairs = []
    for i, own in enumerate(sets):
        n_rare = len(own) - math.ceil(near * len(own)) + 1
        rare = rarest_first[i][:n_rare]
        for j in sorted({j for shingle in rare for j in index[shingle]}):
            if min(len(own), len(sets[j])) < near * max(len(own), len(sets[j])):
                continue
            shared = len(own & sets[j])
            if shared >= near * (len(own) + len(sets[j]) - shared):
                pairs.append((j, i))
        for shingle in rare:
            index[shingle].append(i)
    return pairs


def clusters(texts: Sequence[str], *, near: float) -> list[int]:
    """Per text the number of its cluster: the lowest index of what near-duplicates connect it with."""
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in near_duplicates(texts, near=near):
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    return [root(i) for i in range(len(texts))]


def split_together(
    texts: Sequence[str], *, near: float, report_share: float, seed: int
) -> list[Split]:
    """Per text its split: by the lowest hash in its cluster, so that no order matters."""
    of = clusters(texts, near=near)
    lowest: dict[int, str] = {}
    for text, cluster in zip(texts, of, strict=True):
        own = text_hash(normalised(text))
        lowest[cluster] = min(lowest.get(cluster, own), own)

    def drawn(key: str) -> Split:
        salted = hashlib.sha256(f"{seed}\x1f{key}".encode()).hexdigest()
        return "report" if int(salted[:8], 16) / 16**8 < report_share else "find"

    return [drawn(lowest[cluster]) for cluster in of]
