"""A vocabulary as a bundle's last stream.

Words, characters and pieces are front-coded: how many letters each word shares with the one before
(a byte a word), then the rest of each word, a line each; both packed by bz2, the length (u32) of
the first before it. Byte-level pairs follow from their merges: the first ids of all pairs, then the
second ones, each in [0, words - 1] and coded by `lmcore/coding.py`, the length (u32) of the first
code before it.
"""

from __future__ import annotations

import bz2
import struct
from functools import lru_cache
from itertools import takewhile

import numpy as np

from lmcore.capacity import Capacity, unpacked
from lmcore.coding import decode, encode
from lmcore.subword import BYTES, SubwordVocabulary
from lmcore.vocabulary import CharacterVocabulary, Kind, PieceVocabulary, Vocabulary

_LENGTH = struct.Struct("<I")
_MOST_SHARED = 255


@lru_cache(maxsize=1)
def pack_words(vocabulary: Vocabulary) -> bytes:
    """The stream's bytes."""
    if isinstance(vocabulary, SubwordVocabulary):
        return _pack_merges(vocabulary)
    shared, rests, before = bytearray(), [], ""
    for word in vocabulary.words:
        pairs = zip(before, word[:_MOST_SHARED], strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        shared.append(common)
        rests.append(word[common:])
        before = word
    counts, text = bz2.compress(bytes(shared)), bz2.compress("\n".join(rests).encode())
    return _LENGTH.pack(len(counts)) + counts + text


def unpack_words(data: bytes, kind: Kind, count: int, capacity: Capacity) -> Vocabulary:
    """The vocabulary back; ValueError where the bytes are not those of so many words."""
    match kind:
        case "subword":
            return _unpack_merges(data, count)
        case "characters":
            return CharacterVocabulary(_unpack(data, count, capacity))
        case "pieces":
            return PieceVocabulary(_unpack(data, count, capacity))
        case _:
            return Vocabulary(_unpack(data, count, capacity))


def _unpack(data: bytes, count: int, capacity: Capacity) -> list[str]:
    counts, text = _halves(data)
    shared = unpacked(bz2.BZ2Decompressor(), counts, capacity.words)
    packed_rests = unpacked(bz2.BZ2Decompressor(), text, capacity.word_bytes)
    for found in (len(shared), packed_rests.count(b"\n") + 1):
        if found != count:
            raise ValueError(f"the word list has {found:,} words, the header {count:,}")
    words: list[str] = []
    before, letters = "", 0
    for common, rest in zip(shared, packed_rests.decode().split("\n"), strict=True):
        if common > len(before):
            raise ValueError("a word shares more letters with the one before than that has")
        before = before[:common] + rest
        letters += len(before)
        if letters > capacity.word_bytes:
            raise ValueError(f"the words have more than {capacity.word_bytes:,} letters")
        words.append(before)
    return words


def _pack_merges(vocabulary: SubwordVocabulary) -> bytes:
    pairs = np.array(vocabulary.merges, dtype=np.int64).reshape(-1, 2)
    first, second = (encode(column, 0, len(vocabulary) - 1) for column in pairs.T)
    return _LENGTH.pack(len(first)) + first + second


def _unpack_merges(data: bytes, count: int) -> Vocabulary:
    if count < BYTES:
        raise ValueError(f"{count:,} pieces are fewer than the {BYTES} bytes")
    columns = (decode(code, count - BYTES, 0, count - 1).tolist() for code in _halves(data))
    return SubwordVocabulary(zip(*columns, strict=True))


def _halves(data: bytes) -> tuple[bytes, bytes]:
    if len(data) < _LENGTH.size:
        raise ValueError("the word list was cut short")
    (size,) = _LENGTH.unpack_from(data)
    return data[_LENGTH.size : _LENGTH.size + size], data[_LENGTH.size + size :]
