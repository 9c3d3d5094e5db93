"""Lossless coding of integer arrays, in the smallest of three forms.

The first byte of the data says which form it is:

raw      Each value takes ceil(log2(levels)) bits. `encode` never gives more than this.
order 0  The values are range-coded under one table of frequencies, which adapts to the values that
         came before. The size is about the entropy of the values. No table is stored.
context  A matrix is coded column by column. A value is predicted from the earlier columns of its
         row, by ridge regression learned on earlier rows. The rest, value less prediction, is
         range-coded under adaptive tables. Its table is chosen by the rest's expected size (of
         its row and its column) and by where the prediction lies between two integers. Nothing
         is stored beside the code: the reader learns the same from what it has read.

These forms are the file format: a file that was written once must be read forever.

The same bytes everywhere, since all that decides a probability is exact or correctly rounded:
- Tables are integers. constriction's `Categorical(perfect=False)` gives each of n symbols the
  frequency 1 + p (2^24 - n) / sum(p), from cumulative sums rounded down. Our p are integers that
  sum to 2^24 - n: the scale is 1, float32 holds every sum, the frequencies are p + 1 exactly.
- float64 serves for + - * / sqrt of single elements, which IEEE 754 rounds alike everywhere (no
  libm), and for sums and matrix products of integers below 2^53, or of multiples of 2^-12 below
  2^41: exact, in whatever order BLAS adds them. `context_form.py` keeps to this.

Bits a weight of the six matrices of a trained 2 x 200 model, codes of a uniform step (in sd):
    step           0.3   0.8   1.3   1.6   2.3   3.0
    entropy       3.63  2.18  1.48  1.20  0.74  0.46
    context       3.14  1.76  1.15  0.92  0.56  0.35    (a tied model gains 7 to 12%)
What that rests on: growth in % at 1.6 sd, of four matrices, where a part is left out or changed.
    prediction    29 11 9 1  (embedding, decoder,    row sizes                  5 7 6 2
                              input 0, recurrent 1)  column sizes               0 6 0 2
    prior of the tables       1 2 9 6                row weights in regression  0 1 0 0
    its constant     0 0 0 0, masks 1.4              the sign's symmetry        .1 .2 .2 .2
Tried and lost: regression in groups of 100 columns 8 4 4 1, in groups of 50 17 8 8 1; ridge 30
1 1 2 1, 1000 1 0 1 0; squared row weights 1 0 1 0; column sizes net of row sizes, recent columns
weighing more, a prior that follows the prediction 0 0 0 0; six scales an octave 0 1 1 0. Not
tried, since residuals correlate by .1 to .3 between input and output gate and hardly elsewhere
(worth at most 1.5% of one matrix): the same unit's rows of the other gates as regressors.
"""

from __future__ import annotations

from typing import Any

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from lmcore.context_form import code_matrix
from lmcore.range_coding import Categorical, Ints, Port, Uniform, integer_tables, pieces

RAW, ORDER0, CONTEXT = 0, 1, 2


def raw_size(count: int, low: int, high: int) -> int:
    """Bytes of the plain bit-packed form, tag included; `encode` never returns more."""
    return 1 + (count * _width(low, high) + 7) // 8


def encode(symbols: NDArray[Any], low: int, high: int) -> bytes:
    """The data of integers in [low, high], of any shape.

    Neither shape nor range is stored. Raises ValueError for values that are no integers or lie
    outside the range.
    """
    width, values = _width(low, high), np.asarray(symbols)
    if values.size == 0:
        return bytes([RAW])
    if values.dtype.kind not in "iub":
        raise ValueError(f"symbols must be integers, not {values.dtype}")
    least, most = int(values.min()), int(values.max())
    if least < low or most > high:
        raise ValueError(f"symbols {least}..{most} lie outside [{low}, {high}]")
    shifted = (values.astype(np.int64) - low).astype(np.int32)
    forms = [
        bytes([form]) + _write(form, shifted, high - low)
        for form in (ORDER0, CONTEXT)
        if _can_hold(form, shifted.shape, high - low)
    ]
    smallest = min(forms, key=len, default=b"")
    if smallest and len(smallest) < raw_size(values.size, low, high):
        return smallest
    bits = (shifted.reshape(-1, 1) >> np.arange(width, dtype=np.int32)[::-1]) & 1
    return bytes([RAW]) + np.packbits(bits.astype(np.uint8)).tobytes()


def decode(data: bytes, shape: int | tuple[int, ...], low: int, high: int) -> Ints:
    """The array that `encode` was given; ValueError where the data cannot be one.

    Damage that range coding does not notice gives other values of this shape and range.
    """
    width, shape = _width(low, high), (shape,) if isinstance(shape, int) else tuple(shape)
    form, body = data[0] if data else -1, data[1:]
    if form == RAW:
        shifted = _unpack(body, shape, width)
    elif form in (ORDER0, CONTEXT) and _can_hold(form, shape, high - low):
        shifted = _read(form, body, shape, high - low)
    else:
        raise ValueError(f"damaged data: form {form} cannot hold {shape} in [{low}, {high}]")
    if shifted.size and shifted.max() > high - low:
        raise ValueError(f"damaged data: a value lies outside [{low}, {high}]")
    shifted += np.int32(low)
    return shifted


def _width(low: int, high: int) -> int:
    if not 0 <= high - low < 1 << 16:
        raise ValueError(f"the range [{low}, {high}] must have 1 to 65536 levels")
    return (high - low).bit_length()


def _unpack(body: bytes, shape: tuple[int, ...], width: int) -> Ints:
    count = int(np.prod(shape, dtype=np.int64))
    if len(body) != (count * width + 7) // 8:
        raise ValueError(f"damaged data: {len(body)} bytes for {count} values of {width} bits")
    bits = np.unpackbits(np.frombuffer(body, np.uint8), count=count * width)
    places = np.int32(1) << np.arange(width, dtype=np.int32)[::-1]
    return np.asarray(bits.reshape(count, width) @ places, dtype=np.int32).reshape(shape)


def _can_hold(form: int, shape: tuple[int, ...], top: int) -> bool:
    size = int(np.prod(shape, dtype=np.int64))
    if top == 0 or size == 0 or form == ORDER0:
        return top > 0 and size > 0
    # A tiny array gains nothing; a wide range or 2^20 rows could leave exact arithmetic.
    return len(shape) == 2 and min(shape) > 1 and size >= 256 and top < 512 and max(shape) < 1 << 20


# --- Range coding: a form is described once, for both directions --------------------------------


class _Writer:
    writes = True

    def __init__(self) -> None:
        self.coder = constriction.stream.queue.RangeEncoder()

    def __call__(self, values: Ints, model: Any, *params: Any) -> Ints:
        self.coder.encode(values, model, *params)
        return values


class _Reader:
    writes = False

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self.coder = constriction.stream.queue.RangeDecoder(words)

    def __call__(self, values: Ints, model: Any, *params: Any) -> Ints:
        count = () if params else (values.size,)
        return np.asarray(self.coder.decode(model, *params, *count), dtype=np.int32)


def _write(form: int, shifted: Ints, top: int) -> bytes:
    port = _Writer()
    _code(form, port, shifted.copy(), top)
    return bytes(port.coder.get_compressed().astype("<u4").tobytes())


def _read(form: int, body: bytes, shape: tuple[int, ...], top: int) -> Ints:
    if len(body) % 4:
        raise ValueError(f"damaged data: {len(body)} bytes are not a whole number of words")
    port = _Reader(np.frombuffer(body, "<u4").astype(np.uint32))
    shifted = np.zeros(shape, dtype=np.int32)
    try:
        _code(form, port, shifted, top)
    except AssertionError as error:  # constriction's word for bits that no symbol has
        raise ValueError(f"damaged data: {error}") from None
    if not port.coder.maybe_exhausted():
        raise ValueError("damaged data: some of it is left over")
    return shifted


def _code(form: int, port: Port, shifted: Ints, top: int) -> None:
    """Code values in [0, top]; a reader fills `shifted` in place."""
    if form == ORDER0:
        _order0(port, shifted.reshape(-1), top)
        return
    code_matrix(port, shifted, top)


def _order0(port: Port, flat: Ints, top: int) -> None:
    ends = np.array([flat.min(), flat.max()], dtype=np.int32)
    least, most = map(int, port(ends, Uniform(top + 1)))
    if least >= most:  # a writer's are equal; a reader of damaged data gets what it asked for
        flat[:] = least
        return
    counts = np.ones(most - least + 1, dtype=np.int64)
    for start, stop in pieces(flat.size, 16, 4):
        model = Categorical(integer_tables(counts, int(counts.argmax())), perfect=False)
        symbols = port(flat[start:stop] - np.int32(least), model)
        flat[start:stop] = symbols + np.int32(least)
        counts += 4 * np.bincount(symbols, minlength=counts.size)
