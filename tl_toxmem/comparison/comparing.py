"""The comparison: every method made on the find split, measured on the report split, each at several strengths."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tl_toxmem.comparators import Material
from tl_toxmem.comparison.methods import METHODS, check_methods, what_is_there
from tl_toxmem.comparison.parts import Part, asked_of, place_of
from tl_toxmem.comparison.record import OURS, Comparison, Entry
from tl_toxmem.comparison.regression import trace_regression, why_no_regression
from tl_toxmem.config import CompareConfig, EvaluateConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation import BASE, Baseline, Evaluation, evaluate, measure_base
from tl_toxmem.model import LensModel
from tl_toxmem.progress import track
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import ToxicityScorer
from tl_toxmem.trace import Trace


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
        protocol: of the evaluation; `cfg` has its own measures and number of continuations.
        resume: a folder where each method's result is kept until all are there, and taken from if it was made alike.

    Raises:
        ToxmemError: prompts that are measured and also chosen from, an unknown method, one that lacks its data, or a
            scorer that calls nothing of base toxic; see also `evaluate`.
    """
    both = {p.hash for p in prompts} & {p.hash for p in material.prompts}
    if both:
        raise ToxmemError(
            f"{len(both)} of the {len(prompts)} prompts that are to be measured are among those that the methods are "
            "made from: give make_material the find prompts, and compare the report prompts"
        )
    cfg = cfg or CompareConfig()
    protocol = protocol_of(cfg, protocol or EvaluateConfig())
    chosen, left_out = check_methods(cfg, what_is_there(model, _parts_there(material)))
    no_regression = why_no_regression(material.prompts, trace) if trace is not None else None
    baseline: Baseline | None = None
    parts: list[Part] = []
    names = (*([OURS] if deletion is not None else []), *chosen)
    for name in track(names, "methods", total=len(names)):
        own = deletion if name == OURS else None
        strengths: tuple[float, ...] = ()
        if own is None:
            strengths = cfg.strengths.get(name) or METHODS[name].strengths(model)
        asked = asked_of(
            (strengths, cfg.comparators, material) if own is None else own,
            protocol=protocol,
            prompts=(prompts, benign),
            neutral=neutral,
            scorers=scorers,
        )
        kept = None if resume is None else place_of(resume, name, asked)
        known = None if kept is None else Part.load(kept)
        if known is not None:
            parts.append(known)
            continue
        if own is not None:
            entries = [_entry_of_ours(own)]
            laws = {OURS: own}
        else:
            made = METHODS[name].make(model, material, strengths=strengths, cfg=cfg.comparators)
            entries = [_entry(name, strength, material, cfg) for strength in made]
            laws = {e.edit: law for e, law in zip(entries, made.values(), strict=True)}
        if baseline is None:
            baseline = _base(model, prompts, scorers, neutral, benign, protocol)
        found = evaluate(
            model,
            prompts,
            scorers=scorers,
            deletions=laws,
            neutral=neutral,
            benign=benign,
            cfg=protocol,
            baseline=baseline,
        )
        part = Part(found, tuple(entries))
        if kept is not None:
            part.save(kept)
        parts.append(part)
    regression = None
    if trace is not None and no_regression is None:
        k = min(cfg.regression_k, model.d_mlp // 2)
        regression = trace_regression(
            model, material.prompts, trace, material.scores, k=k, seed=material.seed
        )
    reasons = [*left_out.values(), *([no_regression] if no_regression else [])]
    every = tuple(entry for part in parts for entry in part.entries)
    return Comparison(_joined([p.evaluation for p in parts]), every, regression, tuple(reasons))


def protocol_of(cfg: CompareConfig, protocol: EvaluateConfig) -> EvaluateConfig:
    """The evaluation's, with the comparison's own measures and number of continuations, and without lm-eval's tasks."""
    n = 1 if protocol.greedy else cfg.n_continuations or protocol.n_continuations
    own = {"measures": cfg.measures, "n_continuations": n, "lm_eval_tasks": ()}
    return protocol.model_copy(update=own)


def _parts_there(material: Material) -> dict[str, bool]:
    """The optional parts of the material."""
    return {
        "alternatives": all(
            p.neutral_target or material.alternatives.get(p.id) for p in material.prompts
        ),
        "labelled": material.labelled is not None,
        "traced_layer": material.traced_layer is not None,
    }


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


def _entry_of_ours(deletion: Deletion) -> Entry:
    n = float(len(deletion.neurons))
    return Entry(OURS, OURS, "deletion of this run", "deletion", "neurons", n)


def _entry(name: str, strength: float, material: Material, cfg: CompareConfig) -> Entry:
    method = METHODS[name]
    label = method.label + method.detail(material, cfg.comparators)
    edit = f"{name}@{strength:g}"
    return Entry(edit, name, label, method.family, method.strength, strength)


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
