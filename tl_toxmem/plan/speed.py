"""How long passes take here: some of their shapes are timed on the model itself, the others lie between them.

Of every kind, a few shapes are timed, from the smallest to the largest, those first that most operations are done in.
The rate (seconds per operation) of another shape is interpolated between the two next to it by the logarithm of its
operations. Of a large model only two layers are timed, and of a large batch only some rows.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tl_toxmem.config import EvaluateConfig
from tl_toxmem.continuations import continue_prompts
from tl_toxmem.model import LensModel
from tl_toxmem.plan.passes import Lengths
from tl_toxmem.plan.timed import Clock, Timed
from tl_toxmem.plan.work import Kind, Pass, Shape
from tl_toxmem.progress import track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer

_SHARES = (0.0, 0.15, 0.5, 0.85, 1.0)
"""Of a kind's operations, in order of the size of a pass: where the shapes lie that are timed."""
_SAMPLED, _COPIES = 16, 2
_TOO_LARGE = 5e8
"""Parameters; larger models are not asked how long their continuations are."""


@dataclass(frozen=True)
class Speeds:
    """Seconds of passes and of texts.

    Attributes:
        points: by kind, operations of a pass (rising) and seconds per operation.
        text: seconds that the judges take for a text together.
        shape: of the model.
    """

    points: dict[Kind, tuple[tuple[float, ...], tuple[float, ...]]]
    text: float
    shape: Shape

    def seconds(self, passes: Iterable[Pass], *, texts: float = 0.0) -> float:
        """Of all passes, and of the texts that are judged."""
        return sum(map(self._of, passes)) + texts * self.text

    def _of(self, one: Pass) -> float:
        all_of_it = one.operations(self.shape)
        if not all_of_it:
            return 0.0
        sizes, rates = self.points[one.kind]
        size = all_of_it / one.times
        # Below the smallest shape that was timed, no pass is quicker than that one was.
        if size < sizes[0]:
            return one.share * one.times * sizes[0] * rates[0]
        rate = float(np.interp(np.log(size), np.log(sizes), rates))
        return one.share * all_of_it * rate


def measure(
    model: LensModel,
    passes: Iterable[Pass],
    *,
    scorers: Sequence[ToxicityScorer],
    texts: Sequence[str],
    protocol: EvaluateConfig,
    clock: Clock = time.perf_counter,
) -> Speeds:
    """Time a few of these passes, and the judges.

    Args:
        model: as it will run.
        passes: of all stages.
        scorers: the judges.
        texts: like those that they will judge.
        protocol: how tokens are drawn.
        clock: in seconds; `time.process_time` where others use the machine.
    """
    shape, found = Shape.of(model), {}
    by_kind: dict[Kind, list[Pass]] = {}
    for one in passes:
        if one.operations(shape):
            by_kind.setdefault(one.kind, []).append(one)
    for kind, every in track(by_kind.items(), "time", total=len(by_kind)):
        points: dict[float, float] = {}
        for one in _representative(every, shape):
            size = one.operations(shape) / one.times
            points[size] = Timed(model, one, protocol=protocol, clock=clock).seconds() / size
        sizes = sorted(points)
        found[kind] = tuple(sizes), tuple(points[size] for size in sizes)
    judged = 0.0
    for scorer in scorers:
        scorer.score(texts[:1])
        start = clock()
        scorer.score(texts)
        judged += (clock() - start) / max(1, len(texts))
    return Speeds(found, judged, shape)


def sampled_lengths(model: LensModel, prompts: PromptSet, *, cfg: EvaluateConfig) -> Lengths:
    """How long continuations are, by a few of them; of a model without an end, or a large one, as long as they may."""
    if not model.eos_ids or Shape.of(model).parameters > _TOO_LARGE:
        return Lengths()
    copies = 1 if cfg.greedy else _COPIES
    few = cfg.model_copy(update={"n_continuations": copies})
    said = continue_prompts(model, prompts.first(_SAMPLED), cfg=few).tokens
    lengths = [len(row) for own in said for row in own]
    return Lengths(
        tuple(
            sum(length >= n for length in lengths) / len(lengths)
            for n in range(1, cfg.max_new_tokens + 1)
        )
    )


def _representative(passes: Sequence[Pass], shape: Shape) -> list[Pass]:
    """A few of one kind, from the smallest to the largest."""
    ordered = sorted(passes, key=lambda one: one.operations(shape) / one.times)
    done = np.cumsum([one.operations(shape) for one in ordered])
    places = [int(np.searchsorted(done, share * done[-1])) for share in _SHARES]
    return [ordered[min(i, len(ordered) - 1)] for i in dict.fromkeys(places)]
