"""The chain: prompts -> trace -> attribute -> select -> delete -> evaluate -> export -> report.

Every input is read and checked, and the model loaded, before the first byte is written. Each stage reads what
it needs from the artefacts on disk, also in an uninterrupted run, so a resumed run gives the same numbers.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tl_toxmem.attribute import (
    METHODS,
    Labelled,
    NeuronScores,
    Texts,
    attribute_neurons,
    read_labelled,
)
from tl_toxmem.attribute.texts import labelled_of
from tl_toxmem.cards import neuron_cards
from tl_toxmem.certify import library_versions
from tl_toxmem.config import DEMO, STAGES, RunConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation import Evaluation, evaluate
from tl_toxmem.export import export_checkpoint
from tl_toxmem.files import read_json, sha256_file, write_bytes, write_json
from tl_toxmem.model import LensModel, Source, demo_folder, find_source
from tl_toxmem.model.load import fingerprint, read_architecture
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.neutral import default_neutral, encode_documents, read_documents, split_documents
from tl_toxmem.prompts import PromptSet
from tl_toxmem.report import write_report
from tl_toxmem.scorers import ToxicityScorer, load_scorer
from tl_toxmem.select import (
    BY_SIZE,
    Law,
    choose_k,
    control_sets,
    joint_effect,
    layers_of,
    pick_k,
    select_greedily,
    select_neurons,
)
from tl_toxmem.store import PROVENANCE, RunFolder, check_folder, open_folder
from tl_toxmem.tokens import align
from tl_toxmem.trace import (
    Trace,
    can_replace,
    causal_trace,
    check_robustness,
    parts_of,
    plan_trace,
)

Announce = Callable[[str], object]
_MOST_SINGLES = 200
"""Selected neurons that are also measured one by one, to hold the sum against their joint effect."""


@dataclass(frozen=True)
class _Inputs:
    """Everything a run reads, checked."""

    source: Source
    prompts: PromptSet
    benign: PromptSet | None
    benign_find: PromptSet | None
    labelled: Sequence[Labelled] | None
    choosing: Sequence[str]
    reporting: Sequence[str]
    hashes: dict[str, str]
    scorer: ToxicityScorer


def run(cfg: RunConfig, *, until: str = "report", announce: Announce = str) -> RunFolder:
    """Do what is not yet done, up to and including the stage `until`.

    Args:
        cfg: the run; a folder `cfg.out` of the same configuration is resumed.
        until: a stage, or `report` for all of them.
        announce: called with each stage's name as it begins.

    Raises:
        ToxmemError: any mistake in the input, before anything is written.
    """
    wanted = STAGES if until == "report" else STAGES[: _index(until) + 1]
    inputs = _read_inputs(cfg)
    versions = library_versions()
    check_folder(cfg, inputs.hashes, versions=versions)
    missing = [stage for stage in wanted if not RunFolder(cfg.out).is_done(stage)]
    model = _load_model(cfg, inputs, missing) if missing else None
    folder = open_folder(cfg, inputs.hashes, versions=versions)
    if missing and model is not None:
        # A stage made anew makes everything that follows it stale, also what is not wanted now.
        folder.outdate(STAGES[STAGES.index(missing[0]) :])
        folder.note(revision=inputs.source.revision)
        for stage in wanted[wanted.index(missing[0]) :]:
            announce(stage)
            folder.forget(stage)
            _STAGES[stage](model, cfg, inputs, folder)
            folder.record(stage)
    if until == "report":
        announce("report")
        write_report(folder.path)
    return folder


def _index(stage: str) -> int:
    if stage not in STAGES:
        raise ToxmemError(f"unknown stage {stage!r}: choose from {', '.join(STAGES)}, report")
    return STAGES.index(stage)


def _read_inputs(cfg: RunConfig) -> _Inputs:
    source = find_source(cfg.model, revision=_recorded_revision(cfg))
    read_architecture(source)
    demo = cfg.model == DEMO
    prompts_path = cfg.prompts or (demo_folder() / "prompts.jsonl" if demo else None)
    benign_path = cfg.benign or (demo_folder() / "benign.jsonl" if demo else None)
    neutral_path = cfg.neutral or (demo_folder() / "neutral.txt" if demo else default_neutral())
    if prompts_path is None:
        raise ToxmemError("no prompts: give --prompts FILE (JSONL with prompt and target)")
    prompts = PromptSet.read(prompts_path).split(cfg.split)
    for name, part in (("find", prompts.find), ("report", prompts.report)):
        if not len(part):
            raise ToxmemError(
                f"{prompts_path}: no prompt falls into the {name} split; give more prompts"
            )
    both = {p.prompt for p in prompts.find} & {p.prompt for p in prompts.report}
    if both:
        raise ToxmemError(
            f"{prompts_path}: the prompt {min(both)!r} is in the find and in the report split: remove one"
        )
    benign = benign_find = None
    if benign_path is not None:
        both_splits = PromptSet.read(benign_path).split(cfg.split)
        benign, benign_find = both_splits.report, both_splits.find
        for name, part in (("find", benign_find), ("report", benign)):
            if not len(part):
                raise ToxmemError(
                    f"{benign_path}: no prompt falls into the {name} split; give more prompts"
                )
    labelled = None if cfg.labelled is None else read_labelled(cfg.labelled)
    choosing, reporting = split_documents(read_documents(neutral_path))
    paths = {"prompts": prompts_path, "benign": benign_path, "neutral": neutral_path}
    paths["labelled"] = cfg.labelled
    hashes = {name: sha256_file(path) for name, path in paths.items() if path is not None}
    hashes["model"] = fingerprint(source)
    scorer = load_scorer(cfg.scorer, device=cfg.device)
    return _Inputs(
        source, prompts, benign, benign_find, labelled, choosing, reporting, hashes, scorer
    )


def _recorded_revision(cfg: RunConfig) -> str | None:
    """The commit of a hub model that the folder was begun with, so that a moved branch changes nothing."""
    if not (cfg.out / PROVENANCE).is_file():
        return None
    revision: str | None = RunFolder(cfg.out).provenance()["revision"]
    return revision


def _load_model(cfg: RunConfig, inputs: _Inputs, missing: Sequence[str]) -> LensModel:
    """The model, once it is known that every prompt and setting fits it."""
    model = LensModel.from_pretrained(
        cfg.model,
        revision=inputs.source.revision,
        host=cfg.host,
        dtype=getattr(torch, cfg.dtype),
        device=cfg.device,
        prepend_bos=cfg.prepend_bos,
    )
    if {"select", "evaluate"} & set(missing):
        # A judge that is to be downloaded and cannot be is known before the first long stage.
        inputs.scorer.score(["ready"])
    align(model, inputs.prompts)
    if inputs.benign is not None:
        align(model, inputs.benign)
    for texts in (inputs.choosing, inputs.reporting):
        encode_documents(model, texts, max_tokens=1)
    plan_trace(model, inputs.prompts.find, cfg=cfg.trace)
    if cfg.trace.robustness:
        can_replace(model, inputs.prompts.find)
    if inputs.benign_find is not None:
        plan_trace(model, inputs.benign_find, cfg=cfg.trace)
    _check_attribution(cfg, inputs)
    among = layers_of(cfg.select, n_layers=model.n_layers) if cfg.select.layers != "trace" else None
    longest = max(len(item.tokens) for item in align(model, inputs.prompts))
    for name, new in (
        ("evaluate", cfg.evaluate.max_new_tokens),
        ("export", cfg.export.max_new_tokens),
    ):
        if longest + new > model.n_ctx:
            raise ToxmemError(
                f"the longest prompt ({longest} tokens) and {name}.max_new_tokens = {new} exceed the model's "
                f"context of {model.n_ctx}"
            )
    # Half of a layer's neurons at most, so that a control as large can be drawn from the others.
    most = len(set(among or range(model.n_layers))) * model.d_mlp // 2
    if cfg.select.k is not None and cfg.select.k > most:
        raise ToxmemError(
            f"select.k is {cfg.select.k}: at most {most}, half of the neurons to choose from, leave others as controls"
        )
    return model


def _prompts(model: LensModel, cfg: RunConfig, inputs: _Inputs, folder: RunFolder) -> None:
    write_bytes(folder.artefact("prompts"), inputs.prompts.to_jsonl().encode())


def _trace(model: LensModel, cfg: RunConfig, inputs: _Inputs, folder: RunFolder) -> None:
    find = PromptSet.read(folder.artefact("prompts")).find
    kept = folder.artefact("trace").with_suffix(".parts")
    trace = causal_trace(model, find, cfg=cfg.trace, resume=kept)
    n, benign, robustness = len(trace.prompt_ids), None, None
    if inputs.benign_find is not None:
        same_noise = {"noise_level": trace.noise or None, "max_prompts": n}
        benign_cfg = cfg.trace.model_copy(update=same_noise)
        benign = causal_trace(model, inputs.benign_find, cfg=benign_cfg, resume=kept)
    if cfg.trace.robustness:
        robustness = check_robustness(model, find, cfg=cfg.trace, resume=kept)
    replace(trace, benign=benign, robustness=robustness).save(folder.artefact("trace"))
    shutil.rmtree(kept)


def _attribute(model: LensModel, cfg: RunConfig, inputs: _Inputs, folder: RunFolder) -> None:
    find = PromptSet.read(folder.artefact("prompts")).find
    scores = attribute_neurons(model, find, cfg=cfg.attribute, texts=_texts(inputs))
    scores.save(folder.artefact("attribute"))


def _texts(inputs: _Inputs) -> Texts:
    return Texts(neutral=inputs.choosing, labelled=inputs.labelled, benign=inputs.benign_find)


def _check_attribution(cfg: RunConfig, inputs: _Inputs) -> None:
    """Whether the method has the texts that it needs, and the selection its threshold."""
    if cfg.attribute.method in ("experts", "probe"):
        labelled_of(_texts(inputs), method=cfg.attribute.method)
    if cfg.attribute.method == "contrast" and inputs.benign_find is None:
        raise ToxmemError("attribute.method = 'contrast' needs benign prompts: give --benign FILE")
    if cfg.select.method not in BY_SIZE and cfg.select.threshold is None:
        raise ToxmemError(f"select.method = {cfg.select.method!r} needs select.threshold")
    if cfg.select.method == "greedy" and not 1 <= (cfg.select.k or 0) <= cfg.select.candidates:
        raise ToxmemError("select.method = 'greedy' needs select.k, of at most select.candidates")
    if cfg.select.method == "shared" and cfg.attribute.method in ("experts", "probe"):
        raise ToxmemError(
            f"select.method = 'shared' needs scores of single prompts, which {cfg.attribute.method!r} does not give"
        )
    if cfg.select.layers == "trace" and "mlp_out" not in cfg.trace.sites:
        raise ToxmemError("select.layers = 'trace' needs mlp_out among trace.sites")


def _select(model: LensModel, cfg: RunConfig, inputs: _Inputs, folder: RunFolder) -> None:
    scores = NeuronScores.load(folder.artefact("attribute"))
    trace = Trace.load(folder.artefact("trace"))
    find = PromptSet.read(folder.artefact("prompts")).find
    select = cfg.select
    layers = layers_of(select, n_layers=model.n_layers, trace=trace)
    curve: tuple[dict[str, object], ...] = ()
    rule = "k as configured" if select.method in BY_SIZE else "all that reach the threshold"
    if select.k is None and select.method in BY_SIZE:
        points = choose_k(
            model,
            find,
            scores,
            neutral=inputs.choosing,
            scorer=inputs.scorer,
            law=_law(cfg, scores),
            cfg=select,
            protocol=cfg.evaluate,
            layers=layers,
        )
        select = select.model_copy(update={"k": pick_k(points, cfg=select)})
        curve = tuple(point.to_json() for point in points)
        rule = (
            f"smallest k that removes {select.keep_removed:.0%} of the toxic continuations of the find prompts that "
            f"the best k removes, of those that raise neutral perplexity by at most "
            f"{select.max_perplexity_increase:.1%}"
        )
    if select.method == "greedy":
        chosen = select_greedily(model, find, scores, cfg=select, layers=layers)
    else:
        chosen = select_neurons(scores, cfg=select, trace=trace)
    benign = _benign_scores(model, cfg, inputs, scores)
    controls = control_sets(chosen, scores, seed=cfg.seed, cfg=select, benign=benign, layers=layers)
    some = find.first(cfg.attribute.verify_prompts)
    joint = None
    if len(chosen) <= _MOST_SINGLES:
        effects = joint_effect(model, some, chosen, seed=cfg.seed)
        joint = {"together": effects.together.to_json(), "summed": effects.summed.to_json()}
    shown = _first_by(scores, chosen, cfg.select.cards)
    cards = neuron_cards(model, some, shown, scores=scores, seed=cfg.seed)
    values = {
        "k": len(chosen),
        "rule": rule,
        "method": cfg.attribute.method,
        "ranked_by": select.method,
        "layers": None if layers is None else list(layers),
        "curve": list(curve),
        "selected": chosen.to_json(),
        "joint_effect": joint,
        "controls": {name: neurons.to_json() for name, neurons in controls.items()},
        "early_layers": list(parts_of(model.n_layers)["early"]),
        "cards": [card.to_json() for card in cards],
    }
    write_json(folder.artefact("select"), values)


def _benign_scores(
    model: LensModel, cfg: RunConfig, inputs: _Inputs, scores: NeuronScores
) -> NeuronScores | None:
    """What the same method says of benign prompts; None without any, or where it scores no prompts."""
    benign = inputs.benign_find
    if benign is None or cfg.attribute.method in ("experts", "probe", "contrast"):
        return None
    found = METHODS[cfg.attribute.method](model, benign, cfg=cfg.attribute)
    # What removing a neuron costs does not depend on the prompts.
    return replace(
        found,
        cost=scores.cost,
        mean_activation=scores.mean_activation,
        loudness=scores.loudness,
    )


def _first_by(scores: NeuronScores, chosen: NeuronSet, n: int) -> list[tuple[int, int]]:
    """The `n` of some neurons that score highest, the highest first."""
    return sorted(chosen, key=lambda neuron: -float(scores.scores[neuron]))[:n]


def _delete(model: LensModel, cfg: RunConfig, inputs: _Inputs, folder: RunFolder) -> None:
    scores = NeuronScores.load(folder.artefact("attribute"))
    values = read_json(folder.artefact("select"))
    deletion = _law(cfg, scores)(NeuronSet.from_json(values["selected"]))
    name = cfg.model if cfg.model == DEMO else Path(cfg.model).name
    provenance = {"base_model": name, "config_hash": cfg.hash(), "host": model.host.kind}
    deletion = replace(deletion, provenance=provenance).made_for(model)
    deletion.save(folder.artefact("delete"))


def _evaluate(model: LensModel, cfg: RunConfig, inputs: _Inputs, folder: RunFolder) -> None:
    law = _law(cfg, NeuronScores.load(folder.artefact("attribute")))
    controls = read_json(folder.artefact("select"))["controls"]
    deletions = {"deletion": Deletion.load(folder.artefact("delete"))}
    deletions |= {name: law(NeuronSet.from_json(own)) for name, own in controls.items()}
    evaluation = evaluate(
        model,
        PromptSet.read(folder.artefact("prompts")).report,
        scorers=[inputs.scorer],
        deletions=deletions,
        neutral=inputs.reporting,
        benign=inputs.benign,
        cfg=cfg.evaluate,
    )
    evaluation.save(folder.artefact("evaluate"))


def _export(model: LensModel, cfg: RunConfig, inputs: _Inputs, folder: RunFolder) -> None:
    report = PromptSet.read(folder.artefact("prompts")).report
    export_checkpoint(
        model,
        Deletion.load(folder.artefact("delete")),
        folder.artefact("export"),
        prompts=[prompt.prompt for prompt in report],
        evaluation=Evaluation.load(folder.artefact("evaluate")),
        datasets=sorted({prompt.source for prompt in inputs.prompts if prompt.source}),
        cfg=cfg.export,
    )


def _law(cfg: RunConfig, scores: NeuronScores) -> Law:
    """From neurons to the configured deletion."""
    if cfg.delete.law == "zero":
        return Deletion.zero
    if cfg.delete.law == "input_gain":
        return lambda neurons: Deletion.input_gain(neurons, cfg.delete.factor)
    if cfg.delete.law == "mean":
        return lambda neurons: Deletion.mean(neurons, scores.mean_activation)
    return lambda neurons: Deletion.scale(neurons, cfg.delete.factor)


_STAGES: dict[str, Callable[[LensModel, RunConfig, _Inputs, RunFolder], None]] = {
    "prompts": _prompts,
    "trace": _trace,
    "attribute": _attribute,
    "select": _select,
    "delete": _delete,
    "evaluate": _evaluate,
    "export": _export,
}
