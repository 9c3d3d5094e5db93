"""Exported files tried by a process that has nothing but them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lmcore.codec import Array
from lmcore.errors import UserError

GIVEN = "given.npz"


def tried(files: Mapping[str, bytes], script: str, given: Mapping[str, Array]) -> dict[str, float]:
    """What a script prints as JSON, of a folder with the files, which is removed then, and of the
    arrays as an npz file. Raises UserError where it fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        np.savez(folder / GIVEN, allow_pickle=False, **given)
        command = [sys.executable, "-P", script, name, str(folder / GIVEN)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"onnxruntime cannot run the exported files: {last[:300]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def sizes_of(files: Mapping[str, bytes]) -> tuple[dict[str, int], dict[str, int]]:
    """File -> its bytes, and those that it has as it is downloaded, by zlib."""
    return (
        {name: len(data) for name, data in files.items()},
        {name: len(zlib.compress(data, 9)) for name, data in files.items()},
    )
