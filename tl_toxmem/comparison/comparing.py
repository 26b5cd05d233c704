"""The comparison: every method made on the find split, measured on the report split, each at several strengths."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tl_toxmem.attribute.texts import LEAST_LABELLED
from tl_toxmem.comparators import COMPARATORS, Comparator, Material
from tl_toxmem.comparison.learned import LEARNED
from tl_toxmem.comparison.record import OURS, Comparison, Entry
from tl_toxmem.comparison.regression import TraceRegression, trace_regression
from tl_toxmem.config import CompareConfig, EvaluateConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.delta import stored_tensors
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation import BASE, Baseline, Evaluation, evaluate, measure_base
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer
from tl_toxmem.trace import Trace

METHODS: dict[str, Comparator] = {**COMPARATORS, **LEARNED}
"""By name."""
OUTPUT_BIAS = "output_bias"
_PARTS = {
    "benign": "benign prompts: give --benign FILE",
    "labelled": f"labelled text: give --labelled FILE, or --benign FILE with {LEAST_LABELLED} find prompts",
    "traced_layer": "a trace of MLP outputs: have mlp_out among trace.sites",
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
        ToxmemError: an unknown method, strengths of a method that is not compared, or a part that one needs.
    """
    chosen = cfg.methods or tuple(METHODS)
    for name in (*chosen, *cfg.strengths):
        if name not in METHODS:
            raise ToxmemError(f"unknown method {name!r}: choose from {', '.join(METHODS)}")
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


def compare(
    model: LensModel,
    prompts: PromptSet,
    material: Material,
    *,
    scorers: Sequence[ToxicityScorer],
    neutral: Sequence[str],
    benign: PromptSet | None = None,
    deletion: Deletion | None = None,
    trace: Trace | None = None,
    cfg: CompareConfig | None = None,
    protocol: EvaluateConfig | None = None,
    resume: Path | None = None,
) -> Comparison:
    """Make and measure.

    Args:
        model: any host, raw weights.
        prompts: the report prompts.
        material: what methods are made from: find prompts, choosing text, scores.
        scorers: judges of toxicity.
        neutral: text that nothing was chosen on.
        benign: report prompts with right continuations that an edit should leave alone.
        deletion: the run's own, measured beside the others.
        trace: for the regression of success on tracing.
        cfg: which methods, how strong.
        protocol: of the evaluation.
        resume: a folder where each method's result is kept until all are there.

    Raises:
        ToxmemError: an unknown method, one that lacks its data, or a scorer that calls nothing of base toxic; see also
            `evaluate`.
    """
    cfg, protocol = cfg or CompareConfig(), protocol or EvaluateConfig()
    there = {
        part: getattr(material, part) is not None for part in ("benign", "labelled", "traced_layer")
    }
    chosen, left_out = check_methods(cfg, what_is_there(model, there))
    protocol = protocol.model_copy(update={"measures": cfg.measures})
    baseline: Baseline | None = None
    entries: list[Entry] = []
    parts: list[Evaluation] = []
    if deletion is not None:
        n = float(len(deletion.neurons))
        entries.append(Entry(OURS, OURS, "deletion of this run", "deletion", "neurons", n))
    for name in (*([OURS] if deletion is not None else []), *chosen):
        kept = None if resume is None else resume / f"{name}.json"
        strengths: tuple[float, ...] = ()
        if name != OURS:
            method = METHODS[name]
            strengths = cfg.strengths.get(name) or method.strengths(model)
            entries += [_entry(name, method, strength) for strength in strengths]
        if kept is not None and kept.is_file():
            parts.append(Evaluation.load(kept))
            continue
        laws = {OURS: deletion} if name == OURS and deletion is not None else {}
        if name != OURS:
            made = METHODS[name].make(model, material, strengths=strengths, cfg=cfg.comparators)
            laws = {_edit(name, strength): law for strength, law in made.items()}
        if baseline is None:
            baseline = _base(model, prompts, scorers, neutral, benign, protocol)
        part = evaluate(
            model,
            prompts,
            scorers=scorers,
            deletions=laws,
            neutral=neutral,
            benign=benign,
            cfg=protocol,
            baseline=baseline,
        )
        if kept is not None:
            kept.parent.mkdir(exist_ok=True)
            part.save(kept)
        parts.append(part)
    regression = _regression(model, material, trace, cfg)
    return Comparison(_joined(parts), tuple(entries), regression, tuple(left_out.values()))


def _base(
    model: LensModel,
    prompts: PromptSet,
    scorers: Sequence[ToxicityScorer],
    neutral: Sequence[str],
    benign: PromptSet | None,
    protocol: EvaluateConfig,
) -> Baseline:
    """Base, measured once for all methods.

    Raises:
        ToxmemError: a scorer calls nothing of base toxic.
    """
    baseline = measure_base(
        model, prompts, scorers=scorers, neutral=neutral, benign=benign, cfg=protocol
    )
    for name, scores in baseline.found.scores.items():
        if not (scores >= protocol.threshold).any():
            raise ToxmemError(
                f"{name} calls no continuation of the {len(prompts)} report prompts toxic, so there is nothing to "
                "compare: give prompts that the model continues toxically, another scorer, or a lower "
                "evaluate.threshold"
            )
    return baseline


def _edit(name: str, strength: float) -> str:
    return f"{name}@{strength:g}"


def _entry(name: str, method: Comparator, strength: float) -> Entry:
    return Entry(
        _edit(name, strength), name, method.label, method.family, method.strength, strength
    )


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation: base once, then every law; all parts were made by one protocol."""
    first, *others = parts
    rows = list(first.rows)
    for part in others:
        rows += [row for row in part.rows if row.edit != BASE]
    agreement = list(first.agreement)
    for part in others:
        agreement += [one for one in part.agreement if one["edit"] != BASE]
    return replace(first, rows=tuple(rows), examples=(), agreement=tuple(agreement))


def _regression(
    model: LensModel, material: Material, trace: Trace | None, cfg: CompareConfig
) -> TraceRegression | None:
    if trace is None:
        return None
    k = min(cfg.regression_k, model.d_mlp // 2)
    return trace_regression(
        model, material.prompts, trace, material.scores, k=k, seed=material.seed
    )
