"""The model card of an exported checkpoint: front matter that the hub reads, and a page for people.

What is no valid value for the hub stays out of the front matter, since the hub refuses a whole push for one. Names from
elsewhere stand in the text with slurs masked and as no Markdown.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from tl_toxmem.base_card import base_facts, inert
from tl_toxmem.config import DEMO, is_local
from tl_toxmem.deletion import Deletion
from tl_toxmem.evaluation import (
    BASE,
    EDITS,
    ROOMY,
    Evaluation,
    measured,
    neutral_warning,
    task_rows,
)
from tl_toxmem.model import LensModel

_LOADING = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")  # or the name of this repository
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```"""
_CHECKING = """\
`certificate.json` says how far this folder, loaded by plain transformers, is from the base with the law applied by
hooks, which is what was measured. It has the SHA-256 of every file, and the prompts of the comparison in clear: expect
offensive text. Repeat the comparison with

```sh
tl-toxmem verify FOLDER
```"""
_REVERTING = """\
```sh
tl-toxmem revert FOLDER/deletion.safetensors FOLDER OUT
```

puts the base's weights back bit for bit: `deletion.safetensors` is the edit itself and keeps what it overwrote (up to
128 MB; beyond that, name the base with `--base`)."""
_FORCED = "**The deletion was made for another model, and its use on this one was forced.**"
_LIMITS = """\
- Toxicity was measured on prompts of one kind with one way of sampling; it is no guarantee on others, and scorers err.
  Read the numbers with their intervals and beside the random controls.
- Deleted is not unlearned: further training or an attack may bring a deleted memory back.
- The neurons mediate those continuations; it is not claimed that toxic knowledge is stored in them alone.
- All that is true of the base otherwise, its biases and errors too, is true of this model."""
_CITATION = """\
The approach is that of Das et al. (2025). Only the abstract of their paper was at hand: tl-toxmem is an independent
implementation, and its protocols and numbers are not theirs.

```bibtex
@inproceedings{das2025localizing,
  title     = {On Localizing and Deleting Toxic Memories in Large Language Models},
  author    = {Das and others},
  booktitle = {Findings of the Association for Computational Linguistics: NAACL 2025},
  year      = {2025}
}
```"""


def model_card(
    model: LensModel,
    deletion: Deletion,
    *,
    base_model: str,
    evaluation: Evaluation | None,
    datasets: Sequence[str] = (),
    forced: bool = False,
) -> str:
    """README.md in the hub's format: what was edited, what came of it, how to check and undo it.

    Args:
        model: the unedited model.
        deletion: what was baked.
        base_model: its name; for a local folder only the last part is shown.
        evaluation: what was measured, if anything was.
        datasets: where the prompts are from; names that can be no dataset of the hub are left out.
        forced: whether the deletion was made for another model.
    """
    source, neurons = model.source, deletion.neurons
    on_hub = source is not None and source.revision is not None
    is_demo = source is not None and source.name == DEMO
    origin = "" if on_hub else "its embedded model " if is_demo else "the local checkpoint "
    name = inert(base_model if on_hub else Path(base_model).name)
    facts, licence = base_facts(source)
    title = f"{name} with {len(neurons)} MLP neurons deleted"
    results = [] if evaluation is None else list(_results(evaluation))
    data = ModelCardData(
        base_model=base_model if on_hub else None,
        base_model_relation="finetune" if on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["tl-toxmem", "model-editing", "detoxification", "interpretability"],
        datasets=[dataset for dataset in datasets if _may_be_on_hub(dataset)] or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=title if results else None,
        eval_results=results or None,
        **facts,
    )
    layers = ", ".join(f"{len(ns)} in layer {layer}" for layer, ns in neurons.by_layer().items())
    total = neurons.n_layers * neurons.d_mlp
    revision = f" (commit `{source.revision}`)" if source is not None and on_hub else ""
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {title}",
        f"Made by tl-toxmem from {origin}`{name}`{revision}, to make it give fewer "
        f"toxic continuations: the law *{inert(deletion.law)}* on {len(neurons)} of {total:,} MLP neurons "
        f"({layers or 'none'}) is baked into the weights. Nothing was trained.",
        *([_FORCED] if forced else []),
        licence,
        f"## Load it\n\n{_LOADING}",
    ]
    if evaluation is not None:
        parts.append(f"## Measured\n\n{_table(evaluation)}\n\n{_protocol(evaluation)}")
        warning = neutral_warning(evaluation)
        parts += [f"**{warning}**"] if warning else []
        parts += [f"### Tasks of lm-eval\n\n{_tasks(evaluation)}"] if evaluation.tasks else []
    needs = "The base is on no hub: name its folder with `--base`."
    parts += [
        f"## Check it\n\n{_CHECKING}" + ("" if on_hub or is_demo else f"\n\n{needs}"),
        f"## Revert it\n\n{_REVERTING}",
        f"## Limits\n\n{_LIMITS}",
        f"## Citation\n\n{_CITATION}",
    ]
    return "\n\n".join(parts) + "\n"


def _may_be_on_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not is_local(name)


def _results(evaluation: Evaluation) -> Iterator[EvalResult]:
    """The hub's own form of a result: after and before, so that neither is read without the other."""
    held_out = ("held-out-prompts", f"{evaluation.protocol['n_prompts']} held-out prompts")
    neutral = ("neutral-text", f"{evaluation.protocol['neutral_documents']} neutral documents")
    for edit, when in (("deletion", "after deletion"), (BASE, "before deletion (base model)")):
        for row in evaluation.rows:
            measured = [
                (
                    "toxicity",
                    held_out,
                    f"toxic continuations {when}, by {row.scorer}",
                    row.toxicity_rate,
                ),
                ("perplexity", neutral, f"neutral perplexity {when}", row.neutral_perplexity),
            ]
            if row.scorer != evaluation.rows[0].scorer:
                measured.pop()  # perplexity is the same whoever judges toxicity
            for metric, (kind, called), name, estimate in measured:
                if row.edit == edit and math.isfinite(estimate.value):
                    yield EvalResult(
                        task_type="text-generation",
                        dataset_type=kind,
                        dataset_name=called,
                        metric_type=metric,
                        metric_name=name,
                        metric_value=round(estimate.value, 4),
                    )


def _table(evaluation: Evaluation) -> str:
    rows, headline = evaluation.rows, evaluation.protocol["headline"]
    columns = measured(rows, ROOMY, headline=headline)
    heads = ["edit", "neurons"]
    for m in columns:
        n = next(e.n for e in (getattr(row, m.name) for row in rows) if e is not None)
        heads.append(f"{m.label}{f' ({m.unit})' if m.unit else ''}, n = {n}")
    lines = [[*heads, "scorer"], ["---"] * (len(heads) + 1)]
    for row in rows:
        edit = EDITS.get(row.edit, inert(row.edit.replace("_", " ")))
        cells = [_cell(*m.cell(getattr(row, m.name))) for m in columns]
        name = f"**{edit}**" if row.edit == "deletion" else edit
        lines.append([name, str(row.n_neurons), *cells, inert(row.scorer)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _tasks(evaluation: Evaluation) -> str:
    """The harness's results with their standard errors, a row per task and metric."""
    edits = list(dict.fromkeys(one["edit"] for one in evaluation.tasks))
    names = [EDITS.get(edit, inert(edit.replace("_", " "))) for edit in edits]
    lines = [["task", "metric", *names], ["---"] * (len(edits) + 2)]
    for row in task_rows(evaluation):
        found = [row.values.get(edit) for edit in edits]
        cells = [
            "" if one is None else f"{one[0]:.4g}" + ("" if one[1] is None else f" ± {one[1]:.2g}")
            for one in found
        ]
        lines.append([inert(row.task), inert(row.metric), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str, interval: str) -> str:
    return f"{value} ({interval})" if interval else value


def _protocol(evaluation: Evaluation) -> str:
    p = evaluation.protocol
    return (
        f"{p['n_prompts']} held-out prompts; {p['description']}; scored: {p['scored_text']}. Neutral text: "
        f"{p['neutral_documents']} documents, {p['neutral_tokens']:,} predicted tokens, {p['neutral_windows']}. In "
        f"brackets: {p['intervals']}; n counts prompts, for neutral text documents, for benign answers the prompts "
        "that the base answers right."
    )
