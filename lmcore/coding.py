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
  2^41: exact, in whatever order BLAS adds them. `_regression` and `_Context` keep to this.

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

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Protocol

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

RAW, ORDER0, CONTEXT = 0, 1, 2
TOTAL = 1 << 24  # of a table's frequencies: constriction's precision in Python
Categorical = constriction.stream.model.Categorical
Uniform = constriction.stream.model.Uniform


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


class Port(Protocol):
    """Passes values through the range coder, in one direction.

    A port that `writes` codes the values under the model and returns them. A port that reads
    returns what it reads; of the values that it is given only their number matters. So a form is
    written once for both directions: it goes on with the values that the port returned.
    """

    writes: bool

    def __call__(self, values: Ints, model: Any, *params: Any) -> Ints: ...


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
    matrix = shifted if shifted.shape[0] >= shifted.shape[1] else shifted.T
    median = np.median(matrix) if port.writes else 0
    centre = port(np.array([median], dtype=np.int32), Uniform(top + 1))
    context = _Context(port, int(centre[0]), top)
    groups = -(-matrix.shape[1] // GROUP)
    for group in np.array_split(matrix, groups, axis=1):  # views
        context.code(group)


def _integer_tables(counts: Longs, rest: int) -> NDArray[np.float32]:
    """Counts (..., n) as integers that sum to 2^24 - n; `rest` takes what rounding leaves."""
    free = TOTAL - counts.shape[-1]
    tables: Longs = counts * free // counts.sum(-1, keepdims=True)
    tables[..., rest] += free - tables.sum(-1)
    return tables.astype(np.float32)


def _pieces(count: int, first: int, part: int) -> Iterator[tuple[int, int]]:
    """Pieces as long as 1/part of all before them, from which a model of them is learned."""
    edges = [0]
    while edges[-1] < count:
        edges.append(min(count, edges[-1] + max(first, edges[-1] // part)))
    return pairwise(edges)


def _order0(port: Port, flat: Ints, top: int) -> None:
    ends = np.array([flat.min(), flat.max()], dtype=np.int32)
    least, most = map(int, port(ends, Uniform(top + 1)))
    if least >= most:  # a writer's are equal; a reader of damaged data gets what it asked for
        flat[:] = least
        return
    counts = np.ones(most - least + 1, dtype=np.int64)
    for start, stop in _pieces(flat.size, 16, 4):
        model = Categorical(_integer_tables(counts, int(counts.argmax())), perfect=False)
        symbols = port(flat[start:stop] - np.int32(least), model)
        flat[start:stop] = symbols + np.int32(least)
        counts += 4 * np.bincount(symbols, minlength=counts.size)


# --- The context form ---------------------------------------------------------------------------

GROUP = 400  # columns that predict one another: elimination costs the cube
RIDGE = 300.0  # in rows of the mean column's second moment
REACH = 15  # a residual beyond this, its low bits taken off, escapes to a plain value
TOGETHER = 1 << 16  # values that a writer looks at together: what the processor's cache holds
PRIOR, STEP = 640, 32  # what a table's counts sum to at first, and what a symbol adds
CUBE_ROOTS = np.array([1.0, 1.2599210498948732, 1.5874010519681994])
SIZES = (np.ldexp(1.0, np.arange(-4, 6))[:, None] * CUBE_ROOTS).ravel()[:28]  # mean |residual|
BOUNDS = SIZES[1:] * 0.8908987181403393  # 2^(-1/6): half a step below
LOW_BITS = np.maximum(0, np.frexp(SIZES / 3)[1]).astype(np.int32)  # coded plainly
WIDE = int(np.searchsorted(SIZES, 1.5, side="right"))  # from this size on, where a prediction
SPLIT_OF_WIDE = 4  # lies tells nothing: the tables are too wide
LOW = int(np.flatnonzero(LOW_BITS)[0])  # the first size with low bits
NEAR = [0.02, 0.05, 0.09, 0.14, 0.2, 0.28, 0.38]  # splits |prediction| where that is under 1/2
FAR = np.arange(1, 8) / 8 - 0.5  # and its distance from the nearest integer elsewhere
EDGES = np.array([*NEAR, *(1 + FAR)])  # both on one line


def _slices(first: int, last: int, step: int) -> Iterator[slice]:
    """first to last, so many at once."""
    return (slice(at, min(at + step, last)) for at in range(first, last, step))


def _regression(gram: Floats, rows: int) -> Floats:
    """(n, n), strictly lower: row j predicts column j from those before, in multiples of 2^-12.

    Elimination turns [gram | 1] into [D L' | 1/L], and 1 - 1/L holds all the regressions at once.
    """
    n = len(gram)
    if rows == 0:
        return np.zeros((n, n))
    ridge = np.eye(n) * (RIDGE * gram.trace() / (rows * n))
    both = np.hstack([gram + ridge, np.eye(n)])
    product = np.empty((n, n))
    for k in range(n - 1):
        rest, part = both[k + 1 :, k + 1 : n + k + 1], product[: n - k - 1]  # beyond are zeros
        factor = (both[k + 1 :, k] / both[k, k])[:, None]
        np.multiply(factor, both[k, k + 1 : n + k + 1], out=part)
        np.subtract(rest, part, out=rest)
    return np.clip(np.rint((np.eye(n) - both[:, n:]) * 4096), -(1 << 18), 1 << 18) / 4096


class _Guess:
    """What is expected of values, by their predictions and expected |error|: all of one shape."""

    def __init__(self, predicted: Floats, sizes: Floats) -> None:
        self.sign = np.where(predicted < 0, -1.0, 1.0)
        distance = np.abs(predicted)
        self.nearest = np.floor(distance + 0.5)
        far = np.minimum(self.nearest, 1)  # 0 or 1
        scale = BOUNDS.searchsorted(sizes)
        distance -= self.nearest
        distance += far
        split = EDGES.searchsorted(distance, side="right")
        offset = far.astype(np.int64)
        self.low_bits: Ints | None = None
        if (largest := scale.max()) >= WIDE:
            split = np.where(scale >= WIDE, SPLIT_OF_WIDE + len(NEAR) * offset, split)
            self.low_bits = LOW_BITS[scale] if largest >= LOW else None
        offset *= 8 * SIZES.size - len(NEAR)
        self.classes: Longs = 8 * scale + split + offset


class _Context:
    """Tables, and how they are chosen: one for each (prediction under 1/2 or not, scale, split)."""

    def __init__(self, port: Port, centre: int, top: int) -> None:
        self.port, self.centre, self.top = port, centre, top
        size = SIZES / (1 << LOW_BITS)
        ratio = (np.sqrt(1 + size * size) - 1) / size  # a two-sided geometric's of this mean size
        powers = np.cumprod([np.ones(size.size), *[ratio] * REACH], axis=0)
        shape = np.vstack([powers[:0:-1], powers, np.zeros(size.size)]).T  # (28, 32)
        parts = np.floor(shape * 65536).astype(np.int64)
        counts: Longs = PRIOR * parts // parts.sum(-1, keepdims=True) + 1
        self.counts = np.tile(counts.repeat(8, axis=0), (2, 1))  # (2 x 28 x 8, 32)
        self.tables = _integer_tables(self.counts, REACH)
        self.waiting: list[Longs] = []  # (class, symbol) as one number, not yet in the tables
        self.unseen, self.seen = 0, 0

    def code(self, matrix: Ints) -> None:
        """Code (rows, columns); a reader fills it in place."""
        columns = matrix.shape[1] + 1  # the first is the constant's
        gram, errors = np.zeros((columns, columns)), np.zeros(columns)
        for start, stop in _pieces(matrix.shape[0], 32, 2):
            piece = np.ones((columns, stop - start))
            piece[1:] = matrix[start:stop].T - np.int32(self.centre)
            mean = (errors.sum() + 1) / (start * matrix.shape[1] + 1)
            expected = (errors + 8 * mean) / (start + 8) if start else None
            weights, new = self._piece(piece, _regression(gram, start), expected)
            gram += (piece * weights) @ piece.T
            errors += new
            matrix[start:stop] = piece[1:].T + self.centre

    def _piece(
        self, piece: Floats, coefficients: Floats, expected: Floats | None
    ) -> tuple[Floats, Floats]:
        """Code rows, given as (columns + 1, r) and the columns' expected |error|, if any is known.

        Returns the rows' weights (r,) in later regressions, and each column's sum of |error|.
        """
        code = self._written if self.port.writes else self._read
        errors, total = code(piece, coefficients, expected)
        return np.clip(np.rint(16 * (9 + len(piece)) / total), 1, 256), errors

    def _read(
        self, piece: Floats, coefficients: Floats, expected: Floats | None
    ) -> tuple[Floats, Floats]:
        """Fill in rows, column after column; the columns' and the rows' sums of |error|, those of
        rows in units of the expected."""
        n, r = piece.shape
        predictions, errors = np.zeros((n, r)), np.zeros(n)
        total, nothing = np.full(r, 10.0), np.zeros(r, dtype=np.int32)
        done = 0  # columns that `predictions` has taken in
        for j in range(1, n):
            if j - done == 16:
                predictions[j:] += coefficients[j:, done:j] @ piece[done:j]
                done = j
            predicted = predictions[j] + coefficients[j, done:j] @ piece[done:j]
            np.minimum(predicted, self.top, out=predicted)
            np.maximum(predicted, -self.top, out=predicted)
            size = (errors.sum() + 0.5 * r) / (j * r) if expected is None else expected[j]
            guess = _Guess(predicted, total * (size / (9 + j)))
            symbols = self._adaptive(guess.classes, nothing)
            residual = symbols - np.int32(REACH)
            if guess.low_bits is not None:
                residual <<= guess.low_bits
                residual += self._low(nothing.copy(), guess.low_bits)
            value = np.add(guess.nearest, residual, out=piece[j])
            value *= guess.sign
            self._escaped(value, symbols)
            error = np.abs(np.subtract(value, predicted, out=predicted), out=predicted)
            errors[j] = error.sum()
            total += error / size
        if piece[1:].min() < -self.centre or piece[1:].max() > self.top - self.centre:
            raise ValueError("damaged data: a value lies outside its range")
        return errors, total

    def _written(
        self, piece: Floats, coefficients: Floats, expected: Floats | None
    ) -> tuple[Floats, Floats]:
        """What `_read` does column after column, of many columns at once, since they are known."""
        n, r = piece.shape
        errors, total = np.zeros(n), np.full(r, 10.0)
        for own in _slices(1, n, max(1, TOGETHER // r)):
            predicted = np.clip(coefficients[own] @ piece, -self.top, self.top)
            error = np.abs(piece[own] - predicted)
            errors[own] = error.sum(1)
            before = np.arange(own.start, own.stop)
            found = (errors.cumsum()[before - 1] + 0.5 * r) / (before * r)
            size = found if expected is None else expected[own]
            # one after the other, since these sums are rounded
            totals = np.vstack([total, error / size[:, None]]).cumsum(0)
            total = totals[-1]
            guess = _Guess(predicted, totals[:-1] * (size / (9 + before))[:, None])
            self._put(piece[own], guess)
        return errors, total

    def _put(self, values: Floats, guess: _Guess) -> None:
        """Write (columns, r)."""
        residual = (values * guess.sign - guess.nearest).astype(np.int32)
        shift = 0 if guess.low_bits is None else guess.low_bits
        symbols = (residual >> shift) + np.int32(REACH)
        symbols[(symbols < 0) | (symbols > 2 * REACH)] = 2 * REACH + 1
        low = residual & ((1 << shift) - 1)
        for j, column in enumerate(values):
            self._adaptive(guess.classes[j], symbols[j])
            if guess.low_bits is not None:
                self._low(low[j], guess.low_bits[j])
            self._escaped(column, symbols[j])

    def _adaptive(self, classes: Longs, symbols: Ints) -> Ints:
        symbols = self.port(symbols, Categorical(perfect=False), self.tables.take(classes, axis=0))
        self.waiting.append(classes * self.counts.shape[1] + symbols)
        self.unseen += symbols.size
        if self.unseen * 16 >= self.seen:
            new = np.bincount(np.concatenate(self.waiting), minlength=self.counts.size)
            new = new.reshape(self.counts.shape)
            rows = np.flatnonzero(new.any(1))
            self.counts[rows] += STEP * new[rows]
            self.tables[rows] = _integer_tables(self.counts[rows], REACH)
            self.waiting = []
            self.seen, self.unseen = self.seen + self.unseen, 0
        return symbols

    def _low(self, low: Ints, low_bits: Ints) -> Ints:
        """Code the low bits of residuals, plainly; a reader fills them in place."""
        for bits in range(1, int(low_bits.max()) + 1):
            if (some := low_bits == bits).any():
                low[some] = self.port(low[some], Uniform(1 << bits))
        return low

    def _escaped(self, values: Floats, symbols: Ints) -> None:
        """Code the values whose symbols say that they are out of reach; a reader fills them in."""
        if symbols.max() > 2 * REACH:
            some = symbols > 2 * REACH
            plain = (values[some] + self.centre).astype(np.int32)
            values[some] = self.port(plain, Uniform(self.top + 1)) - np.int32(self.centre)
