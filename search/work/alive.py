"""Which workers live: each holds a lock of its own until its process ends, however that ends.

A worker that died on this machine, or anywhere that shares the cache folder, is known at once; one
that died elsewhere when its lease runs out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from lmcore.errors import UserError

WORKERS = "workers"  # the folder of their locks, in the cache
LOOK_SECONDS = 0.2  # between looks for the parent process


@contextmanager
def alive(folder: Path, worker: str) -> Iterator[None]:
    """Hold the worker's lock. Raises UserError where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_path(folder, worker))
        lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}") from None
    try:
        yield
        _path(folder, worker).unlink(missing_ok=True)  # else it says that somebody died here
    finally:
        lock.release()


def is_dead(folder: Path, worker: str) -> bool:
    """Whether the worker began with this folder and lives no more."""
    path = _path(folder, worker)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return True
    except OSError:  # a Timeout is one; what cannot be asked is left to its lease
        return False


def forget(folder: Path, worker: str) -> None:
    """Nobody asks for the worker any more: what it held is free."""
    with suppress(OSError):
        _path(folder, worker).unlink()


def _path(folder: Path, worker: str) -> Path:
    return folder / f"{worker.replace(':', '-')}.lock"
