"""Trained weights that several recipes start from or go on from: a cache, shared by processes.

Files are written at once or not at all, a damaged one is as good as none, and any of them may be
deleted at any time: it is made again, with the same result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lmcore.errors import DiskError
from lmcore.progress import Observer, TrainingRecord

SUFFIXES = (".lmb", ".safetensors")
PART_SECONDS = 3600  # no file takes longer to write


@dataclass(frozen=True)
class Stages:
    """A folder of stages; of more than `max_bytes` the least recently used go."""

    folder: Path
    max_bytes: int

    def path(self, name: str) -> Path:
        """Where the stage of that name ("KEY.lmb") lies, or will lie."""
        return self.folder / name

    @contextmanager
    def held(self, key: str, observe: Observer) -> Iterator[None]:
        """Make the stages of the key, or use them, in this process alone.

        While another process has them, `observe` may end the wait. Raises DiskError.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(f"cannot make the folder {self.folder}: {error.strerror}") from None
        lock = FileLock(self.folder / f"{key}.lock")
        while True:
            try:
                lock.acquire(timeout=1)
                break
            except Timeout:
                observe(TrainingRecord(), 1)
            except OSError as error:
                raise DiskError(f"cannot write in {self.folder}: {error.strerror}") from None
        try:
            yield
        finally:
            lock.release()

    def use(self, name: str) -> Path | None:
        """The stage of that name, from now on the one used last; None where there is none."""
        path = self.path(name)
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def trim(self) -> None:
        """Delete what was not used for longest, until the rest is within the limit, and what
        processes that died were writing."""
        found = []
        for path in self.folder.glob("*"):
            with suppress(OSError):  # another process deletes, too
                if path.name.startswith(".") and path.stat().st_mtime < time.time() - PART_SECONDS:
                    path.unlink()
                if path.suffix in SUFFIXES:
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
        kept = 0
        for _, size, path in sorted(found, reverse=True):
            kept += size
            if kept > self.max_bytes:
                with suppress(OSError):
                    path.unlink()
