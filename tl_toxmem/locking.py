"""One writer at a time: the operating system's lock on a file in the folder, which ends with its process."""

import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from tl_toxmem.errors import ToxmemError

LOCK = "writer.lock"
"""Says who writes; what a killed process left of it locks nothing, and the next writer takes it over."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there; what was made for nothing is gone in the end.

    Raises:
        ToxmemError: another process holds it, saying which; nothing is written then.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    try:
        descriptor = _lock(file)
        try:
            _say_who(descriptor, file)
            yield
        finally:
            # While it is still locked: whoever opened it before sees that it is gone.
            file.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        with suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


def check_out(folder: Path) -> None:
    """Refuse, before anything is written, a place where no folder can be made or written to.

    Raises:
        ToxmemError: a file or a link that leads nowhere, there or on the way, or no permission.
    """
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    problem = None
    if not nearest.exists():
        problem = "is a link that leads nowhere"
    elif not nearest.is_dir():
        problem = "is a file"
    elif not os.access(nearest, os.W_OK):
        problem = "cannot be written to"
    if problem:
        raise ToxmemError(f"{nearest} {problem}: give another --out")


def _lock(file: Path) -> int:
    """A descriptor that has the lock."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise ToxmemError(
                f"{file.parent} is in use by {holder}: wait until that ends, or give another --out"
            ) from None
        except OSError as error:  # a file system without locks
            os.close(descriptor)
            error.filename = str(file)
            raise
        with suppress(FileNotFoundError):  # its last holder may just have removed it
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                return descriptor
        os.close(descriptor)


def _say_who(descriptor: int, file: Path) -> None:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    who = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command,
    }
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(who).encode(), 0)
    except OSError as error:
        error.filename = str(file)
        raise


def _holder(descriptor: int) -> str:
    """Who has the lock, in words."""
    try:
        who = json.loads(os.pread(descriptor, 2**16, 0))
        return f"process {who['pid']} on {who['host']} since {who['since']} ({who['command']})"
    except (ValueError, KeyError, TypeError):  # it has not said so yet
        return "another process"
