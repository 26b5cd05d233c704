"""What a plan says: each stage's counts, and what they take."""

from dataclasses import asdict, dataclass
from typing import Any

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
