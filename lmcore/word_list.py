"""The words of a vocabulary as a bundle's last stream.

Front coding: how many letters each word shares with the one before (a byte a word), then the rest
of each word, a line each; both packed by bz2, the length (u32) of the first before it.
"""

from __future__ import annotations

import bz2
import struct
from functools import lru_cache
from itertools import takewhile

from lmcore.capacity import Capacity, unpacked
from lmcore.corpus import Vocabulary

_LENGTH = struct.Struct("<I")
_MOST_SHARED = 255


@lru_cache(maxsize=1)
def pack_words(vocabulary: Vocabulary) -> bytes:
    """The stream's bytes."""
    shared, rests, before = bytearray(), [], ""
    for word in vocabulary.words:
        pairs = zip(before, word[:_MOST_SHARED], strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        shared.append(common)
        rests.append(word[common:])
        before = word
    counts, text = bz2.compress(bytes(shared)), bz2.compress("\n".join(rests).encode())
    return _LENGTH.pack(len(counts)) + counts + text


def unpack_words(data: bytes, count: int, capacity: Capacity) -> Vocabulary:
    """The vocabulary back; ValueError where the bytes are not those of so many words."""
    if len(data) < _LENGTH.size:
        raise ValueError("the word list was cut short")
    (size,) = _LENGTH.unpack_from(data)
    counts, text = data[_LENGTH.size : _LENGTH.size + size], data[_LENGTH.size + size :]
    shared = unpacked(bz2.BZ2Decompressor(), counts, capacity.words)
    packed_rests = unpacked(bz2.BZ2Decompressor(), text, capacity.word_bytes)
    for found in (len(shared), packed_rests.count(b"\n") + 1):
        if found != count:
            raise ValueError(f"the word list has {found:,} words, the header {count:,}")
    words, before, letters = [], "", 0
    for common, rest in zip(shared, packed_rests.decode().split("\n"), strict=True):
        if common > len(before):
            raise ValueError("a word shares more letters with the one before than that has")
        before = before[:common] + rest
        letters += len(before)
        if letters > capacity.word_bytes:
            raise ValueError(f"the words have more than {capacity.word_bytes:,} letters")
        words.append(before)
    return Vocabulary(words)
