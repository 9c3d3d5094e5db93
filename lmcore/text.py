"""Text files -> lines of words.

A line ends at `\\n` or `\\r\\n` alone. Words are parted by white space, as `str.split` knows it: a
form feed, a lone `\\r`, U+0085 or U+2028 part words, but end no line.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import shlex
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from lmcore.errors import UserError

T = TypeVar("T")
Lines = list[list[str]]
Texts = dict[str, Lines]  # train, valid and test


def read_text(path: Path) -> Lines:
    """The lines of a text file as lists of words.

    The text is UTF-8, or UTF-16 or UTF-32 with a byte-order mark. It may be packed by gzip, bzip2
    or xz. Raises UserError where the file cannot be read or is no such text.
    """
    lines = read_string(path).split("\n")
    if not lines[-1]:
        lines.pop()  # nothing comes after the end of the last line
    return [line.split() for line in lines]


def split_lines(lines: list[T], block: int) -> dict[str, list[T]]:
    """Of every ten blocks of lines, eight for training, one for valid, one for test."""
    roles = ["train"] * 8 + ["valid", "test"]
    texts: dict[str, list[T]] = {"train": [], "valid": [], "test": []}
    for i, line in enumerate(lines):
        texts[roles[i // block % 10]].append(line)
    return texts


def count_tokens(lines: Lines) -> int:
    """How many words there are, with one end of sentence a line."""
    return sum(len(line) + 1 for line in lines)


def by_frequency(counts: Mapping[str, int]) -> list[str]:
    """The words, the most frequent first; equally frequent ones in alphabetical order."""
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


class _Packing(NamedTuple):
    begins: bytes  # the first bytes of a file, as a pattern
    tool: str
    unpack: Callable[[bytes], bytes]


_PACKINGS = (
    _Packing(rb"\x1f\x8b\x08", "gzip", gzip.decompress),
    _Packing(rb"BZh[1-9]1AY&SY", "bzip2", bz2.decompress),
    _Packing(rb"\xfd7zXZ\0", "xz", lzma.decompress),
)
_NO_TEXTS = {  # first bytes -> what the file is, and what to do
    rb"\x28\xb5\x2f\xfd": "is packed by Zstandard; unpack it first: zstd -d {path}",
    rb"PK\x03\x04": "is a ZIP archive, or a document in one (docx, odt, epub); give its plain text",
    rb"7z\xbc\xaf\x27\x1c": "is a 7-Zip archive; unpack it and give a text file in it",
    rb"%PDF-": "is a PDF; extract its text first: pdftotext {path}",
    rb"(?s:.{257})ustar": "is an archive of several files (tar); unpack it and give a text file",
}
_ENCODINGS = (  # by byte-order mark; the longer one first
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_string(path: Path) -> str:
    """A text file as it stands, to the letter; its byte-order mark is no part of it. It may be
    encoded and packed as `read_text` says, and raises as that does."""
    packed = _bytes(path)
    packing = next((one for one in _PACKINGS if re.match(one.begins, packed)), None)
    data = _unpacked(path, packed, packing) if packing else packed
    for begins, problem in _NO_TEXTS.items():
        if re.match(begins, data):
            raise UserError(f"{path} {problem.format(path=shlex.quote(str(path)))}")
    encoding = next((name for mark, name in _ENCODINGS if data.startswith(mark)), None)
    if encoding:
        return _marked(path, data, encoding)
    if b"\0" in data:
        raise UserError(
            f"{path} holds zero bytes, as a binary file does, or UTF-16 without a byte-order mark; "
            f"give a text in UTF-8 (from UTF-16: {_conversion(path, packing, 'UTF-16LE')})"
        )
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8 text: line {line:,} has the byte 0x{data[error.start]:02X}, at "
            f"offset {error.start:,} of the text. Convert it from the encoding that it is in, "
            f"often CP1252 on Windows: {_conversion(path, packing, 'CP1252')}"
        ) from None


def _bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; give a text file in it")
        if path.exists() and not path.is_file():
            raise UserError(
                f"{path} is a pipe or a device, and a text is read more than once; "
                f"write it to a file"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _unpacked(path: Path, data: bytes, packing: _Packing) -> bytes:
    try:
        return packing.unpack(data)
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise UserError(
            f"{path} is damaged or cut short: {packing.tool} cannot unpack it ({error})"
        ) from None


def _marked(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is damaged or cut short: its byte-order mark says {encoding}, "
            f"but not its bytes at offset {error.start:,}"
        ) from None


def _conversion(path: Path, packing: _Packing | None, encoding: str) -> str:
    """A command that makes UTF-8 of a text."""
    file, into = shlex.quote(str(path)), shlex.quote(f"{path}.utf8")
    unpacked = f"{packing.tool} -dc {file} |" if packing else f"<{file}"
    return f"{unpacked} iconv -f {encoding} -t UTF-8 >{into}"
