"""Work spread over the actors of a Ray, on this machine or on the cluster at RAY_ADDRESS.

Each actor holds the model, loaded from the checkpoint's files as here, so that on one machine all of them map the same
pages of memory. Ray starts actors anew that die and does their work again; which items come next to whom is up to
Ray's own `ActorPool`.
"""

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from tl_toxmem.engine import LOCAL, Engine, Work
from tl_toxmem.engines.worker import Worker, like
from tl_toxmem.errors import ToxmemError, brief
from tl_toxmem.notice import notice
from tl_toxmem.progress import Advance

if TYPE_CHECKING:
    from tl_toxmem.model import LensModel

T = TypeVar("T")
R = TypeVar("R")
_RESTARTS, _RETRIES = 100, 5
"""Of an actor, over the days that a run may take, and of an item, which may be what kills its actors."""
_WAITING = 2
"""Items that an actor has, so that it need not wait for the next."""
_OBJECTS = 512 * 2**20
"""Bytes for what goes to and fro on a Ray of our own: batches of tokens and scores, no weights."""
_WITH_TOKENS = (2, 52)
"""The first version whose Ray asks for a token."""
_PASSED_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def import_ray() -> Any:
    """The library, told to keep what it does to itself.

    Raises:
        ToxmemError: it is not installed, or is of a version that anybody on this machine could give work to.
    """
    own = "ray" not in sys.modules and not os.environ.get("RAY_ADDRESS")
    if own and "RAY_AUTH_MODE" not in os.environ:
        # A Ray of our own obeys only who knows the token, which is in no file and told to its own processes.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray lowers its workers' priority, and beside anything else they would then stand still.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ToxmemError(
            "the engine 'ray' needs Ray: pip install 'tl-toxmem[ray]', or give --engine local"
        ) from None
    if own:
        check_asks_for_token(ray.__version__)
    return ray


def check_asks_for_token(version: str) -> None:
    """Refuse a Ray that anybody could give work to.

    Raises:
        ToxmemError: it is too old.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < _WITH_TOKENS:
        raise ToxmemError(
            f"Ray {version} takes work from anybody who reaches its ports: install ray>=2.52, or give --engine local"
        )


class RayEngine:
    """Workers for one model, from `with RayEngine(model):` to the end of the block; see `engine.Engine`."""

    def __init__(
        self,
        model: "LensModel",
        *,
        num_workers: int | None = None,
        gpus_per_worker: float = 0.0,
    ) -> None:
        """Check what can be known before anything is started.

        Args:
            model: loaded from a checkpoint, which every machine of the cluster can read at the same place.
            num_workers: None: as many as there are GPUs for, and without GPUs two, or one for each machine.
            gpus_per_worker: such as 1, or 0.5 for two workers on a GPU; the model's device is then `cuda`.

        Raises:
            ToxmemError: Ray is not installed, a model that is in no file, or GPUs and device that do not go together.
        """
        self._ray = import_ray()
        self._model, self._like = model, like(model)
        self._wanted, self._gpus = num_workers, gpus_per_worker
        on_gpu = model.device.type == "cuda"
        if on_gpu != (gpus_per_worker > 0):
            have = f"the model is on {model.device} and GPUs per worker are {gpus_per_worker:g}"
            raise ToxmemError(
                f"{have}: give --device cuda with --gpus-per-worker 1, or neither of them"
            )
        self._actors: list[Any] = []
        self.pids: tuple[int, ...] = ()
        """The processes of the workers that were started first, each on its own machine."""
        self._cpus = 1
        self.jobs = 0
        """Jobs that the workers were given."""
        self._before: Engine = LOCAL
        self._own_ray = False

    def __enter__(self) -> "RayEngine":
        """Start the workers; the model's work is then spread over them.

        Raises:
            ToxmemError: no Ray at RAY_ADDRESS, no room for the workers, or one that cannot load the same model.
        """
        self._own_ray = self._connect()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        self._before, self._model.engine = self._model.engine, self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the workers, and a Ray that was started for them."""
        self._model.engine = self._before
        self._stop()

    def map(
        self, model: "LensModel", work: Work[T, R], items: Sequence[T], advance: Advance
    ) -> Iterator[R]:
        """See `engine.Engine.map`.

        A single item is done here. So is what runs under hooks that are attached here alone, such as gates that are
        being learned: the workers know edits, and no other hooks.
        """
        if len(items) < 2 or not model.only_edited:
            yield from LOCAL.map(model, work, items, advance)
            return
        from ray.util import ActorPool

        # In a list it reaches a worker as a reference, so that each unpickles it once and not for every item.
        job = [self._ray.put((work, model.edits))]
        self.jobs = number = self.jobs + 1
        pool = ActorPool(self._actors * _WAITING)
        for place, item in enumerate(items):
            pool.submit(lambda actor, own: actor.do.remote(number, job, *own), (place, item))
        waiting: dict[int, R] = {}
        for place in range(len(items)):
            while place not in waiting:
                own, result, done, said = self._got(pool)
                waiting[own] = result
                advance(done)
                for words in said:
                    notice(f"{words} [a worker of Ray]")
            yield waiting.pop(place)

    def facts(self) -> dict[str, Any]:
        """See `engine.Engine.facts`."""
        return {
            "engine": "ray",
            "ray": self._ray.__version__,
            "workers": len(self._actors),
            "cpus_per_worker": self._cpus,
            "gpus_per_worker": self._gpus,
        }

    def _connect(self) -> bool:
        """Whether a Ray was started for this."""
        ray, address = self._ray, os.environ.get("RAY_ADDRESS")
        if ray.is_initialized():
            return False
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if not address:
            quiet |= {"include_dashboard": False, "object_store_memory": _OBJECTS}
        try:
            ray.init(address=address or "local", **quiet)
        except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ToxmemError(
                f"no Ray at RAY_ADDRESS = {address} ({reason}): start it there, or unset RAY_ADDRESS"
            ) from None
        return True

    def _start(self) -> None:
        ray = self._ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        n = self._wanted or self._usual(nodes)
        self._cpus = self._cpus_for(n, nodes)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
        actor = ray.remote(Worker).options(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_restarts=_RESTARTS,
            max_task_retries=_RETRIES,
        )
        self._actors = [actor.remote(self._like, self._cpus, environment) for _ in range(n)]
        with self._errors():
            self.pids = tuple(ray.get([one.ready.remote() for one in self._actors]))

    def _usual(self, nodes: Sequence[dict[str, float]]) -> int:
        if self._gpus:
            return max(1, sum(int(node.get("GPU", 0) / self._gpus + 1e-9) for node in nodes))
        return len(nodes) if len(nodes) > 1 else 2

    def _cpus_for(self, n: int, nodes: Sequence[dict[str, float]]) -> int:
        """As many CPUs for each of `n` workers as there are."""

        def room(cpus: int) -> int:
            places = 0
            for node in nodes:
                own = int(node.get("CPU", 0)) // cpus
                if self._gpus:
                    own = min(own, int(node.get("GPU", 0) / self._gpus + 1e-9))
                places += own
            return places

        most = max(1, int(sum(node.get("CPU", 0) for node in nodes)) // n)
        found = next((cpus for cpus in range(most, 0, -1) if room(cpus) >= n), None)
        if found is None:
            each = f"{self._gpus:g} GPUs and a CPU" if self._gpus else "a CPU"
            raise ToxmemError(
                f"this Ray has room for {room(1)} workers of {each} each, not {n}: give --num-workers {max(1, room(1))}"
            )
        return found

    def _got(self, pool: Any) -> tuple[int, Any, float, list[str]]:
        found: tuple[int, Any, float, list[str]]
        with self._errors():
            found = pool.get_next_unordered()
        return found

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """A worker's own errors as they are, and the end of one in a line."""
        known = self._ray.exceptions
        try:
            yield
        except known.RayTaskError as error:
            if isinstance(error.cause, ToxmemError):
                raise error.cause from None
            raise
        except known.RayActorError as error:
            reason = brief(error, most=None)
            raise ToxmemError(
                f"a worker of Ray died, and so did {_RETRIES} that did its work again ({reason}); if memory was short, "
                "give fewer workers"
            ) from None
        except known.RayError as error:
            # Its store or its disk is full, or its monitor found memory short.
            reason = f"{type(error).__name__}: {brief(error, most=None)}"
            raise ToxmemError(
                f"Ray gave up ({reason}): give fewer workers, or --engine local"
            ) from None

    def _stop(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._own_ray:
            self._ray.shutdown()
