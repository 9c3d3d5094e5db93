"""The context form of `lmcore.coding`: a matrix, each value predicted from those before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lmcore.range_coding import Categorical, Ints, Longs, Port, Uniform, integer_tables, pieces

Floats = NDArray[np.float64]

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


def code_matrix(port: Port, shifted: Ints, top: int) -> None:
    """Code the context form of a matrix of values in [0, top]; a reader fills it in place."""
    matrix = shifted if shifted.shape[0] >= shifted.shape[1] else shifted.T
    median = np.median(matrix) if port.writes else 0
    centre = port(np.array([median], dtype=np.int32), Uniform(top + 1))
    context = _Context(port, int(centre[0]), top)
    groups = -(-matrix.shape[1] // GROUP)
    for group in np.array_split(matrix, groups, axis=1):  # views
        context.code(group)


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
    both: Floats = np.hstack([gram + ridge, np.eye(n)])
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
        self.tables = integer_tables(self.counts, REACH)
        self.waiting: list[Longs] = []  # (class, symbol) as one number, not yet in the tables
        self.unseen, self.seen = 0, 0

    def code(self, matrix: Ints) -> None:
        """Code (rows, columns); a reader fills it in place."""
        columns = matrix.shape[1] + 1  # the first is the constant's
        gram, errors = np.zeros((columns, columns)), np.zeros(columns)
        for start, stop in pieces(matrix.shape[0], 32, 2):
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
            self.tables[rows] = integer_tables(self.counts[rows], REACH)
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
