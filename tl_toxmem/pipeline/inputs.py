"""What a run reads: found, hashed and checked before the first byte is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tl_toxmem.attribute import Labelled, Texts, read_labelled
from tl_toxmem.attribute.auroc import labelled_tokens
from tl_toxmem.attribute.texts import LEAST_LABELLED, labelled_of
from tl_toxmem.comparators import labelled_from
from tl_toxmem.comparison import check_methods, check_names, what_is_there
from tl_toxmem.config import BY_SIZE, BY_TEXTS, DEMO, RunConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation.rows import documents
from tl_toxmem.files import sha256_file
from tl_toxmem.model import LensModel, Source, demo_folder, find_source
from tl_toxmem.model.load import fingerprint, read_architecture
from tl_toxmem.neutral import default_neutral, encode_documents, read_documents, split_documents
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import CachedScorer, ToxicityScorer, load_scorer
from tl_toxmem.select import layers_of
from tl_toxmem.store import PROVENANCE, RunFolder
from tl_toxmem.tokens import align
from tl_toxmem.trace import can_replace, parts_of, plan_trace

_LEAST = 2
"""Prompts of a split: of one there is no interval."""
_MOST_SCORE = {"experts": 0.5, "probe": 1.0, "knowledge_neurons": 1.0}
"""What no neuron can score more than, by method."""


@dataclass(frozen=True)
class Inputs:
    """Everything a run reads, checked."""

    source: Source
    prompts: PromptSet
    benign: PromptSet | None
    benign_find: PromptSet | None
    labelled: Sequence[Labelled] | None
    choosing: Sequence[str]
    reporting: Sequence[str]
    hashes: dict[str, str]
    scorers: Sequence[ToxicityScorer]

    @property
    def scorer(self) -> ToxicityScorer:
        """The judge that decides: the first."""
        return self.scorers[0]

    def cached(self, folder: RunFolder) -> "Inputs":
        """The same, with judges that keep their scores in a run folder."""
        return replace(self, scorers=[CachedScorer(s, folder.cache) for s in self.scorers])


def read_inputs(cfg: RunConfig) -> Inputs:
    """Everything that a run reads, and its judges.

    Raises:
        ToxmemError: a file that is missing or wrong, a split of too few prompts, a prompt in both, a method that there
            is none of.
    """
    check_names(cfg.compare)
    source = find_source(cfg.model, revision=_recorded_revision(cfg))
    read_architecture(source)
    demo = cfg.model == DEMO
    prompts_path = cfg.prompts or (demo_folder() / "prompts.jsonl" if demo else None)
    benign_path = cfg.benign or (demo_folder() / "benign.jsonl" if demo else None)
    neutral_path = cfg.neutral or (demo_folder() / "neutral.txt" if demo else default_neutral())
    if prompts_path is None:
        raise ToxmemError("no prompts: give --prompts FILE (JSONL with prompt and target)")
    prompts = PromptSet.read(prompts_path).split(cfg.split)
    both = {p.prompt for p in prompts.find} & {p.prompt for p in prompts.report}
    if both:
        raise ToxmemError(
            f"{prompts_path}: the prompt {min(both)!r} is in the find and in the report split: remove one"
        )
    for name, part in (("find", prompts.find), ("report", prompts.report)):
        if len(part) < _LEAST:
            n = {0: "no prompt falls", 1: "only one prompt falls"}[len(part)]
            raise ToxmemError(
                f"{prompts_path}: {n} into the {name} split, and an interval needs {_LEAST}: give more prompts"
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
    return Inputs(
        source, prompts, benign, benign_find, labelled, choosing, reporting, hashes, _judges(cfg)
    )


def _judges(cfg: RunConfig) -> list[ToxicityScorer]:
    """The judges, each of a name of its own, by which its numbers are known."""
    judges = [
        load_scorer(name, device=cfg.device, trust_pickle=cfg.trust_pickle) for name in cfg.scorers
    ]
    for place, judge in enumerate(judges):
        for other, name in zip(judges[:place], cfg.scorers, strict=False):
            if judge.name == other.name:
                raise ToxmemError(
                    f"{name} and {cfg.scorers[place]} are both called {judge.name}: give one, or rename one's file"
                )
    return judges


def _recorded_revision(cfg: RunConfig) -> str | None:
    """The commit of a hub model that the folder was begun with, so that a moved branch changes nothing."""
    if not (cfg.out / PROVENANCE).is_file():
        return None
    revision: str | None = RunFolder(cfg.out).provenance()["revision"]
    return revision


def load_model(cfg: RunConfig, inputs: Inputs, missing: Sequence[str]) -> LensModel:
    """The model, once it is known that every prompt and setting fits it."""
    model = LensModel.from_pretrained(
        cfg.model,
        revision=inputs.source.revision,
        host=cfg.host,
        dtype=getattr(torch, cfg.dtype),
        device=cfg.device,
        prepend_bos=cfg.prepend_bos,
    )
    if {"select", "evaluate", "compare"} & set(missing):
        # A judge that is to be downloaded and cannot be is known before the first long stage.
        for scorer in inputs.scorers:
            scorer.score(["ready"])
    align(model, inputs.prompts)
    if inputs.benign is not None:
        align(model, inputs.benign)
    encode_documents(model, inputs.choosing, max_tokens=1)
    documents(model, inputs.reporting, cfg=cfg.evaluate)
    plan_trace(model, inputs.prompts.find, cfg=cfg.trace)
    if cfg.trace.robustness:
        can_replace(model, inputs.prompts.find)
    if inputs.benign_find is not None:
        plan_trace(model, inputs.benign_find, cfg=cfg.trace)
    if inputs.labelled is not None:
        labelled_tokens(model, inputs.labelled)
    _check_attribution(cfg, inputs)
    if "compare" in missing:
        check_methods(cfg.compare, what_is_there(model, parts_for_comparison(cfg, inputs)))
    _check_selection(cfg, model)
    longest = max(len(item.asked) for item in align(model, inputs.prompts))
    for name, new in (
        ("evaluate", cfg.evaluate.max_new_tokens),
        ("export", cfg.export.max_new_tokens),
    ):
        if longest + new > model.n_ctx:
            raise ToxmemError(
                f"the longest prompt ({longest} tokens) and {name}.max_new_tokens = {new} exceed the model's "
                f"context of {model.n_ctx}"
            )
    return model


def parts_for_comparison(cfg: RunConfig, inputs: Inputs) -> dict[str, bool]:
    """The optional parts of the material that there will be."""
    labelled = inputs.labelled
    if labelled is None and inputs.benign_find is not None:
        labelled = labelled_from(inputs.prompts.find, inputs.benign_find)
    n_toxic = sum(one.toxic for one in labelled or ())
    # Without a subject, the last corrupted token and the prompt's last are one.
    subjects = any(prompt.subject is not None for prompt in inputs.prompts.find)
    other = "last_subject" if cfg.compare.comparators.rome.token == "last" else "last"
    at_token = cfg.trace.positions != other
    return {
        "labelled": min(n_toxic, len(labelled or ()) - n_toxic) >= LEAST_LABELLED,
        "traced_layer": "mlp_out" in cfg.trace.sites and (at_token or not subjects),
    }


def texts_of(inputs: Inputs) -> Texts:
    """What some attribution methods need besides the prompts."""
    return Texts(neutral=inputs.choosing, labelled=inputs.labelled, benign=inputs.benign_find)


def _check_attribution(cfg: RunConfig, inputs: Inputs) -> None:
    """Whether the method has the texts that it needs."""
    method = cfg.attribute.method
    if method in BY_TEXTS:
        if inputs.labelled is None:
            raise ToxmemError(
                f'attribute.method = {method!r} needs labelled text: give --labelled FILE (JSONL with "text" and '
                '"toxic")'
            )
        labelled_of(texts_of(inputs), method=method)
    if method == "contrast" and inputs.benign_find is None:
        raise ToxmemError("attribute.method = 'contrast' needs benign prompts: give --benign FILE")


def _check_selection(cfg: RunConfig, model: LensModel) -> None:
    """What can be known of a selection before there are scores."""
    select, method = cfg.select, cfg.attribute.method
    if select.method not in BY_SIZE and select.threshold is None:
        raise ToxmemError(f"select.method = {select.method!r} needs select.threshold")
    most = 1.0 if select.method == "shared" else _MOST_SCORE.get(method)
    if select.method not in BY_SIZE and most is not None and (select.threshold or 0) > most:
        what = (
            "of a prompt's largest score" if select.method == "shared" else f"of {method!r} scores"
        )
        raise ToxmemError(
            f"select.threshold is {select.threshold:g}: no neuron reaches more than {most:g} {what}"
        )
    if select.method == "shared" and method in BY_TEXTS:
        raise ToxmemError(
            f"select.method = 'shared' needs scores of single prompts, which {method!r} does not give"
        )
    if select.layers == "trace" and "mlp_out" not in cfg.trace.sites:
        raise ToxmemError("select.layers = 'trace' needs mlp_out among trace.sites")
    if select.method == "greedy" and not 1 <= (select.k or 0) <= select.candidates:
        raise ToxmemError("select.method = 'greedy' needs select.k, of at most select.candidates")
    among = layers_of(select, n_layers=model.n_layers) if select.layers != "trace" else None
    # Half of a layer's neurons at most, so that a control as large can be drawn from the others.
    half = len(set(among or range(model.n_layers))) * model.d_mlp // 2
    early = len(parts_of(model.n_layers)["early"]) * model.d_mlp
    if select.k is not None and select.k > min(half, early):
        why = "half of the neurons to choose from, leave others as controls"
        if early < half:
            why = "all neurons of the early layers, can be drawn there as a control"
        raise ToxmemError(f"select.k is {select.k}: at most {min(half, early)}, {why}")
