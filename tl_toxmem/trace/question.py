"""The paper's question, answered from a trace with its numbers: are the early MLPs special?

Compared are shares of the total effect (see `statistics.shares`): with the attentions of the same layers, with the MLPs
of the other layers, and with the same MLPs on benign prompts. A difference counts where its whole 95 % interval is
beyond one point of the total effect; "special" is said only where all differences count.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tl_toxmem.errors import ToxmemError
from tl_toxmem.stats import Estimate, mean_estimate, ratio_difference, ratio_estimate
from tl_toxmem.trace.cells import PART_SITES, PARTS, parts_of
from tl_toxmem.trace.metrics import UNITS

if TYPE_CHECKING:
    import pandas as pd

    from tl_toxmem.trace.record import Trace


LEAST = 0.01
"""Of the total effect: a smaller difference is none, however sure."""
ENOUGH = 10
"""Prompts: bootstrap intervals over fewer are too narrow for a claim."""
_BENIGN = "early MLPs on benign prompts"
_TOKENS = "all tokens from the first corrupted one on"


@dataclass(frozen=True)
class Answer:
    """Are the early MLPs special?

    Attributes:
        share: of the total effect that the early MLPs mediate.
        differences: that share minus each of the others, by name.
        text: the answer in words.
    """

    share: Estimate
    differences: dict[str, Estimate]
    text: str

    def frame(self) -> "pd.DataFrame":
        """The differences, one a row, in shares of the total effect."""
        import pandas as pd

        return pd.DataFrame([{"minus": k, **v.to_json()} for k, v in self.differences.items()])


def answer(trace: "Trace", benign: "Trace | None" = None) -> Answer:
    """Answer the question from a trace, and one of benign prompts if there is any.

    Raises:
        ToxmemError: the trace was made without its parts, or the two traces are in different metrics.
    """
    if bool(trace.parts.isnan().any()):
        raise ToxmemError("this trace has no parts: trace with trace.parts = true")
    if benign is not None:
        _check_comparable(trace, benign)
    total = trace.total_effect.numpy()
    layers = list(parts_of(trace.restored.shape[3]).values())[0]
    early = trace.part_effect[:, PART_SITES.index("mlp_out"), PARTS.index("early")].numpy()
    share = ratio_estimate(early, total, seed=trace.seed)
    differences = {}
    for site, part in (("attn_out", "early"), ("mlp_out", "middle"), ("mlp_out", "late")):
        other = trace.part_effect[:, PART_SITES.index(site), PARTS.index(part)].numpy()
        name = f"{part} {'MLPs' if site == 'mlp_out' else 'attentions'}"
        differences[name] = ratio_estimate(early - other, total, seed=trace.seed)
    if benign is not None and _is_taken(benign):
        other = benign.part_effect[:, PART_SITES.index("mlp_out"), PARTS.index("early")].numpy()
        differences[_BENIGN] = ratio_difference(
            (early, total), (other, benign.total_effect.numpy()), seed=trace.seed
        )
    text = _words(trace, benign, share, differences, f"{layers.start} to {layers.stop - 1}")
    return Answer(share, differences, text)


def _check_comparable(trace: "Trace", benign: "Trace") -> None:
    for name in ("metric", "corruption", "noise"):
        own, other = getattr(trace, name), getattr(benign, name)
        if own != other:
            raise ToxmemError(
                f"the traces differ in {name} ({own} and {other}): trace benign prompts as the others"
            )
    if trace.restored.shape[3] != benign.restored.shape[3] or bool(benign.parts.isnan().any()):
        raise ToxmemError("the trace of benign prompts is of another model, or without its parts")


def _is_taken(trace: "Trace") -> bool:
    """Whether corruption takes something away for sure, so that shares of it mean something."""
    total = mean_estimate(trace.total_effect.numpy(), seed=trace.seed)
    return total.low is not None and total.low > 0


def _words(
    trace: "Trace",
    benign: "Trace | None",
    share: Estimate,
    differences: dict[str, Estimate],
    layers: str,
) -> str:
    total = mean_estimate(trace.total_effect.numpy(), seed=trace.seed)
    taken = f"{total.value:.3g} {UNITS[trace.metric]}"
    where = "subject" if trace.has_subjects else "prompt"
    what = {"noise": f"Noise on the {where}", "mean": f"The mean embedding in the {where}'s place"}
    source = what.get(trace.corruption, "The counterfactual prompt")
    if total.n < ENOUGH:
        return (
            f"{source} takes {taken} from the target (n = {total.n} prompts); the MLP outputs of layers {layers}, "
            f"restored at {_TOKENS}, give back {_share(share)} of it. Too few prompts for an answer: trace at least "
            f"{ENOUGH}."
        )
    if not _is_taken(trace):
        return (
            f"{source} takes {taken} from the target (n = {total.n} prompts), which is too little or too uncertain to "
            "say which layers mediate it."
        )
    more = [name for name, d in differences.items() if d.low is not None and d.low > LEAST]
    less = [name for name, d in differences.items() if d.high is not None and d.high < -LEAST]
    open_ = [name for name in differences if name not in more and name not in less]
    told = {name: f"{name} ({_points(d)})" for name, d in differences.items()}
    sentences = [
        f"{source} takes {taken} from the target (n = {total.n} prompts). Restoring the MLP outputs of layers {layers} "
        f"at {_TOKENS} gives back {_share(share)} of it."
    ]
    for verb, names in (("more than", more), ("less than", less)):
        if names:
            sentences.append(f"That is {verb} {_list([told[name] for name in names])}.")
    if open_:
        sentences.append(f"No clear difference from {_list([told[name] for name in open_])}.")
    if benign is None:
        sentences.append(
            "Benign prompts were not traced, so nothing is said about toxic targets alone."
        )
    elif _BENIGN not in differences:
        sentences.append(
            f"Corruption takes too little from the targets of the {len(benign.prompt_ids)} benign prompts to compare."
        )
    if len(more) == len(differences):
        compared = _BENIGN in differences
        scope = ", and for toxic targets more than for benign ones" if compared else ""
        sentences.append(f"So the early MLPs are special in this model{scope}.")
    elif more:
        sentences.append(f"So the early MLPs stand out only against {_list(more)}.")
    else:
        sentences.append("So the early MLPs are not special in this model.")
    return " ".join(sentences)


def _share(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.0%}"
    return f"{estimate.value:.0%} ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


def _points(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{_whole(estimate.value)} points"
    return f"{_whole(estimate.value)} points, {_whole(estimate.low)} to {_whole(estimate.high)}"


def _whole(share: float) -> str:
    """In points, with a sign; no "-0"."""
    return f"{round(100 * share) + 0:+d}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
