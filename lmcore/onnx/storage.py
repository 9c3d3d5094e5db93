"""How the values of leaves stand in an ONNX file.

A file has codes, not the floats that they stand for. What reads the codes are ordinary operators
on constants, which onnxruntime computes once, when it loads the file. What each codec becomes:

- `uniform`: its integers, in 8 bits, or in 4, 2 or 1 where they fit, and a step a matrix or a row;
- `linear`: the same, with an offset; one of groups of columns is read as floats;
- `kmeans`, `multibit`: the levels as a table and the codes as indices into it, in as few bits; the
  floats themselves where the table is larger than they are (many bits, a table a row);
- `float16`, `float32`: as they are. Any other codec: what it decodes to.

Where a leaf has a mask, one bit a value says which are kept, and only these have codes.
A matrix of integers (`Integers`) may also be multiplied as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lmcore.codec import Array, matrix_shape
from lmcore.compress.codebooks import KMeans, MultiBit
from lmcore.compress.quantization import GroupedCodec, Linear
from lmcore.compress.uniform import Uniform
from lmcore.leaf import Leaf
from lmcore.onnx.graph import Graph

FIELDS = (1, 2, 4)  # bits of a code, several codes to a byte; else a byte a code


@dataclass(frozen=True)
class Integers:
    """A matrix (rows, columns) whose values are scale x (code - zero) + offset."""

    stored: str  # of 8 bits: int8 (rows, columns), zero 0; else what `packed` makes of the codes
    bits: int
    zero: int
    shape: tuple[int, int]
    scale: str  # float32 (1,) or (rows,), a number each where it is `by_row`
    offset: str  # the same; "" is none
    by_row: bool


class Storage:
    """The leaves of one file, each stored once however often it is read."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph.root
        self._floats: dict[int, str] = {}
        self._integers: dict[int, Integers | None] = {}
        self._signed: dict[int, str] = {}

    def floats(self, leaf: Leaf) -> str:
        """float32, shape of the leaf."""
        if id(leaf) not in self._floats:
            values = self._as_floats(leaf)
            whole = len(leaf.shape) == 2
            self._floats[id(leaf)] = values if whole else self.graph.reshaped(values, [-1])
        return self._floats[id(leaf)]

    def integers(self, leaf: Leaf) -> Integers | None:
        """The codes of a matrix whose values are equal steps; None where they are not."""
        if id(leaf) not in self._integers:
            self._integers[id(leaf)] = self._as_integers(leaf)
        return self._integers[id(leaf)]

    def signed(self, leaf: Leaf) -> str:
        """int8 (rows, columns): code - zero, of a leaf that has `integers`."""
        if id(leaf) not in self._signed:
            self._signed[id(leaf)] = self._as_signed(leaf)
        return self._signed[id(leaf)]

    # --- whole numbers --------------------------------------------------------------------------

    def _as_integers(self, leaf: Leaf) -> Integers | None:
        codec = leaf.codec
        if leaf.spec.kept is not None:
            return None
        codes, tables = _symbols(leaf), leaf.codes().tables
        if isinstance(codec, Uniform):
            steps = codec.steps(tables)
            return self._integers_of(codes, self._numbers(steps), "", by_row=len(steps) > 1)
        if isinstance(codec, Linear) and not isinstance(codec.scope, int):
            by_row = len(tables["step"]) > 1
            step, low = (self._numbers(tables[name]) for name in ("step", "low"))
            middle = 1 << (codec.bits - 1)
            up = self.graph.op("Mul", step, self.graph.constant(np.float32(middle)))
            offset = self.graph.op("Add", low, up)
            return self._integers_of(codes - middle, step, offset, by_row)
        return None

    def _numbers(self, table: Tensor) -> str:
        """float32 (n,): of a table whose numbers are of half precision."""
        return self.graph.floats(self.graph.constant(smallest_floats(_array(table).reshape(-1))))

    def _integers_of(self, codes: Array, scale: str, offset: str, by_row: bool) -> Integers:
        low, high = int(codes.min()), int(codes.max())
        shape, bits = (codes.shape[0], codes.shape[1]), fewest_bits(high - low + 1)
        if bits == 8:
            stored = self.graph.constant(codes.astype(np.int8))
            return Integers(stored, bits, 0, shape, scale, offset, by_row)
        half = 1 << (bits - 1)
        zero = half if -half <= low and high < half else -low
        stored = self.graph.constant(packed(codes + zero, bits))
        return Integers(stored, bits, zero, shape, scale, offset, by_row)

    def _as_signed(self, leaf: Leaf) -> str:
        from onnx import TensorProto

        whole = self.integers(leaf)
        assert whole is not None, "only a leaf that has integers is asked for them"
        if whole.bits == 8:
            return whole.stored
        codes = self._unpacked(whole.stored, whole.bits, whole.shape)
        numbers = self.graph.op("Sub", codes, self.graph.constant(np.int32(whole.zero)))
        return self.graph.op("Cast", numbers, to=TensorProto.INT8)

    # --- floats (rows, columns) -----------------------------------------------------------------

    def _as_floats(self, leaf: Leaf) -> str:
        if (whole := self.integers(leaf)) is not None:
            return self._scaled(self.signed(leaf), whole)
        if leaf.spec.kept == 0:
            return self.graph.filled(np.float32(0), matrix_shape(leaf.shape))
        return self._steps(leaf) or self._levels(leaf) or self._plain(leaf)

    def _scaled(self, codes: str, whole: Integers) -> str:
        """int8 codes (rows, columns), less their zero -> what they stand for."""
        column = [-1, 1]
        values = self.graph.floats(codes)
        values = self.graph.op("Mul", values, self.graph.reshaped(whole.scale, column))
        if not whole.offset:
            return values
        return self.graph.op("Add", values, self.graph.reshaped(whole.offset, column))

    def _steps(self, leaf: Leaf) -> str | None:
        """Equal steps that change along a row, or of which some are masked."""
        if not isinstance(leaf.codec, Linear):
            return None
        step, low = (self.graph.constant(_array(leaf.codes().tables[n])) for n in ("step", "low"))
        codes = self.graph.floats(self._by_group(leaf, leaf.codec))
        values = self.graph.op("Add", self.graph.op("Mul", codes, step), low)
        return self._masked(leaf, self._whole_rows(leaf, values))

    def _levels(self, leaf: Leaf) -> str | None:
        """Indices into a table of levels, where both are smaller than the floats."""
        codec, tables = leaf.codec, leaf.codes().tables
        if isinstance(codec, KMeans):
            levels = tables["levels"]  # (1 or rows, groups, 2^bits)
        elif isinstance(codec, MultiBit):
            rows = codec.levels(tables["alpha"].flatten(0, 1))
            levels = rows.view(*tables["alpha"].shape[:2], -1)
        else:
            return None
        table = smallest_floats(_array(levels))
        if table.nbytes + leaf.data.numel() * codec.bits / 8 >= 4 * leaf.data.numel():
            return None
        known = self.graph.floats(self.graph.constant(table))
        index = self._by_group(leaf, codec)
        if table.shape[:2] == (1, 1):
            values = self.graph.op("Gather", self.graph.reshaped(known, [-1]), index)
        else:
            values = self.graph.op("GatherElements", known, index, axis=2)
        return self._masked(leaf, self._whole_rows(leaf, values))

    def _plain(self, leaf: Leaf) -> str:
        values = _array(leaf.value()).reshape(matrix_shape(leaf.shape))
        if leaf.spec.kept is None:
            return self.graph.floats(self.graph.constant(smallest_floats(values)))
        kept = self.graph.constant(smallest_floats(values[_mask(leaf)]))
        return self._masked(leaf, self._spread(leaf, self.graph.floats(kept)))

    def _by_group(self, leaf: Leaf, codec: GroupedCodec) -> str:
        """int32 codes (rows, groups, columns of a group), the last group filled up with 0."""
        (rows, columns), bits = matrix_shape(leaf.shape), fewest_bits(1 << codec.bits)
        symbols = _symbols(leaf)
        if leaf.spec.kept is not None:
            symbols = symbols[_mask(leaf)]
        codes = self._unpacked(self.graph.constant(packed(symbols, bits)), bits, symbols.shape)
        if leaf.spec.kept is not None:
            codes = self._spread(leaf, codes)
        width = codec.scope if isinstance(codec.scope, int) else columns
        if rest := -columns % width:
            codes = self.graph.op("Pad", codes, self.graph.constant([0, 0, 0, rest]))
        return self.graph.reshaped(codes, [rows, -1, width])

    def _whole_rows(self, leaf: Leaf, values: str) -> str:
        """(rows, groups, columns of a group) -> (rows, columns)."""
        rows, columns = matrix_shape(leaf.shape)
        ends = (self.graph.constant([number]) for number in (0, columns, 1))
        return self.graph.op("Slice", self.graph.reshaped(values, [rows, -1]), *ends)

    # --- masks and fields of bits ---------------------------------------------------------------

    def _spread(self, leaf: Leaf, kept: str) -> str:
        """The kept values (n,), one at least, at their places (rows, columns); any elsewhere."""
        flat = self.graph.reshaped(self._kept(leaf), [-1])
        counted = self.graph.op("CumSum", flat, self.graph.constant(np.int32(0)))
        places = self.graph.op("Sub", counted, flat)
        last = self.graph.constant(np.int32((leaf.spec.kept or 1) - 1))
        places = self.graph.op("Min", places, last)
        return self.graph.reshaped(self.graph.op("Gather", kept, places), matrix_shape(leaf.shape))

    def _masked(self, leaf: Leaf, values: str) -> str:
        if leaf.spec.kept is None:
            return values
        return self.graph.op("Mul", values, self.graph.floats(self._kept(leaf)))

    def _kept(self, leaf: Leaf) -> str:
        """int32 (rows, columns): 1 where a value is kept."""
        mask = _mask(leaf)
        return self._unpacked(self.graph.constant(packed(mask.astype(np.int32), 1)), 1, mask.shape)

    def _unpacked(self, stored: str, bits: int, shape: Sequence[int]) -> str:
        """int32 codes of that shape of the bytes that `packed` made of them."""
        from onnx import TensorProto

        if bits in FIELDS:
            shifts = self.graph.constant(np.arange(0, 8, bits, dtype=np.uint8))
            column = self.graph.reshaped(stored, [-1, 1])
            fields = self.graph.op("BitShift", column, shifts, direction="RIGHT")
            ones = self.graph.constant(np.uint8((1 << bits) - 1))
            fields = self.graph.op("BitwiseAnd", fields, ones)
            ends = (self.graph.constant([number]) for number in (0, int(np.prod(shape))))
            stored = self.graph.op("Slice", self.graph.reshaped(fields, [-1]), *ends)
        numbers = self.graph.op("Cast", stored, to=TensorProto.INT32)
        return self.graph.reshaped(numbers, shape)


def fewest_bits(count: int) -> int:
    """How wide a field for so many different codes is."""
    return next((bits for bits in FIELDS if count <= 1 << bits), 8)


def packed(codes: Array, bits: int) -> Array:
    """Codes of 0 and more, of any shape -> uint8 (bytes,), the first code in the lowest bits."""
    flat = codes.ravel().astype(np.uint8)
    if bits not in FIELDS:
        return flat
    fields = np.pad(flat, (0, -len(flat) % (8 // bits))).reshape(-1, 8 // bits)
    shifted: Array = fields << np.arange(0, 8, bits, dtype=np.uint8)
    joined: Array = np.bitwise_or.reduce(shifted, axis=1)
    return joined


def smallest_floats(values: Array) -> Array:
    """In half precision where that holds each value exactly, else in single."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values, equal_nan=True) else values


def _symbols(leaf: Leaf) -> Array:
    return _array(leaf.codes().symbols).reshape(matrix_shape(leaf.shape))


def _mask(leaf: Leaf) -> Array:
    assert leaf.mask is not None, "what keeps some of its values has a mask"
    return _array(leaf.mask).reshape(matrix_shape(leaf.shape))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()
