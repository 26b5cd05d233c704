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
    if benign is not None and benign.metric != trace.metric:
        raise ToxmemError(f"the traces are in {trace.metric} and {benign.metric}: use one metric")
    total = trace.total_effect.numpy()
    layers = list(parts_of(trace.restored.shape[3]).values())[0]
    early = trace.part_effect[:, PART_SITES.index("mlp_out"), PARTS.index("early")].numpy()
    share = ratio_estimate(early, total, seed=trace.seed)
    differences = {}
    for site, part in (("attn_out", "early"), ("mlp_out", "middle"), ("mlp_out", "late")):
        other = trace.part_effect[:, PART_SITES.index(site), PARTS.index(part)].numpy()
        name = f"{part} {'MLPs' if site == 'mlp_out' else 'attentions'}"
        differences[name] = ratio_estimate(early - other, total, seed=trace.seed)
    if benign is not None:
        other = benign.part_effect[:, PART_SITES.index("mlp_out"), PARTS.index("early")].numpy()
        differences["early MLPs on benign prompts"] = ratio_difference(
            (early, total), (other, benign.total_effect.numpy()), seed=trace.seed
        )
    text = _words(trace, benign, share, differences, f"{layers.start} to {layers.stop - 1}")
    return Answer(share, differences, text)


def _words(
    trace: "Trace",
    benign: "Trace | None",
    share: Estimate,
    differences: dict[str, Estimate],
    layers: str,
) -> str:
    total = mean_estimate(trace.total_effect.numpy(), seed=trace.seed)
    taken = f"{total.value:.3g} {UNITS[trace.metric]}"
    what = {"noise": "Noise on the subject", "mean": "The mean embedding in the subject's place"}
    source = what.get(trace.corruption, "The counterfactual prompt")
    if total.low is None or total.low <= 0:
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
        f"at all tokens gives back {_share(share)} of it."
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
    elif len(benign.prompt_ids) < len(trace.prompt_ids) / 4:
        sentences.append(f"Only {len(benign.prompt_ids)} benign prompts were traced.")
    if len(more) == len(differences):
        scope = "" if benign is None else ", and for toxic targets more than for benign ones"
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
        return f"{100 * estimate.value:+.0f} points"
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:+.0f} points, {low:+.0f} to {high:+.0f}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
