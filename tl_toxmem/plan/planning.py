"""`plan_run`: what a run will put through the model, stage by stage, and what that takes here; nothing is written."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from tl_toxmem.attribute.texts import Texts
from tl_toxmem.certify import library_versions
from tl_toxmem.comparators import labelled_from
from tl_toxmem.config import EvaluateConfig, MineConfig, RunConfig
from tl_toxmem.mining.candidates import Candidates
from tl_toxmem.model import LensModel
from tl_toxmem.pipeline.inputs import (
    Inputs,
    load_model,
    parts_for_comparison,
    read_inputs,
    texts_of,
)
from tl_toxmem.pipeline.opening import check_folder
from tl_toxmem.pipeline.stages import no_decoy
from tl_toxmem.plan.attribute import count_attribution
from tl_toxmem.plan.compare import count_comparison
from tl_toxmem.plan.evaluate import count_evaluation
from tl_toxmem.plan.export import count_export
from tl_toxmem.plan.mine import count_mining
from tl_toxmem.plan.passes import Lengths
from tl_toxmem.plan.record import Plan, StageCost
from tl_toxmem.plan.select import count_selection
from tl_toxmem.plan.speed import Speeds, measure, sampled_lengths
from tl_toxmem.plan.timed import Clock
from tl_toxmem.plan.trace import count_trace
from tl_toxmem.plan.work import Shape, Work
from tl_toxmem.prompts import Prompt, PromptSet
from tl_toxmem.scorers import ToxicityScorer

_TEXTS = 32
_CONTROLS = 3
"""Random ones; the decoy comes with benign prompts."""
OTHERS = 0.15e9
"""Bytes that a stage takes besides: allocators keep what was freed, statistics, figures."""


def plan_run(cfg: RunConfig, *, workers: int = 1, clock: Clock = time.perf_counter) -> Plan:
    """Count the stages of a run and time a few of their passes.

    Args:
        cfg: of the run; every mistake in it, in its files and in its folder is found here as it would be by the run.
        workers: among which the stages over prompts are divided.
        clock: in seconds; `time.process_time` where others use the machine.

    Raises:
        ToxmemError: as `run`, before it writes anything.
    """
    start = time.perf_counter()
    inputs = read_inputs(cfg)
    check_folder(cfg, inputs.hashes, versions=library_versions())
    wanted = ["trace", "attribute", "select", "evaluate", "export"]
    wanted += ["compare"] if cfg.with_comparison else []
    model = load_model(cfg, inputs, wanted)
    ends = sampled_lengths(model, inputs.prompts.find, cfg=cfg.evaluate)
    works = count_run(model, cfg, inputs, ends)
    texts = [prompt.start + prompt.target for prompt in inputs.prompts.first(_TEXTS)]
    return _timed(
        model,
        works,
        scorers=inputs.scorers,
        texts=texts,
        protocol=cfg.evaluate,
        workers=workers,
        clock=clock,
        start=start,
    )


def plan_mining(
    model: LensModel,
    candidates: Candidates,
    *,
    scorer: ToxicityScorer,
    cfg: MineConfig,
    workers: int = 1,
    clock: Clock = time.perf_counter,
) -> Plan:
    """The same of a mining.

    Args:
        model: any host.
        candidates: what would be mined.
        scorer: the judge.
        cfg: of the mining.
        workers: among which candidates are divided.
        clock: see `plan_run`.

    Raises:
        ToxmemError: as `mine`, before it writes anything.
    """
    start = time.perf_counter()
    some = [one.text for one in candidates.items[:_TEXTS] if one.text.strip()]
    asked = PromptSet.of(Prompt(prompt=text.strip(), target=".") for text in dict.fromkeys(some))
    work = count_mining(
        model, candidates, cfg=cfg, ends=sampled_lengths(model, asked, cfg=cfg.sampling())
    )
    return _timed(
        model,
        [work],
        scorers=[scorer],
        texts=some,
        protocol=cfg.sampling(),
        workers=workers,
        clock=clock,
        start=start,
    )


def _timed(
    model: LensModel,
    works: Sequence[Work],
    *,
    scorers: Sequence[ToxicityScorer],
    texts: Sequence[str],
    protocol: EvaluateConfig,
    workers: int,
    clock: Clock,
    start: float,
) -> Plan:
    """Counts with what they take here."""
    base = max(_resident(), Shape.of(model).parameters * float(model.dtype.itemsize))
    passes = [one for work in works for one in work.passes]
    speeds = measure(model, passes, scorers=scorers, texts=texts, protocol=protocol, clock=clock)
    stages = costs(works, speeds, workers=workers, base=base)
    return Plan(model.name, workers, stages, time.perf_counter() - start)


def count_run(model: LensModel, cfg: RunConfig, inputs: Inputs, ends: Lengths) -> list[Work]:
    """What each stage puts through the model.

    Args:
        model: only its shape and its tokenizer are asked.
        cfg: of the run.
        inputs: what it reads.
        ends: how long continuations are.
    """
    find, report = inputs.prompts.find, inputs.prompts.report
    decoy = None if no_decoy(cfg, inputs) else inputs.benign_find
    texts: Texts = texts_of(inputs)
    works = [
        count_trace(model, find, inputs.benign_find, cfg=cfg.trace),
        count_attribution(model, find, cfg=cfg.attribute, texts=texts),
        count_selection(
            model, find, cfg=cfg, choosing=inputs.choosing, decoy=decoy, texts=texts, ends=ends
        ),
        count_evaluation(
            model,
            report,
            n_laws=1 + _CONTROLS + (decoy is not None),
            neutral=inputs.reporting,
            benign=inputs.benign,
            cfg=cfg.evaluate,
            ends=ends,
        ),
        count_export(model, [prompt.prompt for prompt in report], cfg=cfg.export),
    ]
    if cfg.with_comparison:
        labelled = texts.labelled
        if labelled is None and inputs.benign_find is not None:
            labelled = labelled_from(find, inputs.benign_find)
        works.append(
            count_comparison(
                model,
                inputs.prompts,
                cfg=cfg,
                texts=replace(texts, labelled=labelled),
                there=parts_for_comparison(cfg, inputs),
                reporting=inputs.reporting,
                benign=inputs.benign,
                ends=ends,
            )
        )
    return works


def costs(
    works: Sequence[Work], speeds: Speeds, *, workers: int, base: float
) -> tuple[StageCost, ...]:
    """From what is run to what it takes.

    Args:
        works: of the stages.
        speeds: of this machine.
        workers: how many.
        base: bytes of the process with its model.
    """
    found = []
    for work in works:
        hours = speeds.seconds(work.passes, texts=work.texts) / 3600
        found.append(
            StageCost(
                stage=work.stage,
                forwards=work.forwards,
                tokens=work.tokens(speeds.shape),
                operations=work.operations(speeds.shape),
                memory=base + work.memory + OTHERS,
                hours=hours,
                hours_of_workers=hours / max(1, min(workers, work.units)),
                expected=work.expected,
            )
        )
    return tuple(found)


def _resident() -> float:
    """The most bytes that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
