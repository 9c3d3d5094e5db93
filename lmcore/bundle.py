"""The bundle: one file with all that inference needs. The only authority on size.

    magic "LMPB", version (u8), header length (u32), header (zlib, JSON), the streams of every
    leaf and of the vocabulary in the header's order, each a length (u32) and its bytes, SHA-256

`lmcore/header.py` describes the header, `word_list.py` the vocabulary's stream. The version is 1
where the vocabulary is of words, and 2 for the other kinds. Numbers are little-endian. The same
model gives the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lmcore import sites
from lmcore.capacity import Capacity
from lmcore.codec import LeafSpec
from lmcore.coding import decode, encode
from lmcore.errors import UserError
from lmcore.files import write_atomic
from lmcore.header import Header, header_from, header_of, read_header
from lmcore.leaf import Leaf
from lmcore.model import LanguageModel
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, is_open, leaf_specs
from lmcore.vocabulary import Kind, Vocabulary
from lmcore.weight import Weight
from lmcore.word_list import pack_words, unpack_words

MAGIC = b"LMPB"
VERSION = 2
_DIGEST = 32
_PREFIX = struct.Struct("<4sBI")
_LENGTH = struct.Struct("<I")
_MESSAGE = 300  # letters of what is wrong with a file, which may itself have come from the file


@dataclass(frozen=True)
class Parts:
    """What each byte of a file is spent on; the length before a stream counts with it."""

    header: int  # and the checksum
    leaves: dict[str, tuple[int, ...]]  # SITE/LEAF or BIAS -> bytes of each of its streams
    vocabulary: int


@dataclass(frozen=True)
class Bundle:
    """A model read from a file, and the words it speaks. `parts` sum to `size_bytes`."""

    model: LanguageModel
    vocabulary: Vocabulary
    size_bytes: int
    sha256: str
    parts: Parts


def pack(model: LanguageModel, vocabulary: Vocabulary) -> bytes:
    """The file's bytes."""
    leaves = [leaf for weight in model.sites.values() for leaf in weight.leaves.values()]
    streams = [stream for leaf in [*leaves, *model.biases.values()] for stream in _coded(leaf)]
    body = _prefixed(header_of(model, vocabulary)) + b"".join(
        _LENGTH.pack(len(stream)) + stream for stream in [*streams, pack_words(vocabulary)]
    )
    return body + hashlib.sha256(body).digest()


def leaf_bytes(leaf: Leaf) -> int:
    """How many bytes of a file a leaf takes."""
    return sum(_LENGTH.size + len(stream) for stream in _coded(leaf))


def _coded(leaf: Leaf) -> list[bytes]:
    return [
        encode(array, stream.low, stream.high)
        for stream, array in zip(leaf.spec.streams, leaf.write(), strict=True)
    ]


def save(path: Path, model: LanguageModel, vocabulary: Vocabulary) -> int:
    """Write the bundle atomically; its size on disk in bytes."""
    write_atomic(path, pack(model, vocabulary))
    return path.stat().st_size


def packed_size(recipe: Recipe, model: ModelSettings, vocabulary: Vocabulary) -> int:
    """Bytes before entropy coding of a resolved recipe's file: an upper bound of its size."""
    count = len(vocabulary)
    specs = leaf_specs(recipe, model, count)
    streams = sum(spec.packed_size for spec in specs.values())
    lengths = sum(_LENGTH.size * len(spec.streams) for spec in specs.values())
    header = header_from(specs, recipe, model, vocabulary)
    head = len(_prefixed(header))
    if is_open(recipe, model, count):
        # a site may have two leaves for one, and a number any digits: twice the plain text holds it
        head, lengths = _PREFIX.size + 2 * len(header.text), 2 * lengths
    words = _LENGTH.size + len(pack_words(vocabulary))
    return head + streams + lengths + words + _DIGEST


def load(path: Path) -> Bundle:
    """The model of a bundle, with the very values that were saved.

    Raises UserError where the file is missing, no bundle, newer than this program, or damaged:
    altered, larger than a file of its bytes may be, or in contradiction with itself.
    """
    data = _read(path)
    if data[4:5] > bytes([VERSION]):
        raise UserError(
            f"{path} has bundle version {data[4]}; this lmpareto reads versions up to {VERSION}: "
            f"a newer lmpareto wrote it"
        )
    digest = hashlib.sha256(data[:-_DIGEST]).digest()
    if len(data) < _PREFIX.size + _DIGEST or digest != data[-_DIGEST:]:
        raise UserError(f"{path} is damaged: it was cut short or altered")
    try:
        model, vocabulary, parts = _unpack(data[:-_DIGEST])
    except (ValueError, zlib.error, OSError, UserError) as error:  # OSError: bz2's
        raise UserError(f"{path} is damaged: {str(error)[:_MESSAGE]}") from None
    return Bundle(model, vocabulary, len(data), hashlib.sha256(data).hexdigest(), parts)


def _read(path: Path) -> bytes:
    """The file's bytes; all of them only where the first are those of a bundle."""
    try:
        if path.is_fifo():  # to open one waits for somebody who writes
            raise UserError(f"{path} is a pipe; write what comes from it to a file")
        with path.open("rb") as file:
            if file.peek(len(MAGIC))[: len(MAGIC)] == MAGIC:
                return file.read()
    except OSError as error:
        inside = f"; give the bundle in it: {path / 'model.lmb'}, say" if path.is_dir() else ""
        raise UserError(f"cannot read {path}: {error.strerror}{inside}") from None
    raise UserError(f"{path} is not a bundle of lmpareto")


def _unpack(body: bytes) -> tuple[LanguageModel, Vocabulary, Parts]:
    """The model, the words and the parts; streams are decoded last, for that takes longest."""
    capacity = Capacity.of(len(body))
    _, version, length = _PREFIX.unpack_from(body)
    start = _PREFIX.size + length
    header = read_header(body[_PREFIX.size : start], capacity)
    if version != _version(header.vocabulary):
        raise ValueError(f"a bundle of {header.vocabulary} has no version {version}")
    specs = header.specs
    *coded, words = _cut(body, start, sum(len(spec.streams) for spec in specs.values()) + 1)
    vocabulary = unpack_words(words, header.vocabulary, header.words, capacity)
    leaves, sizes, rest = {}, {}, iter(coded)
    for name, spec in specs.items():
        own = list(islice(rest, len(spec.streams)))
        leaves[name] = _leaf(name, spec, own)
        sizes[name] = tuple(_LENGTH.size + len(stream) for stream in own)
    parts = Parts(start + _DIGEST, sizes, _LENGTH.size + len(words))
    return _model(header, leaves), vocabulary, parts


def _cut(body: bytes, position: int, count: int) -> list[bytes]:
    """So many streams from this position on, up to the end of the body."""
    found = []
    for _ in range(count):
        position += _LENGTH.size
        if position > len(body):
            raise ValueError("it ends before its last stream")
        (size,) = _LENGTH.unpack_from(body, position - _LENGTH.size)
        found.append(body[position : position + size])
        position += size
    if position != len(body):
        raise ValueError("its last stream does not end where the file does")
    return found


def _leaf(name: str, spec: LeafSpec, coded: list[bytes]) -> Leaf:
    try:
        pairs = zip(coded, spec.streams, strict=True)
        return Leaf.read(spec, [decode(data, s.shape, s.low, s.high) for data, s in pairs])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _model(header: Header, leaves: dict[str, Leaf]) -> LanguageModel:
    weights = {}
    for site, shape in header.site_shapes.items():
        structure = header.sites[site].structure
        own = {n: leaves[sites.leaf_name(site, n)] for n in structure.leaf_shapes(shape)}
        weights[site] = Weight(structure, own, shape)
    biases = {name: leaves[name] for name in header.model.bias_shapes(header.words)}
    return LanguageModel(header.model, weights, biases).eval()


def _prefixed(header: Header) -> bytes:
    packed = header.packed
    return _PREFIX.pack(MAGIC, _version(header.vocabulary), len(packed)) + packed


def _version(kind: Kind) -> int:
    """Words came first, and every lmpareto reads their bundles."""
    return 1 if kind == "words" else 2
