"""A cache of stages, shared by processes. A stage is a file of trained weights that several recipes
start from: a model with fewer hidden units, or a fine-tuning that a later rung goes on with.

A stage is written completely or not at all. A damaged stage counts as missing. Any stage may be
deleted at any time: whoever needs it makes it again, with the same result.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".lmb", ".safetensors")
WRITE_SECONDS = 3600  # longer than any file takes to write


@dataclass(frozen=True)
class Stages:
    """A folder of stages. Beyond `max_bytes`, the least recently used ones are deleted."""

    folder: Path
    max_bytes: int

    def path(self, name: str) -> Path:
        """The path of the stage of that name ("KEY.lmb"), whether it exists or not."""
        return self.folder / name

    def use(self, name: str) -> Path | None:
        """The path of a stage, which now counts as used last. None where there is no such stage."""
        path = self.path(name)
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def trim(self) -> None:
        """Delete the least recently used stages until the rest is within the limit, and the partial
        files of processes that died while writing."""
        found = []
        for path in self.folder.glob("*"):
            with suppress(OSError):  # another process deletes, too
                if path.name.startswith(".") and path.stat().st_mtime < time.time() - WRITE_SECONDS:
                    path.unlink()
                if path.suffix in SUFFIXES:
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
        kept = 0
        for _, size, path in sorted(found, reverse=True):
            kept += size
            if kept > self.max_bytes:
                with suppress(OSError):
                    path.unlink()
