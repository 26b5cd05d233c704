"""A worker: a process that holds the driver's model and does its work on items, one after the other.

It knows nothing of what started it. The model is loaded when it is first needed, so also in a worker that takes a dead
one's place, and is refused if it is not the driver's.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tl_toxmem.errors import ToxmemError
from tl_toxmem.notice import hearing

if TYPE_CHECKING:
    from tl_toxmem.model import LensModel

_PROBE_TOKENS = 8
_PROBED = 512


@dataclass(frozen=True)
class Like:
    """The driver's model, so that a worker can load it and know it.

    Attributes:
        name: folder, hub id or `demo`.
        revision: of a hub id.
        host: hooked or bridge.
        dtype: its name.
        device: cpu, cuda or mps; a worker sees only its own GPUs.
        prepend_bos: see `LensModel`.
        fingerprint: of the checkpoint, see `model.load.fingerprint`.
        versions: of the libraries.
        logits: a few that the model gives.
    """

    name: str
    revision: str | None
    host: str
    dtype: str
    device: str
    prepend_bos: bool
    fingerprint: str
    versions: dict[str, str]
    logits: tuple[float, ...]


def like(model: "LensModel") -> Like:
    """What workers have to know of a model.

    Raises:
        ToxmemError: it was not loaded from a checkpoint as it is there, or hooks are attached.
    """
    from tl_toxmem.certify import library_versions
    from tl_toxmem.config import DEMO
    from tl_toxmem.model.load import fingerprint
    from tl_toxmem.precision import precision_name

    source = model.source
    if source is None or not model.own_tokenizer:
        raise ToxmemError(
            f"workers load the model from its checkpoint, and {model.name} is an object in memory, or has a tokenizer "
            "that was given: use LensModel.from_pretrained(FOLDER), or the local engine"
        )
    if model.edits or not model.only_edited:
        raise ToxmemError(
            "hooks are attached to the model: start the workers before, not under them"
        )
    local = source.revision is None and source.name != DEMO
    return Like(
        name=str(source.folder.absolute()) if local else source.name,
        revision=source.revision,
        host=model.host.kind,
        dtype=precision_name(model.dtype),
        device=model.device.type,
        prepend_bos=model.prepend_bos,
        fingerprint=fingerprint(source),
        versions=library_versions(),
        logits=_logits(model),
    )


class Worker:
    """Does work on items with the driver's model."""

    def __init__(self, like: Like, threads: int, environment: Mapping[str, str]) -> None:
        """Note what the model will be.

        Args:
            like: the driver's model.
            threads: to compute with.
            environment: for the libraries that are imported with the model.
        """
        os.environ.update(environment)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._like, self._threads = like, threads
        self._model: LensModel | None = None
        self._job: tuple[int, Any, Any] | None = None

    def ready(self) -> int:
        """The id of this process, once the model is there.

        Raises:
            ToxmemError: it is not there, or is another than the driver's.
        """
        self._loaded()
        return os.getpid()

    def do(
        self, number: int, job: list[Any], place: int, item: Any
    ) -> tuple[int, Any, float, list[str]]:
        """Do a job's work on the item at a place: the place, the result, the sizes of all pieces, what is to be said.

        Args:
            number: of the job.
            job: a reference to its work and to the edits that are in force, which is looked up once.
            place: of the item among those of the job.
            item: what the work is done on.
        """
        model = self._loaded()
        if self._job is None or self._job[0] != number:
            import ray

            self._job = None  # what it keeps goes before there is another
            self._job = number, *ray.get(job[0])
        _, work, edits = self._job
        sizes: list[float] = []
        with ExitStack() as stack:
            said = stack.enter_context(hearing())
            for edit in edits:
                stack.enter_context(edit.applied(model))
            result = work(model, item, sizes.append)
        return place, result, sum(sizes), said

    def _loaded(self) -> "LensModel":
        if self._model is None:
            import torch

            torch.set_num_threads(self._threads)
            self._model = _load(self._like)
        return self._model


def _load(wanted: Like) -> "LensModel":
    from transformers.utils import logging

    from tl_toxmem.certify import library_versions
    from tl_toxmem.model import LensModel
    from tl_toxmem.model.load import fingerprint
    from tl_toxmem.precision import ROUNDING

    quiet: Any = logging
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()
    own = library_versions()
    other = [name for name, version in wanted.versions.items() if own[name] != version]
    if other:
        raise ToxmemError(
            f"a worker has another version of {', '.join(other)} than the driver: install the same on every machine"
        )
    model = LensModel.from_pretrained(
        wanted.name,
        revision=wanted.revision,
        host=wanted.host,
        dtype=wanted.dtype,
        device=wanted.device,
        prepend_bos=wanted.prepend_bos,
    )
    assert model.source is not None
    if fingerprint(model.source) != wanted.fingerprint:
        raise ToxmemError(
            f"what a worker finds at {wanted.name} is not the driver's model (another SHA-256): put the same files on "
            "every machine, or in a folder that all of them share"
        )
    gap = max(abs(a - b) for a, b in zip(_logits(model), wanted.logits, strict=True))
    if not gap <= ROUNDING[model.dtype] * max(map(abs, wanted.logits)):
        raise ToxmemError(
            f"the driver's model gives other logits than its checkpoint (by {gap:.2g}): it was changed in memory, or a "
            "worker computes wrongly; use the local engine, or save the model first"
        )
    return model


def _logits(model: "LensModel") -> tuple[float, ...]:
    """Some after a few tokens, evenly from the vocabulary."""
    n = min(_PROBE_TOKENS, model.n_ctx)
    tokens, mask = model.pad([[(7919 * i + 13) % model.d_vocab for i in range(n)]])
    logits = model.forward(tokens, mask, keep=1)[0, -1].double().cpu()
    return tuple(logits[:: max(1, len(logits) // _PROBED)].tolist())
