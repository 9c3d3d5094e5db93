"""How much a bundle may hold for its bytes, and unpacking within that.

A checksum says that a file is whole, not that it is honest. Equal values take a few bytes however
many they are, so every size that a file states is held against these bounds before anything is
allocated or looped over. They leave room for every model of the field: 2 layers of 1500 with 10,000
words are 66 million weights, and the smallest published bundles hold 80 values a byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

HEADER_BYTES = 1 << 18  # of JSON; a layer takes about 500


@dataclass(frozen=True)
class Capacity:
    """What a bundle may hold at most."""

    values: int  # in the streams of all leaves
    weights: int  # of the model when all matrices are rebuilt
    words: int
    word_bytes: int  # of the words as UTF-8

    @classmethod
    def of(cls, size_bytes: int) -> Self:
        """That of a file of so many bytes."""
        return cls(
            values=(1 << 24) + 64 * size_bytes,
            weights=(1 << 27) + 64 * size_bytes,
            words=(1 << 18) + size_bytes,
            word_bytes=(1 << 22) + 8 * size_bytes,
        )


class Decompressor(Protocol):
    """What `zlib.decompressobj` and `bz2.BZ2Decompressor` have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def unpacked(decompressor: Decompressor, data: bytes, most: int) -> bytes:
    """All that `data` unpacks to; ValueError where that is more than `most` bytes, or not all."""
    text = decompressor.decompress(data, most + 1)
    if len(text) > most:
        raise ValueError(f"a packed text is longer than {most:,} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("a packed text was cut short, or something follows it")
    return text
