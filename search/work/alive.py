"""Which workers are alive. Each worker holds a file lock until its process ends, however that ends.

Workers that share the cache folder see at once that another has died: its file is there, and nobody
holds its lock. A worker that died elsewhere is noticed when its lease runs out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from lmcore.errors import UserError
from search.store.slots import Slots

WORKERS = "workers"  # the folder of their locks, in the cache folder


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
        _path(folder, worker).unlink(missing_ok=True)  # a file that stays says that the worker died
    finally:
        lock.release()


def is_dead(folder: Path, worker: str) -> bool:
    """Whether the worker began with this folder and has died since."""
    path = _path(folder, worker)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return True
    except OSError:  # a Timeout, which is one, or a lock that cannot be tried: its lease decides
        return False


def forget(folder: Path, worker: str) -> None:
    """Delete the lock file of a dead worker, once its slots were released."""
    with suppress(OSError):
        _path(folder, worker).unlink()


def free_the_dead(folder: Path, slots: Slots) -> None:
    """Release the slots of workers that are known to be dead, before their leases run out."""
    for worker in {one.worker for one in slots.held()}:
        if is_dead(folder, worker):
            slots.free(worker)
            forget(folder, worker)


def _path(folder: Path, worker: str) -> Path:
    return folder / f"{worker.replace(':', '-')}.lock"
