"""Where work over prompts is done: in this process, or by workers that each hold the same model.

A stage says what is done with one item, a batch of prompts most often, and has its engine do it with all of them, in
order. The items are the same for every engine, so the results are: the same batches, with random numbers that depend on
the seed and the prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from tl_toxmem.errors import ToxmemError
from tl_toxmem.progress import Advance, meter

if TYPE_CHECKING:
    from tl_toxmem.model import LensModel

T = TypeVar("T")
R = TypeVar("R")
KINDS = ("local", "ray")

Work = Callable[["LensModel", T, Advance], R]
"""What is done with an item. It can be pickled, calls its third argument with the size of each piece that is done, and
gives what can be sent: plain values, arrays, tensors on the CPU."""


@runtime_checkable
class Engine(Protocol):
    """What does the work; see `LocalEngine` and `engines.ray.RayEngine`."""

    def map(
        self, model: "LensModel", work: Work[T, R], items: Sequence[T], advance: Advance
    ) -> Iterator[R]:
        """The results of all items in their order, each as soon as it and those before it are there.

        Args:
            model: with the edits that are in force.
            work: see `Work`.
            items: in order.
            advance: called with the sizes of the pieces that are done.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What a provenance says of it."""
        ...


class LocalEngine:
    """One item after the other, in this process."""

    def map(
        self, model: "LensModel", work: Work[T, R], items: Sequence[T], advance: Advance
    ) -> Iterator[R]:
        """See `Engine.map`."""
        for item in items:
            yield work(model, item, advance)

    def facts(self) -> dict[str, Any]:
        """See `Engine.facts`."""
        return {"engine": "local"}


LOCAL = LocalEngine()


@dataclass(frozen=True)
class EngineSettings:
    """Which engine, and how large. No result depends on it, so it is no part of a run's configuration.

    Attributes:
        kind: `local` or `ray`.
        num_workers: of Ray; None: as many as there are GPUs for, and without GPUs two, or one for each machine.
        gpus_per_worker: of Ray, such as 1, or 0.5 for two workers on a GPU.
    """

    kind: str = "local"
    num_workers: int | None = None
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ToxmemError(f"unknown engine {self.kind!r}: choose from {', '.join(KINDS)}")
        if self.kind == "local" and (self.num_workers is not None or self.gpus_per_worker):
            raise ToxmemError(
                "the local engine has no workers: give --engine ray, or leave them out"
            )
        if self.num_workers is not None and self.num_workers < 1:
            raise ToxmemError(f"the number of workers is {self.num_workers}: give 1 or more")
        if not 0 <= self.gpus_per_worker < float("inf"):
            raise ToxmemError(f"GPUs per worker are {self.gpus_per_worker}: give 0 or more")
        if self.kind == "ray":
            from tl_toxmem.engines.ray import import_ray

            import_ray()

    def on(self, model: "LensModel") -> AbstractContextManager[Engine]:
        """The engine, at work on a model until the block ends.

        Raises:
            ToxmemError: see `engines.ray.RayEngine`.
        """
        if self.kind == "local":
            return nullcontext(model.engine)
        from tl_toxmem.engines.ray import RayEngine

        return RayEngine(model, num_workers=self.num_workers, gpus_per_worker=self.gpus_per_worker)


def spread(
    model: "LensModel",
    work: Callable[["LensModel", T], R],
    items: Sequence[T],
    description: str,
) -> Iterator[R]:
    """The results of all items in their order, by the model's engine, while a bar counts the items.

    Args:
        model: with the edits that are in force.
        work: as `Work`, an item being a single piece.
        items: in order.
        description: of the bar.
    """
    with meter(description, len(items)) as advance:
        yield from model.engine.map(model, _Whole(work), items, advance)


@dataclass(frozen=True)
class _Whole(Generic[T, R]):
    """Work whose items are single pieces."""

    work: Callable[["LensModel", T], R]

    def __call__(self, model: "LensModel", item: T, advance: Advance) -> R:
        found = self.work(model, item)
        advance(1)
        return found
