"""The stages: each reads its artefacts, does its work and writes one artefact."""

from collections.abc import Callable
from dataclasses import replace

from tl_toxmem.attribute import METHODS, NeuronScores, attribute_neurons
from tl_toxmem.cards import neuron_cards
from tl_toxmem.comparison import compare, make_material
from tl_toxmem.config import BY_TEXTS, RunConfig, shown_name, stage_hash
from tl_toxmem.deletion import Deletion
from tl_toxmem.evaluation import Evaluation, evaluate
from tl_toxmem.export import export_checkpoint
from tl_toxmem.files import write_bytes
from tl_toxmem.model import LensModel
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.pipeline.inputs import Inputs, texts_of
from tl_toxmem.pipeline.selecting import choose
from tl_toxmem.prompts import PromptSet
from tl_toxmem.select import (
    Selected,
    control_sets,
    joint_effect,
    law_of,
    layers_of,
    loudness_ratios,
)
from tl_toxmem.select.greedy import MOST_SINGLES
from tl_toxmem.store import RunFolder
from tl_toxmem.trace import (
    Trace,
    causal_trace,
    check_robustness,
    parts_of,
)


def _prompts(model: LensModel, cfg: RunConfig, inputs: Inputs, folder: RunFolder) -> None:
    write_bytes(folder.artefact("prompts"), inputs.prompts.to_jsonl().encode())


def _trace(model: LensModel, cfg: RunConfig, inputs: Inputs, folder: RunFolder) -> None:
    find = PromptSet.read(folder.artefact("prompts")).find
    kept = folder.parts("trace")
    trace = causal_trace(model, find, cfg=cfg.trace, resume=kept)
    n, benign, robustness = len(trace.prompt_ids), None, None
    if inputs.benign_find is not None:
        same_noise = {"noise_level": trace.noise or None, "max_prompts": n}
        benign_cfg = cfg.trace.model_copy(update=same_noise)
        benign = causal_trace(model, inputs.benign_find, cfg=benign_cfg, resume=kept)
    if cfg.trace.robustness:
        robustness = check_robustness(model, find, cfg=cfg.trace, resume=kept)
    replace(trace, benign=benign, robustness=robustness).save(folder.artefact("trace"))


def _attribute(model: LensModel, cfg: RunConfig, inputs: Inputs, folder: RunFolder) -> None:
    find = PromptSet.read(folder.artefact("prompts")).find
    scores = attribute_neurons(model, find, cfg=cfg.attribute, texts=texts_of(inputs))
    scores.save(folder.artefact("attribute"))


def _select(model: LensModel, cfg: RunConfig, inputs: Inputs, folder: RunFolder) -> None:
    scores = NeuronScores.load(folder.artefact("attribute"))
    trace = Trace.load(folder.artefact("trace"))
    find = PromptSet.read(folder.artefact("prompts")).find
    select = cfg.select
    layers = layers_of(select, n_layers=model.n_layers, trace=trace)
    selection = choose(model, find, scores, trace, layers, cfg=cfg, inputs=inputs)
    chosen = selection.neurons
    law = law_of(selection.law, scores, of=chosen)
    benign = _benign_scores(model, cfg, inputs, scores)
    controls = control_sets(chosen, scores, seed=cfg.seed, cfg=select, benign=benign, layers=layers)
    some = find.first(cfg.attribute.verify_prompts)
    joint = None
    if len(chosen) <= MOST_SINGLES:
        joint = joint_effect(model, some, chosen, law=law, seed=cfg.seed)
    shown = _first_by(scores, chosen, cfg.select.cards)
    cards = neuron_cards(model, some, shown, scores=scores, law=law, seed=cfg.seed)
    Selected(
        k=len(chosen),
        rule=selection.rule,
        method=cfg.attribute.method,
        ranked_by=selection.ranked_by,
        layers=layers,
        curve=selection.curve,
        trials=selection.trials,
        law=selection.law,
        selected=chosen,
        joint_effect=joint,
        controls=controls,
        loudness_ratios=loudness_ratios(chosen, controls, scores),
        no_decoy=no_decoy(cfg, inputs),
        early_layers=tuple(parts_of(model.n_layers)["early"]),
        cards=tuple(cards),
    ).save(folder.artefact("select"))


def _benign_scores(
    model: LensModel, cfg: RunConfig, inputs: Inputs, scores: NeuronScores
) -> NeuronScores | None:
    """What the same method says of benign prompts; None where there can be no decoy."""
    benign = inputs.benign_find
    if benign is None or no_decoy(cfg, inputs) is not None:
        return None
    found = METHODS[cfg.attribute.method](model, benign, cfg=cfg.attribute)
    # What removing a neuron costs does not depend on the prompts.
    return replace(
        found,
        cost=scores.cost,
        mean_activation=scores.mean_activation,
        loudness=scores.loudness,
    )


def no_decoy(cfg: RunConfig, inputs: Inputs) -> str | None:
    """Why there is no decoy; None if there is one."""
    method = cfg.attribute.method
    if inputs.benign_find is None:
        return "there are no benign prompts"
    if method in BY_TEXTS:
        return f"{method} scores neurons by labelled texts, whatever the prompts"
    if method == "contrast":
        return "contrast needs the benign prompts to compare with"
    return None


def _first_by(scores: NeuronScores, chosen: NeuronSet, n: int) -> list[tuple[int, int]]:
    """The `n` of some neurons that score highest, the highest first."""
    return sorted(chosen, key=lambda neuron: -float(scores.scores[neuron]))[:n]


def _delete(model: LensModel, cfg: RunConfig, inputs: Inputs, folder: RunFolder) -> None:
    scores = NeuronScores.load(folder.artefact("attribute"))
    found = Selected.load(folder.artefact("select"))
    deletion = found.law_on(scores)(found.selected)
    provenance = {
        "base_model": shown_name(cfg.model),
        "config_hash": stage_hash(cfg, "delete", labelled=inputs.hashes.get("labelled")),
        "host": model.host.kind,
    }
    deletion = replace(deletion, provenance=provenance).made_for(model)
    deletion.save(folder.artefact("delete"))


def _evaluate(model: LensModel, cfg: RunConfig, inputs: Inputs, folder: RunFolder) -> None:
    found = Selected.load(folder.artefact("select"))
    law = found.law_on(NeuronScores.load(folder.artefact("attribute")))
    deletions = {"deletion": Deletion.load(folder.artefact("delete"))}
    deletions |= {name: law(own) for name, own in found.controls.items()}
    evaluation = evaluate(
        model,
        PromptSet.read(folder.artefact("prompts")).report,
        scorers=inputs.scorers,
        deletions=deletions,
        neutral=inputs.reporting,
        benign=inputs.benign,
        cfg=cfg.evaluate,
    )
    evaluation.save(folder.artefact("evaluate"))


def _export(model: LensModel, cfg: RunConfig, inputs: Inputs, folder: RunFolder) -> None:
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


def _compare(model: LensModel, cfg: RunConfig, inputs: Inputs, folder: RunFolder) -> None:
    prompts = PromptSet.read(folder.artefact("prompts"))
    trace = Trace.load(folder.artefact("trace"))
    material = make_material(
        model,
        prompts.find,
        NeuronScores.load(folder.artefact("attribute")),
        neutral=inputs.choosing,
        scorer=inputs.scorer,
        trace=trace,
        benign=inputs.benign_find,
        labelled=inputs.labelled,
        cfg=cfg.compare,
        protocol=cfg.evaluate,
        seed=cfg.seed,
    )
    kept = folder.parts("compare")
    comparison = compare(
        model,
        prompts.report,
        material,
        scorers=inputs.scorers,
        neutral=inputs.reporting,
        benign=inputs.benign,
        deletion=Deletion.load(folder.artefact("delete")),
        trace=trace,
        cfg=cfg.compare,
        protocol=cfg.evaluate,
        resume=kept,
    )
    comparison.save(folder.artefact("compare"))


STAGE_FUNCTIONS: dict[str, Callable[[LensModel, RunConfig, Inputs, RunFolder], None]] = {
    "prompts": _prompts,
    "trace": _trace,
    "attribute": _attribute,
    "select": _select,
    "delete": _delete,
    "evaluate": _evaluate,
    "export": _export,
    "compare": _compare,
}
