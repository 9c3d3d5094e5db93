"""Bundles that lie: good ones of every family, altered in what they say and signed again.

A mutant is known by its seed and its number. It takes one to three mutations of a good bundle: of
the header's JSON, of the word list, of the streams, or of the bytes as they stand.
"""

from __future__ import annotations

import bz2
import copy
import hashlib
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.specimens import specimens
from lmcore.coding import encode

BOMB_BYTES = 1 << 27
_PREFIX, _LENGTH = struct.Struct("<4sBI"), struct.Struct("<I")


@dataclass(frozen=True)
class Pieces:
    """A bundle taken apart. Of byte-level pairs, `shared` and `rests` are the codes of the first
    and the second ids."""

    header: bytes  # JSON
    streams: tuple[bytes, ...]  # of the leaves
    shared: bytes  # of the word list
    rests: bytes
    version: int = 1
    is_merged: bool = False  # whether the vocabulary is of byte-level pairs

    @classmethod
    def of(cls, data: bytes) -> Pieces:
        """Those of a good file."""
        _, version, length = _PREFIX.unpack_from(data)
        position, found = _PREFIX.size + length, []
        header = zlib.decompress(data[_PREFIX.size : position])
        while position < len(data) - 32:
            (size,) = _LENGTH.unpack_from(data, position)
            position += _LENGTH.size + size
            found.append(data[position - size : position])
        *streams, words = found
        (size,) = _LENGTH.unpack_from(words)
        shared, rests = words[_LENGTH.size : _LENGTH.size + size], words[_LENGTH.size + size :]
        if is_merged := b'"vocabulary":"subword"' in header:
            return cls(header, tuple(streams), shared, rests, version, is_merged)
        unpacked = bz2.decompress(shared), bz2.decompress(rests)
        return cls(header, tuple(streams), *unpacked, version)

    def joined(self) -> bytes:
        """The file's bytes before its checksum."""
        shared, rests = self.shared, self.rests
        if not self.is_merged or BOMB in (shared, rests):
            shared, rests = _bz2(shared), _bz2(rests)
        words = _LENGTH.pack(len(shared)) + shared + rests
        header = _zlib(self.header)
        return (
            _PREFIX.pack(b"LMPB", self.version, len(header))
            + header
            + b"".join(_LENGTH.pack(len(stream)) + stream for stream in [*self.streams, words])
        )


def signed(body: bytes) -> bytes:
    """The file with the checksum that belongs to it."""
    return body + hashlib.sha256(body).digest()


@lru_cache
def _taken_apart() -> list[Pieces]:
    return [Pieces.of(data) for data in specimens()]


def mutant(seed: int, number: int) -> bytes:
    """A file that lies; its checksum is right."""
    draw = random.Random(f"{seed}/{number}")
    pieces = draw.choice(_taken_apart())
    count = draw.choice([1, 1, 1, 2, 3])
    for mutation in draw.choices(list(MUTATIONS), list(MUTATIONS.values()), k=count):
        pieces = mutation(draw, pieces)
    body = pieces.joined()
    return signed(_torn(draw, body) if draw.random() < 0.1 else body)


# --- The header ----------------------------------------------------------------------------------

ODD: list[Any] = [0, -1, 1, 2, 3, 8, 9, 59, 61, 255, 1000, 10**5, 10**7, 2**31, 2**63, 10**30]
ODD += [0.5, 1.0, -0.0, 1e-300, 1e308, float("nan"), float("inf"), True, False, None]
ODD += ["", "9", "dense", "svd", "uniform", "float16", "rhn", "matrix", "é" * 999, "\0", "../../x"]
ODD += [[], [1], [9], [9, 9], [10**7, 10**7], [1] * 9999, [[]], {}, {"kind": "dense"}]
ODD += [{"kind": "svd", "rank": {"energy": 0.5}}, {"kind": "float32"}, {"": {}}]


def _sizes(draw: random.Random, pieces: Pieces) -> Pieces:
    """A number is another one."""

    def other(value: Any) -> Any:
        return draw.choice([value + 1, value - 1, 2 * value, 10 * value, -value, draw.choice(ODD)])

    return _with_header(draw, pieces, (int, float), other)


def _values(draw: random.Random, pieces: Pieces) -> Pieces:
    """Something is something else altogether."""
    return _with_header(draw, pieces, object, lambda _: copy.deepcopy(draw.choice(ODD)))


def _keys(draw: random.Random, pieces: Pieces) -> Pieces:
    """A key is gone, new, or has another's value."""

    def other(value: Any) -> Any:
        if not value:
            return draw.choice(ODD)
        one, another = draw.choice(list(value)), draw.choice(list(value))
        rest = {key: item for key, item in value.items() if key != one}
        new = draw.choice(["x", "", "lstm.1.input", "kind", f"{one}.", "\ud800"])
        many = {f"{one}{i}": value[one] for i in range(draw.choice([1, 3000]))}
        swapped = value | {one: value[another], another: value[one]}
        return draw.choice([rest, value | {new: value[one]}, swapped, rest | many])

    return _with_header(draw, pieces, dict, other)


def _lists(draw: random.Random, pieces: Pieces) -> Pieces:
    """A list is longer or shorter."""

    def other(value: Any) -> Any:
        return draw.choice([value[:-1], value * 2, value * 1000, [*value, None], value[::-1]])

    return _with_header(draw, pieces, list, other)


def _text(draw: random.Random, pieces: Pieces) -> Pieces:
    """The header is no JSON, JSON spelled oddly, or far too much of it."""
    text = pieces.header
    place = draw.randrange(len(text) + 1)
    odd = [
        text[:place],
        text[:place] + bytes([draw.randrange(256)]) + text[place + 1 :],
        text[:-1] + b',"words":60}',
        text.replace(b":", b": ", draw.randrange(1, 9)),
        text.replace(b"60", b"6e1"),
        b"[" * draw.choice([100, 10**5]) + text,
        b'{"model":' * draw.choice([100, 10**5]) + text,
        b'{"model":' + b"9" * 10**5 + b"}",
        b" " + text,
        b"",
    ]
    return replace(pieces, header=draw.choice(odd))


def _with_header(
    draw: random.Random, pieces: Pieces, kind: Any, other: Callable[[Any], Any]
) -> Pieces:
    """One of the header's values of this kind is another one."""
    try:
        data = json.loads(pieces.header)
    except (ValueError, RecursionError):  # an earlier mutation's work
        return pieces
    places = [(x, key) for x, key in _places(data) if isinstance(x[key], kind)]
    if not places:
        return pieces
    holder, key = draw.choice(places)
    holder[key] = other(holder[key])
    return replace(pieces, header=json.dumps(data, sort_keys=True, separators=(",", ":")).encode())


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every dict or list within JSON data, with each of its keys or indices."""
    if not isinstance(value, dict | list):
        return
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        yield from _places(value[key])


# --- The word list -------------------------------------------------------------------------------


def _words(draw: random.Random, pieces: Pieces) -> Pieces:
    """Some words are gone, doubled, empty, odd or endless; their number may be told rightly."""
    shared, rests = list(pieces.shared), pieces.rests.split(b"\n")
    first = draw.randrange(len(rests))
    last = first + draw.choice([1, 1, 3, 50, 100])
    match draw.randrange(6):
        case 0:
            del shared[first:last], rests[first:last]
        case 1:
            shared[first:first], rests[first:first] = shared[first:last], rests[first:last]
        case 2:
            odd = [b"", b"\xff", b"\xed\xa0\x80", b"a b", b"<eos>", b"\xe2\x80\xa8", b"\0"]
            rests[first] = draw.choice([*odd, b"x" * draw.choice([300, 10**6])])
        case 3:
            shared[first:last] = [draw.randrange(256)] * len(shared[first:last])
        case 4:
            draw.shuffle(rests)
        case _:
            many = draw.choice([10**3, 10**5])
            shared += [0] * many
            rests += [b"%d" % i for i in range(many)]
    altered = replace(pieces, shared=bytes(shared), rests=b"\n".join(rests))
    if draw.random() < 0.5:
        return altered
    told = f'"words":{len(rests)}'.encode()
    return replace(altered, header=re.sub(rb'"words":\d+', told, pieces.header))


def _bytes_of_words(draw: random.Random, pieces: Pieces) -> Pieces:
    """Bytes of the word list are others."""
    if draw.random() < 0.5:
        return replace(pieces, shared=_noisy(draw, pieces.shared))
    return replace(pieces, rests=_noisy(draw, pieces.rests))


# --- The streams ---------------------------------------------------------------------------------


def _streams(draw: random.Random, pieces: Pieces) -> Pieces:
    """A stream is cut, longer, noise, another's, in another form, or gone."""
    streams = list(pieces.streams)
    if not streams:
        return pieces
    one, another = draw.randrange(len(streams)), draw.randrange(len(streams))
    old = streams[one]
    place = draw.randrange(len(old) + 1)
    match draw.randrange(8):
        case 0:
            streams[one] = old[:place]
        case 1:
            streams[one] = old + draw.randbytes(draw.choice([1, 4, 4000]))
        case 2:
            streams[one] = _noisy(draw, old)
        case 3:
            streams[one], streams[another] = streams[another], old
        case 4:
            streams[one] = bytes([draw.choice([0, 1, 2, 3, 255])]) + old[1:]
        case 5:
            streams[one] = old[:1] + draw.randbytes(draw.choice([len(old), 8, 4000]) // 4 * 4)
        case 6:
            del streams[one]
        case _:
            streams.insert(one, old)
    return replace(pieces, streams=tuple(streams))


def _equal_values(draw: random.Random, pieces: Pieces) -> Pieces:
    """Some streams, or all, hold equal values, of which five bytes hold any number."""
    level = draw.choice([0, 1, 127])
    equal = encode(np.full(1000, level), 0, 255)
    share = draw.choice([0.2, 1.0])
    streams = (equal if draw.random() < share else stream for stream in pieces.streams)
    return replace(pieces, streams=tuple(streams))


def _noisy(draw: random.Random, data: bytes) -> bytes:
    """Up to ten bytes are others."""
    altered = bytearray(data)
    for _ in range(draw.choice([1, 10]) if altered else 0):
        altered[draw.randrange(len(altered))] = draw.randrange(256)
    return bytes(altered)


# --- The bytes as they stand ---------------------------------------------------------------------


def _bombs(draw: random.Random, pieces: Pieces) -> Pieces:
    """What is packed unpacks to far more than it should."""
    return draw.choice(bombed(pieces))


def bombed(pieces: Pieces) -> list[Pieces]:
    """The pieces with each packed text in turn that of a bomb."""
    return [
        replace(pieces, header=BOMB),
        replace(pieces, shared=BOMB),
        replace(pieces, rests=BOMB),
        replace(pieces, shared=BOMB, rests=BOMB),
    ]


def _torn(draw: random.Random, body: bytes) -> bytes:
    """The frame around the pieces is broken: lengths lie, bytes are others, lost or new."""
    place = draw.randrange(len(body))
    length = _LENGTH.pack(draw.choice([0, 1, 255, 10**6, 2**31, 2**32 - 1]))
    return draw.choice(
        [
            body[:5] + length + body[9:],
            body[:4] + bytes([draw.choice([0, 1, 2, 255])]) + body[5:],
            body[:place],
            body[:place] + length + body[place + 4 :],
            body[:place] + draw.randbytes(draw.choice([1, 4, 64])) + body[place:],
            body[:9] + _noisy(draw, body[9:]),
            body + draw.randbytes(9),
        ]
    )


BOMB = b"a bomb"  # stands for a text of BOMB_BYTES equal letters


def _zlib(piece: bytes) -> bytes:
    return _bomb(zlib.compressobj) if piece is BOMB else zlib.compress(piece)


def _bz2(piece: bytes) -> bytes:
    return _bomb(bz2.BZ2Compressor) if piece is BOMB else bz2.compress(piece, 1)


@lru_cache
def _bomb(compressor: Callable[[], Any]) -> bytes:
    packer, part = compressor(), bytes(1 << 20)
    parts = [packer.compress(part) for _ in range(BOMB_BYTES // len(part))]
    return b"".join([*parts, packer.flush()])


MUTATIONS: dict[Callable[[random.Random, Pieces], Pieces], int] = {  # and how often each is drawn
    _sizes: 6,
    _values: 3,
    _keys: 3,
    _lists: 1,
    _text: 2,
    _words: 3,
    _bytes_of_words: 1,
    _streams: 4,
    _equal_values: 2,
    _bombs: 1,
}
