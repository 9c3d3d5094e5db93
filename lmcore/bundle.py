"""The bundle: one file with all that inference needs. The only authority on size.

    magic "LMPB", version (u8), header length (u32), header (zlib, JSON), the streams of every
    leaf and of the vocabulary in the header's order, each a length (u32) and its bytes, SHA-256

`lmcore/header.py` describes the header, `word_list.py` the vocabulary's stream. The version is 1
where the vocabulary is of words, and 2 for the other kinds. Numbers are little-endian. The same
model gives the same bytes.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from lmcore import sites
from lmcore.codec import LeafSpec
from lmcore.coding import decode, encode
from lmcore.errors import UserError
from lmcore.files import write_atomic
from lmcore.frame import (
    DIGEST,
    LENGTH,
    MAGIC,
    PREFIX,
    Frame,
    Parts,
    damaged,
    read_frame,
    version_of,
)
from lmcore.header import Header, header_from, header_of
from lmcore.leaf import Leaf
from lmcore.model import LanguageModel
from lmcore.network import Network
from lmcore.network_settings import NetworkSettings
from lmcore.recipe import Recipe, is_open, leaf_specs
from lmcore.vocabulary import Vocabulary
from lmcore.weight import Weight
from lmcore.word_list import pack_words, unpack_words


@dataclass(frozen=True)
class Bundle:
    """A model read from a file, and the words it speaks. `parts` sum to `size_bytes`."""

    model: Network
    vocabulary: Vocabulary
    size_bytes: int
    sha256: str
    parts: Parts

    @property
    def language(self) -> LanguageModel:
        """The model, for what only a language model can do. Raises UserError for another one."""
        if not isinstance(self.model, LanguageModel):
            kind = self.model.settings.kind
            raise UserError(f"this needs a language model; the file has one of the kind {kind}")
        return self.model


def pack(model: Network, vocabulary: Vocabulary) -> bytes:
    """The file's bytes."""
    leaves = [leaf for weight in model.sites.values() for leaf in weight.leaves.values()]
    streams = [stream for leaf in [*leaves, *model.biases.values()] for stream in _coded(leaf)]
    body = _prefixed(header_of(model, vocabulary)) + b"".join(
        LENGTH.pack(len(stream)) + stream for stream in [*streams, pack_words(vocabulary)]
    )
    return body + hashlib.sha256(body).digest()


def leaf_bytes(leaf: Leaf) -> int:
    """How many bytes of a file a leaf takes."""
    return sum(LENGTH.size + len(stream) for stream in _coded(leaf))


def _coded(leaf: Leaf) -> list[bytes]:
    return [
        encode(array, stream.low, stream.high)
        for stream, array in zip(leaf.spec.streams, leaf.write(), strict=True)
    ]


def save(path: Path, model: Network, vocabulary: Vocabulary) -> int:
    """Write the bundle atomically; its size on disk in bytes."""
    write_atomic(path, pack(model, vocabulary))
    return path.stat().st_size


def packed_size(recipe: Recipe, model: NetworkSettings, vocabulary: Vocabulary) -> int:
    """Bytes before entropy coding of a resolved recipe's file: an upper bound of its size."""
    count = len(vocabulary)
    specs = leaf_specs(recipe, model, count)
    streams = sum(spec.packed_size for spec in specs.values())
    lengths = sum(LENGTH.size * len(spec.streams) for spec in specs.values())
    header = header_from(specs, recipe, model, vocabulary)
    head = len(_prefixed(header))
    if is_open(recipe, model, count):
        # a site may have two leaves for one, and a number any digits: twice the plain text holds it
        head, lengths = PREFIX.size + 2 * len(header.text), 2 * lengths
    words = LENGTH.size + len(pack_words(vocabulary))
    return head + streams + lengths + words + DIGEST


def load(path: Path) -> Bundle:
    """The model of a bundle, with the very values that were saved.

    Raises UserError where the file is missing, no bundle, newer than this program, or damaged:
    altered, larger than a file of its bytes may be, or in contradiction with itself.
    """
    frame = read_frame(path)
    try:
        vocabulary = unpack_words(
            frame.words, frame.header.vocabulary, frame.header.words, frame.capacity
        )
        model = _model(frame.header, _leaves(frame))  # last, for that takes longest
    except (ValueError, zlib.error, OSError, UserError) as error:  # OSError: bz2's
        raise damaged(path, error) from None
    return Bundle(model, vocabulary, frame.size_bytes, frame.sha256, frame.parts)


def _leaves(frame: Frame) -> dict[str, Leaf]:
    specs = frame.header.specs
    return {name: _leaf(name, specs[name], streams) for name, streams in frame.leaves.items()}


def _leaf(name: str, spec: LeafSpec, coded: list[bytes]) -> Leaf:
    try:
        pairs = zip(coded, spec.streams, strict=True)
        return Leaf.read(spec, [decode(data, s.shape, s.low, s.high) for data, s in pairs])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _model(header: Header, leaves: dict[str, Leaf]) -> Network:
    weights = {}
    for site, shape in header.site_shapes.items():
        structure = header.sites[site].structure
        own = {n: leaves[sites.leaf_name(site, n)] for n in structure.leaf_shapes(shape)}
        weights[site] = Weight(structure, own, shape)
    biases = {name: leaves[name] for name in header.model.bias_shapes(header.words)}
    return header.model.network(weights, biases).eval()


def _prefixed(header: Header) -> bytes:
    packed = header.packed
    return PREFIX.pack(MAGIC, version_of(header.vocabulary), len(packed)) + packed
