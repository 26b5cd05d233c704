"""Options of every command that takes a run's configuration: its stages, and the plan of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[Path | None, typer.Argument(help="A TOML file, or a run folder to go on with.")]
Model = Annotated[str | None, typer.Option(help="Local folder, hub id (gpt2-xl), or 'demo'.")]
Prompts = Annotated[
    Path | None, typer.Option(help="Prompts as JSONL: prompt, target, subject, ...")
]
Benign = Annotated[
    Path | None, typer.Option(help="Benign prompts with their right continuations, JSONL.")
]
Labelled = Annotated[
    Path | None,
    typer.Option(
        help="Toxic and other texts, JSONL: for attribution by experts or probe, and for aura, value_vectors "
        "and probe_shift in compare. May be given later."
    ),
]
Neutral = Annotated[Path | None, typer.Option(help="Neutral text, one document a line.")]
Scorers = Annotated[
    list[str] | None,
    typer.Option(
        help="'profanity', 'detoxify:NAME', 'detoxify:FILE.ckpt' or 'hf:NAME_OR_FOLDER#LABEL'. Repeatable: "
        "the first decides, the others report."
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Open a judge's pickled weights of unknown hash; they may run any code.",
    ),
]
Host = Annotated[str | None, typer.Option(help="auto, hooked or bridge.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float64, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda:0, ...")]
MaxMemory = Annotated[
    float | None, typer.Option(metavar="GB", help="Gigabytes a trace may take beside the model.")
]
Out = Annotated[
    Path | None, typer.Option(help="The run folder; default: runs/ and the model's name.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of every stage.")]
MaxPerplexityIncrease = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="What a deletion may cost on neutral text, such as 0.02."),
]
Search = Annotated[
    int | None,
    typer.Option(
        metavar="TRIALS", help="Seek neurons, law and strength for that cost, in so many trials."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any other setting, such as --set trace.window=5; =default for its default. Repeatable.",
    ),
]


def within(
    *, max_memory: float | None, max_perplexity_increase: float | None, search: int | None
) -> list[str]:
    """The settings that have an option of their own, as `--set` has them."""
    values = {
        "trace.max_memory": max_memory,
        "select.max_perplexity_increase": max_perplexity_increase,
        "search.trials": search,
    }
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given; an empty list and a switch that is off were not."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value != []  # a seed of 0 is given
    }
