"""The command that says what a run will take: plan."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tl_toxmem.cli.console import prepare
from tl_toxmem.cli.mining import gather_mining, load_for_mining
from tl_toxmem.cli.options import (
    Benign,
    Config,
    Device,
    Dtype,
    Host,
    Labelled,
    MaxMemory,
    MaxPerplexityIncrease,
    Model,
    Neutral,
    Out,
    Prompts,
    Scorers,
    Search,
    Seed,
    Settings,
    TrustPickle,
    given,
    within,
)
from tl_toxmem.cli.output import AsJson, Quiet, speaking
from tl_toxmem.cli.stages import gather
from tl_toxmem.cli.words import print_table, say

if TYPE_CHECKING:
    from rich.console import Console

    from tl_toxmem.config import RunConfig
    from tl_toxmem.plan import Plan


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("plan")(plan)


def plan(
    config: Config = None,
    model: Model = None,
    prompts: Prompts = None,
    benign: Benign = None,
    labelled: Labelled = None,
    neutral: Neutral = None,
    out: Out = None,
    scorer: Scorers = None,
    trust_pickle: TrustPickle = False,
    host: Host = None,
    dtype: Dtype = None,
    device: Device = None,
    seed: Seed = None,
    max_memory: MaxMemory = None,
    max_perplexity_increase: MaxPerplexityIncrease = None,
    search: Search = None,
    settings: Settings = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Plan a mining of these in place of a run: as of mine, whose settings --set then has."
        ),
    ] = None,
    column: Annotated[str, typer.Option(help="Column with the candidates.")] = "prompt",
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            "--num-workers",
            min=1,
            help="Also for so many workers, each as fast as this machine.",
        ),
    ] = 1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """What a run will take, stage by stage, before anything runs: passes, tokens, operations, memory, hours."""
    options = given(
        model=model,
        prompts=prompts,
        benign=benign,
        labelled=labelled,
        neutral=neutral,
        out=out,
        scorer=scorer,
        trust_pickle=trust_pickle,
        host=host,
        dtype=dtype,
        device=device,
        seed=seed,
    )
    with speaking(quiet=quiet, as_json=as_json) as output:
        more = within(
            max_memory=max_memory,
            max_perplexity_increase=max_perplexity_increase,
            search=search,
        )
        if candidates is None:
            cfg = gather(config, options, [*(settings or []), *more])
            from tl_toxmem.scorers import scorer_needs_network

            prepare(network=any(map(scorer_needs_network, cfg.scorers)), model=cfg.model)
            from tl_toxmem.plan import plan_run

            found = plan_run(cfg, workers=workers)
        else:
            like = gather(config, options, more)
            found = _mining(like, candidates, column, settings or [], workers)
        output.show(lambda console: show(console, found))
        output.give(found.to_json)


def _mining(
    like: "RunConfig", candidates: str, column: str, settings: list[str], workers: int
) -> "Plan":
    """What mining these candidates takes, on the model and with the judge of such a run."""
    cfg = gather_mining({}, settings)
    model, read, judge = load_for_mining(like, candidates, column)
    from tl_toxmem.plan import plan_mining

    return plan_mining(model, read, scorer=judge, cfg=cfg, workers=workers)


def show(console: "Console", found: "Plan") -> None:
    """Print it as a table, and what is to be known of it."""
    from tl_toxmem.plan import LEFT_OUT

    heads = ["stage", "passes", "tokens", "operations", "peak memory", "one process"]
    if found.workers > 1:
        heads.append(f"{found.workers} workers")
    print_table(console, heads, _rows(found), left=("stage",))
    say(
        console,
        f"All of it is estimated: counted from the settings and timed in {found.seconds:.0f} s on this machine. "
        f"Left out: {LEFT_OUT}.",
    )
    for stage in found.stages:
        if stage.expected:
            say(console, f"{stage.stage}: expected, not determined: {'; '.join(stage.expected)}.")


def _rows(found: "Plan") -> Iterator[tuple[str, ...]]:
    """Of every stage, and of all together."""
    times = 2 if found.workers > 1 else 1
    for one in found.stages:
        numbers = (f"{one.forwards:,.0f}", f"{one.tokens:,.0f}", f"{one.operations:.2e}")
        hours = map(duration, (one.hours, one.hours_of_workers)[:times])
        yield one.stage, *numbers, f"{one.memory / 1e9:.2f} GB", *hours
    hours = map(duration, (found.hours, found.hours_of_workers)[:times])
    yield "all", "", "", "", f"{found.memory / 1e9:.2f} GB", *hours


def duration(hours: float) -> str:
    """Hours, with minutes or seconds where they are few."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"
