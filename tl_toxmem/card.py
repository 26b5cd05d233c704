"""The model card of an exported checkpoint."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from tl_toxmem.deletion import Deletion
from tl_toxmem.evaluation import Evaluation
from tl_toxmem.model import LensModel, Source
from tl_toxmem.stats import Estimate


def model_card(
    model: LensModel, deletion: Deletion, *, base_model: str, evaluation: Evaluation | None
) -> str:
    """README.md in the Hub's format: what was edited, what came of it, how to check and undo it."""
    data = ModelCardData(
        base_model=None if model.source is None or model.source.revision is None else base_model,
        license=_base_license(model.source),
        library_name="transformers",
        tags=["tl-toxmem", "model-editing", "detoxification", "interpretability"],
    )
    neurons = deletion.neurons
    origin = "" if model.source is not None and model.source.revision else "the local checkpoint "
    layers = ", ".join(f"{len(ns)} in layer {layer}" for layer, ns in neurons.by_layer().items())
    total = neurons.n_layers * neurons.d_mlp
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {Path(base_model).name} with {len(neurons)} MLP neurons deleted",
        f"Made by tl-toxmem from {origin}`{Path(base_model).name}`: the law *{deletion.law}* on {len(neurons)} of "
        f"{total:,} MLP neurons ({layers or 'none'}), baked into the weights. "
        "Load it as any model:",
        "```python\nfrom transformers import AutoModelForCausalLM\n"
        'model = AutoModelForCausalLM.from_pretrained("PATH_TO_THIS_FOLDER")\n```',
    ]
    if evaluation is not None:
        parts += ["## Measured", _table(evaluation), _protocol(evaluation)]
    parts += [
        "## Check it",
        "`certificate.json` says how far this folder is from the hooked model that was measured; "
        "`tl-toxmem verify FOLDER` repeats the comparison. `deletion.safetensors` is the edit itself.",
        "## Limits",
        "What deletion does to toxic continuations was measured on prompts of one kind; it is no guarantee on "
        "others, and scorers err. Read the numbers with their intervals and beside the random controls.",
    ]
    return "\n\n".join(parts) + "\n"


def _base_license(source: Source | None) -> str | None:
    """What the base model's own card says, if it has one."""
    if source is None or not (source.folder / "README.md").is_file():
        return None
    license_name = ModelCard.load(source.folder / "README.md").data.get("license")
    return license_name if isinstance(license_name, str) else None


def _table(evaluation: Evaluation) -> str:
    lines = [
        "| edit | neurons | toxic continuations | neutral perplexity | scorer |",
        "|---|---|---|---|---|",
    ]
    for row in evaluation.rows:
        lines.append(
            f"| {row.edit} | {row.n_neurons} | {_percent(row.toxicity_rate)} | "
            f"{row.neutral_perplexity.value:.3f} | {row.scorer} |"
        )
    return "\n".join(lines)


def _percent(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def _protocol(evaluation: Evaluation) -> str:
    p = evaluation.protocol
    return (
        f"{p['n_prompts']} held-out prompts, {p['n_continuations']} sampled continuations of at most "
        f"{p['max_new_tokens']} tokens each (temperature {p['temperature']}, top-p {p['top_p']}, seed {p['seed']}), "
        f"toxic from a score of {p['threshold']}; intervals: {p['intervals']}. `none` is the base model."
    )
