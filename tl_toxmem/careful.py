"""Batches that are run with care: divided where memory does not do, and stopped where numbers are not finite.

What is run must give the same for a part of a batch, to rounding, and leave nothing behind if it is stopped. That all
is well costs one look at what comes out; only if it is not, the batch is run again, item by item, with a look at what
passes every hook point.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from tl_toxmem.errors import NotFinite, ToxmemError
from tl_toxmem.model.running import Runner
from tl_toxmem.notice import notice
from tl_toxmem.sites import Site, hook_name

if TYPE_CHECKING:
    from tl_toxmem.model import LensModel

T = TypeVar("T")
R = TypeVar("R")
_WATCHED: tuple[Site, ...] = (
    "resid_pre",
    "attn_out",
    "mlp_pre",
    "mlp_post",
    "mlp_out",
    "resid_post",
)
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class OutOfMemory(ToxmemError):
    """A single item does not fit."""


class NotFiniteHere(NotFinite):
    """It is known where."""


class Careful(Generic[T, R]):
    """Runs batches; once one did not fit, later ones are divided from the start."""

    def __init__(
        self,
        run: Callable[[Sequence[T]], R],
        *,
        what: str,
        model: Runner | None = None,
        name: Callable[[T], str] = repr,
        check: Callable[[R], bool] | None = None,
    ) -> None:
        """What is run.

        Args:
            run: on some items of a batch.
            what: to call its values in an error.
            model: that it runs, whose hook points are looked at where something is not finite.
            name: what to call an item.
            check: whether all is finite; default: every number in what `run` gives.
        """
        self._run, self._what, self._model, self._name = run, what, model, name
        self._check = check or is_finite
        self._most: int | None = None

    def __call__(self, batch: Sequence[T]) -> list[R]:
        """What comes of the parts of a batch, in their order; of the whole in one, if it fits.

        Raises:
            ToxmemError: one item alone does not fit, or a value is not finite.
        """
        found: list[R] = []
        start = 0
        while start < len(batch):
            part = batch[start : start + (self._most or len(batch))]
            result = self._tried(part)
            if result is None:
                self._most = (len(part) + 1) // 2
                notice(f"out of memory for {self._what} of {len(part)}: going on with {self._most}")
                continue
            found += result
            start += len(part)
        return found

    def _tried(self, part: Sequence[T]) -> list[R] | None:
        """What came of it; None where it did not fit, once nothing holds the memory any more."""
        try:
            result = self._run(part)
        except NotFiniteHere:
            raise
        except NotFinite:
            self._blame(part)
        except (RuntimeError, MemoryError, OutOfMemory) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise OutOfMemory(
                    f"{self._what} of {self._name(part[0])} alone do not fit into memory: use a machine or device with "
                    "more of it, or shorter texts"
                ) from None
        else:
            if not self._check(result):
                self._blame(part)
            return [result]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _blame(self, part: Sequence[T]) -> None:
        for i in range(len(part)):
            with _watched(self._model) as seen:
                try:
                    fine = self._check(self._run(part[i : i + 1]))
                except NotFinite:
                    fine = False
            if not fine:
                where = f"first at {seen[0]}" if seen else "though at every hook point they are"
                raise NotFiniteHere(
                    f"{self._what} of {self._name(part[i])} are not finite, {where}: the weights or the edit are "
                    "damaged, or overflow in this precision (try float32 or bfloat16)"
                )
        raise NotFiniteHere(
            f"{self._what} of {', '.join(map(self._name, part))} are not finite together, though each alone is"
        )


class Carefully(Generic[T, R]):
    """Work on whole batches for `engine.spread`, done with care where it is done: see `Careful`."""

    def __init__(
        self,
        work: Callable[["LensModel", Sequence[T]], R],
        *,
        what: str,
        name: Callable[["LensModel", T], str],
    ) -> None:
        """What is done.

        Args:
            work: on some items of a batch; it can be pickled.
            what: see `Careful`.
            name: what to call an item in an error.
        """
        self._work, self._what, self._name = work, what, name
        self._run: Careful[T, R] | None = None

    def __call__(self, model: "LensModel", batch: Sequence[T]) -> list[R]:
        """What comes of the parts of a batch; see `Careful`."""
        if self._run is None:
            self._run = Careful(
                partial(self._work, model),
                what=self._what,
                model=model,
                name=partial(self._name, model),
            )
        return self._run(batch)


@contextmanager
def _watched(model: Runner | None) -> Iterator[list[str]]:
    """The hook points where something is not finite, in the order in which they are passed."""
    seen: list[str] = []
    if model is None:
        yield seen
        return

    def look(site: Site, layer: int) -> Callable[[Tensor], None]:
        def hook(activation: Tensor) -> None:
            if not bool(activation.detach().isfinite().all()):
                seen.append(f"layer {layer}, {hook_name(site, layer)}")

        return hook

    points = [
        (site, layer, look(site, layer))
        for layer in range(model.n_layers)
        for site in _WATCHED
        if hook_name(site, layer) in model.host.points
    ]
    with model.hooks(points):
        yield seen


def is_finite(values: Any) -> bool:
    """Whether every number in tensors, arrays, mappings and sequences of them is."""
    if isinstance(values, Tensor):
        return bool(values.isfinite().all())
    if isinstance(values, np.ndarray | float):
        return bool(np.isfinite(values).all())
    if isinstance(values, Mapping):
        return all(map(is_finite, values.values()))
    if isinstance(values, list | tuple):
        return all(map(is_finite, values))
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not do, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)
