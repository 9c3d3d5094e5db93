"""What is read from a file as text, and what is said of a file that is none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcore.errors import UserError
from lmcore.text import read_text

TEXT = "der Hund bellt\nder Bär   brüllt\n"
WORDS = [["der", "Hund", "bellt"], ["der", "Bär", "brüllt"]]


def read(path: Path, data: bytes) -> list[list[str]]:
    path.write_bytes(data)
    return read_text(path)


def message(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_text(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [[]]),
        ("a", [["a"]]),
        ("a\n\nb\n", [["a"], [], ["b"]]),
        ("a\r\nb\r\n", [["a"], ["b"]]),
        ("a\rb\n", [["a", "b"]]),
        ("a\fb\vc\x1cd\x85e\u2028f\u2029g\n", [list("abcdefg")]),
        ("a\u00a0b \u3000 c\t d \n", [list("abcd")]),
        ("a\u200bb\n", [["a\u200bb"]]),
    ],
)
def test_a_line_ends_at_a_newline_alone(text: str, lines: list[list[str]], tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", text.encode()) == lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_packed_texts_and_byte_order_marks_are_read(
    encoding: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    assert read(tmp_path / "any name", pack(TEXT.encode(encoding))) == WORDS


def test_big_endian_marks_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-16-be", "utf-32-be"):
        assert read(tmp_path / "a.txt", ("\ufeff" + TEXT).encode(encoding)) == WORDS


def archive(make: Callable[[io.BytesIO], None]) -> bytes:
    make(stream := io.BytesIO())
    return stream.getvalue()


def zipped(stream: io.BytesIO) -> None:
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.txt", TEXT)


def tarred(stream: io.BytesIO) -> None:
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("a.txt"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x28\xb5\x2f\xfd" + bytes(20), ["packed by Zstandard", "zstd -d", "my text"]),
        (archive(zipped), ["ZIP archive", "plain text"]),
        (archive(tarred), ["archive of several files (tar)", "unpack"]),
        (b"7z\xbc\xaf\x27\x1c" + bytes(20), ["7-Zip archive", "unpack"]),
        (b"%PDF-1.7\n", ["is a PDF", "pdftotext", "my text"]),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ["zero bytes", "binary file", "UTF-8"]),
        (TEXT.encode("utf-16-le"), ["zero bytes", "iconv -f UTF-16LE -t UTF-8"]),
        (TEXT.encode("utf-16")[:-1], ["damaged or cut short", "UTF-16"]),
        (gzip.compress(TEXT.encode())[:-9], ["damaged or cut short", "gzip"]),
        (gzip.compress(TEXT.encode())[:9] + b"\xff" * 30, ["damaged or cut short", "gzip"]),
        (bz2.compress(TEXT.encode())[:-5], ["damaged or cut short", "bzip2"]),
        (lzma.compress(TEXT.encode())[:-5], ["damaged or cut short", "xz"]),
    ],
    ids=lambda one: one[0] if isinstance(one, list) else "data",  # packed bytes have the time
)
def test_what_is_no_text_is_named(data: bytes, said: list[str], tmp_path: Path) -> None:
    path = tmp_path / "my text.txt"
    path.write_bytes(data)
    for part in (str(path), *said):
        assert part in message(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_another_encoding_is_said_with_its_place_and_a_command_that_works(
    pack: Callable[[bytes], bytes], mark: str, tmp_path: Path
) -> None:
    path = tmp_path / "my 'Bär'.txt"
    before = (mark + "der Hund bellt\nder B").encode()
    path.write_bytes(pack(before + "är brüllt\n".encode("cp1252")))
    said = message(path)
    assert f"{path} is not UTF-8 text: line 2 has the byte 0xE4" in said
    assert f"offset {len(before)} " in said
    command = said[said.index("on Windows: ") :].removeprefix("on Windows: ")
    subprocess.run(command, shell=True, check=True)
    if not mark:
        assert read_text(Path(f"{path}.utf8")) == WORDS


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    assert (
        message(tmp_path / "none") == f"cannot read {tmp_path / 'none'}: No such file or directory"
    )
    assert message(tmp_path) == f"{tmp_path} is a folder; give a text file in it"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        assert f"{path} is a pipe or a device" in message(path)
