"""One process at a time makes a file that several processes need; the others wait for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lmcore.errors import DiskError
from lmcore.progress import Observer, TrainingRecord


@contextmanager
def held(folder: Path, key: str, observe: Observer) -> Iterator[None]:
    """Hold the lock on the files of the key in the folder.

    While another process holds it, `observe` is called each second and may raise to end the wait.
    Raises DiskError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make the folder {folder}: {error.strerror}") from None
    lock, waits = FileLock(folder / f"{key}.lock"), False
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            if not waits:
                print("waiting for another process, which trains the same model", file=sys.stderr)
            waits = True
            observe(TrainingRecord(), 1)
        except OSError as error:
            raise DiskError(f"cannot write in {folder}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
