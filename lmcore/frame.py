"""What a bundle consists of, read without decoding it: its header and the bytes of its streams.

`lmcore/bundle.py` describes the file.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lmcore.capacity import Capacity
from lmcore.errors import UserError
from lmcore.header import Header, read_header
from lmcore.vocabulary import Kind

MAGIC = b"LMPB"
VERSION = 2
DIGEST = 32  # bytes of the SHA-256 at the end
PREFIX = struct.Struct("<4sBI")
LENGTH = struct.Struct("<I")  # before each stream
_MESSAGE = 300  # letters of what is wrong with a file, which may itself have come from the file


@dataclass(frozen=True)
class Parts:
    """What each byte of a file is spent on; the length before a stream counts with it."""

    header: int  # and the checksum
    leaves: dict[str, tuple[int, ...]]  # SITE/LEAF or BIAS -> bytes of each of its streams
    vocabulary: int


@dataclass(frozen=True)
class Frame:
    """A file: its header, and the coded streams of its leaves and of its words."""

    header: Header
    leaves: dict[str, list[bytes]]  # SITE/LEAF or BIAS -> its streams
    words: bytes
    size_bytes: int
    sha256: str
    parts: Parts

    @property
    def capacity(self) -> Capacity:
        """What the file may hold at most."""
        return Capacity.of(self.size_bytes - DIGEST)


def read_frame(path: Path) -> Frame:
    """The frame of a bundle.

    Raises UserError where the file is missing, no bundle, newer than this program, or damaged:
    altered, or its header in contradiction with itself.
    """
    data = _read(path)
    if data[4:5] > bytes([VERSION]):
        raise UserError(
            f"{path} has bundle version {data[4]}; this lmpareto reads versions up to {VERSION}: "
            f"a newer lmpareto wrote it"
        )
    digest = hashlib.sha256(data[:-DIGEST]).digest()
    if len(data) < PREFIX.size + DIGEST or digest != data[-DIGEST:]:
        raise UserError(f"{path} is damaged: it was cut short or altered")
    try:
        return _framed(data)
    except (ValueError, zlib.error, UserError) as error:
        raise damaged(path, error) from None


def version_of(kind: Kind) -> int:
    """The version of a bundle with such a vocabulary. Words came first, and every lmpareto reads
    their bundles."""
    return 1 if kind == "words" else 2


def damaged(path: Path, error: Exception) -> UserError:
    """What is said of a file with this error in it."""
    return UserError(f"{path} is damaged: {str(error)[:_MESSAGE]}")


def _read(path: Path) -> bytes:
    """The file's bytes; all of them only where the first are those of a bundle."""
    try:
        if path.is_fifo():  # to open one waits for somebody who writes
            raise UserError(f"{path} is a pipe; write what comes from it to a file")
        with path.open("rb") as file:
            if file.peek(len(MAGIC))[: len(MAGIC)] == MAGIC:
                return file.read()
    except OSError as error:
        folder = isinstance(error, IsADirectoryError)
        inside = f"; give the bundle in it: {path / 'model.lmb'}, say" if folder else ""
        raise UserError(f"cannot read {path}: {error.strerror}{inside}") from None
    raise UserError(f"{path} is not a bundle of lmpareto")


def _framed(data: bytes) -> Frame:
    body = data[:-DIGEST]
    _, version, length = PREFIX.unpack_from(body)
    start = PREFIX.size + length
    header = read_header(body[PREFIX.size : start], Capacity.of(len(body)))
    if version != version_of(header.vocabulary):
        raise ValueError(f"a bundle of {header.vocabulary} has no version {version}")
    specs = header.specs
    *coded, words = _cut(body, start, sum(len(spec.streams) for spec in specs.values()) + 1)
    rest = iter(coded)
    leaves = {name: list(islice(rest, len(spec.streams))) for name, spec in specs.items()}
    sizes = {
        name: tuple(LENGTH.size + len(stream) for stream in streams)
        for name, streams in leaves.items()
    }
    return Frame(
        header=header,
        leaves=leaves,
        words=words,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        parts=Parts(start + DIGEST, sizes, LENGTH.size + len(words)),
    )


def _cut(body: bytes, position: int, count: int) -> list[bytes]:
    """So many streams from this position on, up to the end of the body."""
    found = []
    for _ in range(count):
        position += LENGTH.size
        if position > len(body):
            raise ValueError("it ends before its last stream")
        (size,) = LENGTH.unpack_from(body, position - LENGTH.size)
        found.append(body[position : position + size])
        position += size
    if position != len(body):
        raise ValueError("its last stream does not end where the file does")
    return found
