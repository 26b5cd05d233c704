"""Which settings each stage rests on, as hashes: what was made under other settings is known by them, and made again.

A stage's hash is of its own settings and of the hash of the stage before it. So a change of one setting changes the
hashes of the stage that reads it and of all that follow, and of no other.
"""

import hashlib
import json
from typing import Any

from tl_toxmem.config.attribute import BY_TEXTS
from tl_toxmem.config.run import RunConfig
from tl_toxmem.config.select import BY_SIZE

FOLDER = ("model", "host", "dtype", "device", "prepend_bos", "seed", "split")
"""What a run folder belongs to: with another of these it is another run."""
OWN: dict[str, tuple[str, ...]] = {
    "prompts": FOLDER,
    "trace": ("trace",),
    "attribute": ("attribute",),
    "select": ("select", "delete", "search"),  # what is chosen is chosen under the law
    "delete": (),
    "evaluate": ("evaluate", "scorer"),
    "export": ("export",),
    "compare": ("compare",),
}
"""The settings of each stage."""
_BEFORE: dict[str, str] = {
    "trace": "prompts",
    "attribute": "trace",
    "select": "attribute",
    "delete": "select",
    "evaluate": "delete",
    "export": "evaluate",
    "compare": "evaluate",
}
_SAMPLING = (
    "max_new_tokens",
    "max_prompt_tokens",
    "greedy",
    "temperature",
    "top_p",
    "top_k",
    "threshold",
    "batch_size",
)
"""Of the evaluation, what `choose_k` and the search sample and judge by as well."""


def stage_hash(cfg: RunConfig, stage: str, *, labelled: str | None = None) -> str:
    """SHA-256 of all settings that a stage's result depends on, its own and those of the stages before it.

    Args:
        cfg: the run.
        stage: which.
        labelled: SHA-256 of the labelled text, the one input that a folder may be given later; None without one.
    """
    before = stage_hash(cfg, _BEFORE[stage], labelled=labelled) if stage in _BEFORE else ""
    text = json.dumps([before, _settings(cfg, stage, labelled)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _settings(cfg: RunConfig, stage: str, labelled: str | None) -> dict[str, Any]:
    values = cfg.model_dump(mode="json")
    found = {name: values[name] for name in OWN[stage]}
    reads_texts = stage == "attribute" and cfg.attribute.method in BY_TEXTS
    if labelled is not None and (reads_texts or stage == "compare"):
        found["labelled"] = labelled
    if stage == "select" and _judged(cfg):
        sampling = [values["evaluate"][name] for name in _SAMPLING]
        found["judged"] = [cfg.scorers[0], *sampling]
    return found


def _judged(cfg: RunConfig) -> bool:
    """Whether continuations are sampled and judged to select."""
    by_judge = cfg.select.k is None and cfg.select.method in BY_SIZE and cfg.delete.law != "gates"
    return by_judge or cfg.search.trials > 0
