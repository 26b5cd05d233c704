"""`plan_run`: what a run will put through the model, stage by stage, and what that takes here; nothing is written."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tl_toxmem.attribute.texts import Texts
from tl_toxmem.config import RunConfig
from tl_toxmem.model import LensModel
from tl_toxmem.pipeline.inputs import Inputs, load_model, read_inputs, texts_of
from tl_toxmem.pipeline.stages import no_decoy
from tl_toxmem.plan.attribute import count_attribution
from tl_toxmem.plan.evaluate import count_evaluation
from tl_toxmem.plan.export import count_export
from tl_toxmem.plan.passes import Lengths
from tl_toxmem.plan.select import count_selection
from tl_toxmem.plan.speed import Speeds, measure, sampled_lengths
from tl_toxmem.plan.timed import Clock
from tl_toxmem.plan.trace import count_trace
from tl_toxmem.plan.work import Shape, Work

_TEXTS = 32
_CONTROLS = 3
"""Random ones; the decoy comes with benign prompts."""
OTHERS = 0.15e9
"""Bytes that a stage takes besides: allocators keep what was freed, statistics, figures."""
LEFT_OUT = (
    "loading, reading and writing files, statistics, figures and the report; lm-eval's tasks; "
    "batches that are halved for want of memory"
)


@dataclass(frozen=True)
class StageCost:
    """What a stage takes.

    Attributes:
        stage: its name.
        forwards: batches that go up the layers.
        tokens: that do so.
        operations: floating point additions and multiplications.
        memory: bytes at the peak, the model included.
        hours: with one process on this machine.
        hours_of_workers: with the workers that were asked for, each as fast as this machine.
        expected: what of the counts is an expectation, and which; empty where all is determined.
    """

    stage: str
    forwards: float
    tokens: float
    operations: float
    memory: float
    hours: float
    hours_of_workers: float
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        model: its name.
        workers: how many.
        stages: in their order.
        seconds: that it took to find out.
    """

    model: str
    workers: int
    stages: tuple[StageCost, ...]
    seconds: float

    @property
    def hours(self) -> float:
        """Of all stages, one process."""
        return sum(one.hours for one in self.stages)

    @property
    def hours_of_workers(self) -> float:
        """Of all stages."""
        return sum(one.hours_of_workers for one in self.stages)

    @property
    def memory(self) -> float:
        """Bytes at the peak."""
        return max(one.memory for one in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        values |= {"hours": self.hours, "hours_of_workers": self.hours_of_workers}
        return {**values, "memory": self.memory, "left_out": LEFT_OUT, "estimated": True}


def plan_run(cfg: RunConfig, *, workers: int = 1, clock: Clock = time.perf_counter) -> Plan:
    """Count the stages of a run and time a few of their passes.

    Args:
        cfg: of the run; every mistake in it and in its files is found here as it would be by the run.
        workers: among which the stages over prompts are divided.
        clock: in seconds; `time.process_time` where others use the machine.

    Raises:
        ToxmemError: as `run`, before it writes anything.
    """
    start = time.perf_counter()
    inputs = read_inputs(cfg)
    wanted = ["trace", "attribute", "select", "evaluate", "export"]
    wanted += ["compare"] if cfg.with_comparison else []
    model = load_model(cfg, inputs, wanted)
    base = max(_resident(), Shape.of(model).parameters * float(model.dtype.itemsize))
    ends = sampled_lengths(model, inputs.prompts.find, cfg=cfg.evaluate)
    works = count_run(model, cfg, inputs, ends)
    texts = [prompt.start + prompt.target for prompt in inputs.prompts.first(_TEXTS)]
    speeds = measure(
        model,
        [one for work in works for one in work.passes],
        scorers=inputs.scorers,
        texts=texts,
        protocol=cfg.evaluate,
        clock=clock,
    )
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
    return [
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
