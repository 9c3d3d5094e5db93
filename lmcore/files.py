"""Paths, writing that is never half done, and content hashes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmcore.errors import DiskError

STUDIES = Path(__file__).parent.parent / "studies"  # exists in a checkout only


def home_opened(path: str) -> str:
    """The path with ~ as the home, where there is such a home. Raises ValueError for no path."""
    if not path or "\0" in path:
        raise ValueError("it takes the path of a file or folder")
    return os.path.expanduser(path)  # noqa: PTH111 (Path's raises where there is no such home)


def is_file(path: Path) -> bool:
    """Whether there is such a file that may be looked at. `Path.is_file` raises where the name is
    too long, or a folder on the way may not be entered."""
    return os.path.isfile(path)  # noqa: PTH113


def bundle_named(given: str) -> Path:
    """The path that is given, or the dense model of the published study of that name."""
    published = STUDIES / given / "dense.lmb"
    return published if is_file(published) and not is_file(Path(given)) else Path(given)


def absolute_file(given: str) -> str:
    """The absolute path of a file that is there; a name of something known as it stands."""
    path = Path(given)
    return str(path.absolute()) if is_file(path) else given


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step: a reader sees the old file or the new one, never a part.

    Raises DiskError where the folder cannot be written or the disk is full.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from None


def check_folder(folder: Path) -> None:
    """Raises DiskError where no file can be written into the folder, which may not exist yet.
    Nothing stays of the attempt."""
    try:
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        if not there.is_dir():
            raise DiskError(f"cannot write in {folder}: {there} is a file, not a folder")
        with tempfile.TemporaryFile(dir=there):
            return
    except OSError as error:
        raise DiskError(f"cannot write in {folder}: {error.strerror or error}") from None


def write_json(path: Path, data: Any) -> None:
    """`data` as indented JSON at `path`, atomically."""
    write_atomic(path, (json.dumps(data, indent=2) + "\n").encode())


def finite(data: Any) -> Any:
    """Plain data for any reader of JSON: None in place of each NaN and infinity, which JSON has
    not."""
    return json.loads(json.dumps(data), parse_constant=lambda _: None)


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content_key(*parts: Any) -> str:
    """A short, stable hash of plain data: equal content, equal key."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def written_at_once(folder: Path, sums: str = "SHA256SUMS") -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` when the block ends well.

    The list `sums` of all its files is added: `sha256sum -c SHA256SUMS` checks it. Where `folder`
    exists, it keeps its other files: each new one takes the place of the one of its name, and files
    that an earlier list names and the new folder lacks are deleted. Meanwhile the folder has no
    list, so one whose writer was killed cannot be taken for whole.

    Raises DiskError where the folder cannot be written. Where the block raises, nothing has
    changed.
    """
    part: Path | None = None
    try:
        beside = folder if folder.is_dir() else folder.parent
        beside.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=beside))
        yield part
        names = sorted(path.name for path in part.iterdir())
        lines = [f"{sha256_of(part / name)}  {name}\n" for name in names]
        write_atomic(part / sums, "".join(lines).encode())
        part.chmod(0o755)
        if folder.is_dir():
            stale = _listed(folder / sums) - set(names)
            (folder / sums).unlink(missing_ok=True)
            for name in [*names, sums]:
                (part / name).replace(folder / name)
            for name in stale:
                (folder / name).unlink(missing_ok=True)
        else:
            part.replace(folder)
    except OSError as error:
        raise DiskError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _listed(sums: Path) -> set[str]:
    """The files that a list of `written_at_once` names; none where there is no such list."""
    try:
        lines = sums.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return set()
    names = {line[66:] for line in lines if re.fullmatch(r"[0-9a-f]{64}  [^/\0]+", line)}
    return names - {".", ".."}
