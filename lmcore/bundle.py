"""The bundle: one file with all that inference needs. The only authority on size.

    magic "LMPB", version (u8), header length (u32), header (zlib, JSON), the streams of every
    leaf and of the vocabulary in the header's order, each a length (u32) and its bytes, SHA-256

The header names the model's sizes, and of every site its structure and its leaves' codecs; all
shapes follow from it. Numbers are little-endian. The same model gives the same bytes.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from lmcore import sites
from lmcore.codec import AnyCodec, LeafSpec
from lmcore.coding import decode, encode
from lmcore.corpus import Vocabulary
from lmcore.errors import UserError
from lmcore.files import write_atomic
from lmcore.leaf import Leaf
from lmcore.model import LanguageModel
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, is_open, leaf_specs
from lmcore.settings import Settings
from lmcore.structure import AnyStructure
from lmcore.weight import Weight

MAGIC = b"LMPB"
VERSION = 1
_DIGEST = 32
_PREFIX = struct.Struct("<4sBI")
_LENGTH = struct.Struct("<I")


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


class _LeafHeader(Settings):
    codec: AnyCodec
    kept: int | None = None


class _SiteHeader(Settings):
    structure: AnyStructure
    leaves: dict[str, _LeafHeader]


class _Header(Settings):
    model: ModelSettings
    words: int
    sites: dict[str, _SiteHeader]
    biases: dict[str, _LeafHeader]


def pack(model: LanguageModel, vocabulary: Vocabulary) -> bytes:
    """The file's bytes."""
    leaves = [leaf for weight in model.sites.values() for leaf in weight.leaves.values()]
    streams = [stream for leaf in [*leaves, *model.biases.values()] for stream in _coded(leaf)]
    body = _pack_header(_header_of(model)) + b"".join(
        _LENGTH.pack(len(stream)) + stream for stream in [*streams, _pack_words(vocabulary)]
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
    header = _header_from(specs, recipe, model, count)
    head = len(_pack_header(header))
    if is_open(recipe, model, count):
        # a site may have two leaves for one, and a number any digits: twice the plain text holds it
        head, lengths = _PREFIX.size + 2 * len(_header_text(header)), 2 * lengths
    words = _LENGTH.size + len(_pack_words(vocabulary))
    return head + streams + lengths + words + _DIGEST


def load(path: Path) -> Bundle:
    """The model of a bundle, with the very values that were saved.

    Raises UserError where the file is missing, no bundle, newer than this program, or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if data[:4] != MAGIC:
        raise UserError(f"{path} is not a bundle of lmpareto")
    if len(data) > 4 and data[4] > VERSION:
        raise UserError(
            f"{path} has bundle version {data[4]}; this lmpareto reads versions up to {VERSION}: "
            f"a newer lmpareto wrote it"
        )
    digest = hashlib.sha256(data[:-_DIGEST]).digest()
    if len(data) < _PREFIX.size + _DIGEST or digest != data[-_DIGEST:]:
        raise UserError(f"{path} is damaged: it was cut short or altered")
    try:
        model, vocabulary, parts = _unpack(data[:-_DIGEST])
    except (
        ValueError,
        KeyError,
        IndexError,
        struct.error,
        zlib.error,
        OSError,
        RuntimeError,
    ) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return Bundle(model, vocabulary, len(data), hashlib.sha256(data).hexdigest(), parts)


def _unpack(body: bytes) -> tuple[LanguageModel, Vocabulary, Parts]:
    _, _, length = _PREFIX.unpack_from(body)
    position = _PREFIX.size + length
    header = _Header.model_validate_json(zlib.decompress(body[_PREFIX.size : position]))
    header_bytes, stream_bytes = position + _DIGEST, {}

    def stream() -> bytes:
        nonlocal position
        (size,) = _LENGTH.unpack_from(body, position)
        position += _LENGTH.size + size
        if position > len(body):
            raise ValueError("a stream ends after the file")
        return body[position - size : position]

    def leaf(name: str, head: _LeafHeader, shape: tuple[int, ...]) -> Leaf:
        spec = LeafSpec(shape, head.codec, head.kept)
        coded = [(stream(), s) for s in spec.streams]
        stream_bytes[name] = tuple(_LENGTH.size + len(data) for data, _ in coded)
        return Leaf.read(spec, [decode(data, s.shape, s.low, s.high) for data, s in coded])

    weights = {}
    for site, shape in header.model.site_shapes(header.words).items():
        head = header.sites[site]
        shapes = head.structure.leaf_shapes(shape)
        leaves = {
            name: leaf(sites.leaf_name(site, name), head.leaves[name], shapes[name])
            for name in shapes
        }
        weights[site] = Weight(head.structure, leaves, shape)
    biases = {
        name: leaf(name, header.biases[name], shape)
        for name, shape in header.model.bias_shapes(header.words).items()
    }
    words = stream()
    if position != len(body):
        raise ValueError("something follows the last stream")
    parts = Parts(header_bytes, stream_bytes, _LENGTH.size + len(words))
    return LanguageModel(header.model, weights, biases).eval(), _unpack_words(words), parts


def _header_of(model: LanguageModel) -> _Header:
    stored = {
        site: _SiteHeader(
            structure=weight.structure,
            leaves={name: _leaf_header(leaf.spec) for name, leaf in weight.leaves.items()},
        )
        for site, weight in model.sites.items()
    }
    biases = {name: _leaf_header(leaf.spec) for name, leaf in model.biases.items()}
    return _Header(model=model.settings, words=model.words, sites=stored, biases=biases)


def _header_from(
    specs: dict[str, LeafSpec], recipe: Recipe, model: ModelSettings, words: int
) -> _Header:
    stored = {
        site: _SiteHeader(
            structure=recipe.sites[site].structure,
            leaves={
                name: _leaf_header(specs[sites.leaf_name(site, name)])
                for name in recipe.sites[site].structure.leaf_shapes(shape)
            },
        )
        for site, shape in recipe.layers.site_shapes(model, words).items()
    }
    biases = {name: _leaf_header(specs[name]) for name in model.bias_shapes(words)}
    shaped = recipe.layers.shape(model)
    return _Header(model=shaped, words=words, sites=stored, biases=biases)


def _leaf_header(spec: LeafSpec) -> _LeafHeader:
    return _LeafHeader(codec=spec.codec, kept=spec.kept)


def _pack_header(header: _Header) -> bytes:
    packed = zlib.compress(_header_text(header), 9)
    return _PREFIX.pack(MAGIC, VERSION, len(packed)) + packed


def _header_text(header: _Header) -> bytes:
    return json.dumps(header.plain(), sort_keys=True, separators=(",", ":")).encode()


@lru_cache(maxsize=1)
def _pack_words(vocabulary: Vocabulary) -> bytes:
    """Front coding: how many letters each word shares with the one before, then the rest of it."""
    shared, rests, before = bytearray(), [], ""
    for word in vocabulary.words:
        pairs = zip(before, word[:255], strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        shared.append(common)
        rests.append(word[common:])
        before = word
    counts, text = bz2.compress(bytes(shared)), bz2.compress("\n".join(rests).encode())
    return _LENGTH.pack(len(counts)) + counts + text


def _unpack_words(data: bytes) -> Vocabulary:
    (size,) = _LENGTH.unpack_from(data)
    shared = bz2.decompress(data[_LENGTH.size : _LENGTH.size + size])
    rests = bz2.decompress(data[_LENGTH.size + size :]).decode().split("\n")
    words: list[str] = []
    for common, rest in zip(shared, rests, strict=True):
        words.append((words[-1][:common] if words else "") + rest)
    return Vocabulary(words)
