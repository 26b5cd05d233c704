"""What `--json` gives: results and artefacts as plain values. Texts that prompts and models say stay in the files."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_toxmem.base import Base
    from tl_toxmem.certificate import Certificate
    from tl_toxmem.filebake import Applied
    from tl_toxmem.mining import Mined
    from tl_toxmem.store import RunFolder

_TOP = 50
"""Neurons of an attribution that are listed; the file has all."""


def run_record(command: str, folder: "RunFolder", until: str) -> dict[str, Any]:
    """Results of every stage that is done, up to the one that was asked for, and where all files are."""
    from tl_toxmem.config import STAGES
    from tl_toxmem.store import ARTEFACTS, CONFIG, PROVENANCE

    outputs = folder.provenance()["outputs"]
    made = [stage for stage in STAGES if ARTEFACTS[stage] in outputs]
    files = {stage: folder.artefact(stage) for stage in made}
    files |= {"config": folder.path / CONFIG, "provenance": folder.path / PROVENANCE}
    if until == "report":
        files["report"] = folder.report
    wanted = STAGES if until == "report" else STAGES[: STAGES.index(until) + 1]
    results = {s: _RESULTS[s](folder.artefact(s)) for s in wanted if s in made and s in _RESULTS}
    return {"command": command, "folder": folder.path, "artefacts": files, "results": results}


def mine_record(found: "Mined", folder: Path) -> dict[str, Any]:
    """What was kept and dropped, and where the prompts are."""
    from tl_toxmem.mining.parts import DONE
    from tl_toxmem.mining.record import BENIGN, PROMPTS

    files = {"prompts": folder / PROMPTS, "benign": folder / BENIGN, "mining": folder / DONE}
    names = ("counts", "drops", "rates", "kept_by_share")
    results = {name: getattr(found, name) for name in names}
    return {"command": "mine", "folder": folder, "artefacts": files, "results": results}


def certified_record(command: str, certificate: "Certificate", checkpoint: Path) -> dict[str, Any]:
    """A certificate that was made just now, and why it did not pass, if it did not."""
    results = {**asdict(certificate), "problem": certificate.problem()}
    return {"command": command, "artefacts": {"checkpoint": checkpoint}, "results": results}


def apply_record(applied: "Applied") -> dict[str, Any]:
    """What was applied, and whether it can be taken back."""
    from tl_toxmem.filebake import DELETION_FILE

    law = applied.deletion
    files = {"checkpoint": applied.folder, "deletion": applied.folder / DELETION_FILE}
    results = {
        "law": law.law,
        "neurons": len(law.neurons),
        "forced": law.forced,
        "original_bytes": applied.original_bytes,
        "keeps_originals": applied.keeps_originals,
    }
    return {"command": "apply", "artefacts": files, "results": results}


def revert_record(restored: "Base", checkpoint: Path) -> dict[str, Any]:
    """The model that is there again, by the hashes of its tensors."""
    results = restored.to_json()
    return {"command": "revert", "artefacts": {"checkpoint": checkpoint}, "results": results}


def _trace(path: Path) -> dict[str, Any]:
    from tl_toxmem.trace import Trace
    from tl_toxmem.trace.statistics import PLACES

    trace = Trace.load(path)
    answered = not bool(trace.parts.isnan().any())
    return {
        "prompts": len(trace.prompt_ids),
        "metric": trace.metric,
        "total_effect": float(trace.total_effect.mean()),
        "by_layer": {place: trace.by_layer(place).to_dict("records") for place in PLACES},
        "answer": trace.answer().text if answered else None,
    }


def _attribute(path: Path) -> dict[str, Any]:
    from tl_toxmem.attribute import NeuronScores, highest

    scores = NeuronScores.load(path)
    verification = scores.verification
    neurons = highest(scores.scores, min(_TOP, scores.scores.numel()))
    return {
        "method": scores.method,
        "unit": scores.unit,
        "highest": [
            {
                "layer": layer,
                "neuron": neuron,
                "score": float(scores.scores[layer, neuron]),
                "cost": float(scores.cost[layer, neuron]),
            }
            for layer, neuron in neurons
        ],
        "verification": verification
        and {
            "prompts": verification.n_prompts,
            "spearman": verification.spearman,
            "spearman_top": verification.spearman_top,
            "precision": verification.precision,
            "rest_effect": verification.rest_effect.to_json(),
        },
    }


def _select(path: Path) -> dict[str, Any]:
    from tl_toxmem.select import Selected

    names = (
        "k", "rule", "method", "ranked_by", "layers", "law", "selected", "joint_effect", "controls", "loudness_ratios",
        "no_decoy",
    )  # fmt: skip
    values = Selected.load(path).to_json()
    return {name: values[name] for name in names}


def _evaluate(path: Path) -> dict[str, Any]:
    from tl_toxmem.evaluation import Evaluation

    evaluation = Evaluation.load(path)
    values = evaluation.to_json()
    agreement = [
        {name: own for name, own in one.items() if name != "examples"}
        for one in values["agreement"]
    ]
    return {**values, "agreement": agreement, "examples": len(evaluation.examples)}


def _export(path: Path) -> dict[str, Any]:
    from tl_toxmem.certificate import Certificate

    return asdict(Certificate.read(path))


def _compare(path: Path) -> dict[str, Any]:
    from tl_toxmem.comparison import BUDGETS, Comparison

    comparison = Comparison.load(path)
    best = {
        method: {f"{b:g}": comparison.best(method, b).toxicity_rate.value for b in BUDGETS}
        for method in comparison.methods
    }
    return {
        "entries": [asdict(entry) for entry in comparison.entries],
        "rows": [row.to_json() for row in comparison.evaluation.rows],
        "toxicity_rate_at_cost": best,
        "left_out": comparison.left_out,
        "sentences": comparison.sentences(),
    }


_RESULTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "trace": _trace,
    "attribute": _attribute,
    "select": _select,
    "evaluate": _evaluate,
    "export": _export,
    "compare": _compare,
}
