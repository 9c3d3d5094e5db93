"""Bits: how the values of a leaf are coded, and what the file holds of a leaf.

A codec is settings alone: what it learns from the data (steps, levels) stands in the `Codes` that
it makes. `assign` finds the codes of a float tensor, `decode` the values that the codes stand for,
`streams` the integers that are written to the file. All leave the tensor's shape as it is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import BeforeValidator, SerializeAsAny

from lmcore.coding import raw_size
from lmcore.lazy import torch
from lmcore.settings import Family

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Array = np.ndarray[Any, Any]
Ladder = list[dict[str, Any]]  # settings of one kind, from the smallest file to the largest
Tables: TypeAlias = "dict[str, Tensor]"

LEAF_BYTES = 40  # of a leaf beside its streams: the lengths before them, its place in the header
MASK_BYTES = 24  # the same of a mask


@dataclass(frozen=True)
class Codes:
    """What a codec makes of a leaf."""

    symbols: Tensor  # the leaf's shape; integers, or the values themselves in a float format
    tables: Tables = field(default_factory=dict)  # what `decode` reads them with

    def to(self, device: torch.device) -> Codes:
        """The codes on another device."""
        tables = {name: table.to(device) for name, table in self.tables.items()}
        return Codes(self.symbols.to(device), tables)


@dataclass(frozen=True)
class Stream:
    """A run of integers in [low, high] in the file; `shape` is (n,) or (rows, columns)."""

    name: str
    shape: Shape
    low: int
    high: int
    is_codes: bool = True  # not a mask, nor a table that codes are read with


@dataclass(frozen=True)
class Evidence:
    """What is known of how much the values of a leaf (rows, columns) matter; None: all alike."""

    importance: Tensor | None = None  # (rows, columns): mean squared gradient of the loss
    inputs: Tensor | None = None  # (columns, columns): second moments of what they multiply
    counts: Tensor | None = None  # (rows,): how often the training text has a row's word

    def to(self, device: torch.device) -> Evidence:
        """The evidence on another device."""
        known = (self.importance, self.inputs, self.counts)
        return Evidence(*(None if one is None else one.to(device) for one in known))


NO_EVIDENCE = Evidence()


@dataclass(frozen=True)
class Pull:
    """What an update at rate 1 adds to a float copy, so that its codes take fewer bits."""

    values: Tensor  # shape as the symbols
    most: float  # the highest rate: above it a value could pass a code between two assignments


class Codec(Family, ABC):
    """How values are stored."""

    exact_in_training: ClassVar[bool] = False  # whether training may see the float copy itself
    refresh_updates: ClassVar[int] = 16  # updates between two assignments while training
    zeros_are_codes: ClassVar[bool] = False  # whether masked zeros are coded like other values

    @classmethod
    def examples(cls) -> list[Ladder]:
        """Settings beside `kind` that the contract is tested with."""
        raise NotImplementedError(f"{cls.__name__} has no examples for the tests of the contract")

    @classmethod
    def sentence(cls, plain: Mapping[str, Any]) -> str:
        """What such a codec does, for reports, from its settings as plain data."""
        return f"coded by {plain['kind']}"

    @property
    def needs_importance(self) -> bool:
        """Whether `assign` looks at the evidence's importance."""
        return False

    @property
    def needs_inputs(self) -> bool:
        """Whether `assign` looks at the evidence's inputs."""
        return False

    @property
    def needs_counts(self) -> bool:
        """Whether `assign` looks at the evidence's counts."""
        return False

    def untrained(self) -> Codec:
        """The same codec without the settings that act in training alone."""
        return self

    @abstractmethod
    def assign(
        self,
        data: Tensor,
        mask: Tensor | None,
        before: Codes | None,
        evidence: Evidence = NO_EVIDENCE,
    ) -> Codes:
        """Codes of `data` (any shape) where `mask` (same shape) keeps it.

        `before` are the leaf's previous codes: what was fixed at the first assignment stays.
        """

    @abstractmethod
    def decode(self, codes: Codes) -> Tensor:
        """The values, of the symbols' shape; masked entries are not defined."""

    def pull(self, codes: Codes) -> Pull | None:
        """What pulls the float copy towards codes of fewer bits; None for nothing."""
        return None

    @abstractmethod
    def streams(self, shape: Shape, leaf: Shape) -> list[Stream]:
        """What is written for symbols of this shape, of a leaf of that shape."""

    @abstractmethod
    def write(self, codes: Codes, symbols: Tensor) -> list[Array]:
        """The integers of each stream; `symbols` are those of the codes that are kept."""

    @abstractmethod
    def read(self, arrays: list[Array], leaf: Shape) -> Codes:
        """The codes of a leaf of that shape back from the integers, in the streams' order."""


class Float32(Codec):
    """Four bytes a value."""

    kind: Literal["float32"] = "float32"
    exact_in_training: ClassVar[bool] = True
    _bytes: ClassVar[int] = 4

    @classmethod
    def examples(cls) -> list[Ladder]:
        return [[{}]]

    @classmethod
    def sentence(cls, plain: Mapping[str, Any]) -> str:
        return f"{8 * cls._bytes}-bit floats"

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32

    def assign(
        self,
        data: Tensor,
        mask: Tensor | None,
        before: Codes | None,
        evidence: Evidence = NO_EVIDENCE,
    ) -> Codes:
        return Codes(data.to(self._dtype, copy=True))

    def decode(self, codes: Codes) -> Tensor:
        return codes.symbols.float()

    def streams(self, shape: Shape, leaf: Shape) -> list[Stream]:
        """One stream a byte, the most telling (sign and exponent) first."""
        return [Stream(f"byte{i}", shape, 0, 255) for i in reversed(range(self._bytes))]

    def write(self, codes: Codes, symbols: Tensor) -> list[Array]:
        return to_bytes(symbols.to(self._dtype))

    def read(self, arrays: list[Array], leaf: Shape) -> Codes:
        return Codes(from_bytes(arrays, self._dtype))


class Float16(Float32):
    """Two bytes a value, IEEE half precision."""

    kind: Literal["float16"] = "float16"  # type: ignore[assignment]
    _bytes: ClassVar[int] = 2

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float16


AnyCodec = Annotated[SerializeAsAny[Codec], BeforeValidator(Codec.pick)]


@dataclass(frozen=True)
class LeafSpec:
    """What the file holds of a leaf; `kept` counts the values left by a mask, None without one."""

    shape: Shape
    codec: Codec
    kept: int | None

    @property
    def streams(self) -> list[Stream]:
        """Where there is a mask: its bits, then the codes of the values it keeps."""
        if self.kept is None:
            return self.codec.streams(self.shape, self.shape)
        mask = Stream("mask", self.shape, 0, 1, is_codes=False)
        return [mask, *self.codec.streams((self.kept,), self.shape)]

    @property
    def packed_size(self) -> int:
        """Bytes before entropy coding."""
        return sum(
            raw_size(math.prod(stream.shape), stream.low, stream.high) for stream in self.streams
        )

    @property
    def footprint(self) -> int:
        """Bytes by which the file grows with this leaf, about: the packed size, the lengths of
        its streams and its entry in the header. Forms of a site are compared by their footprint.
        """
        return self.packed_size + LEAF_BYTES + (0 if self.kept is None else MASK_BYTES)


def leaf_spec(shape: Shape, codec: Codec, kept: int) -> LeafSpec:
    """What the file holds of a leaf of which at most so many values are kept.

    No mask is stored where the codec has a code for zero, and where so few values are zero that a
    mask would cost more than the zeros save.
    """
    without = LeafSpec(shape, codec, None)
    if codec.zeros_are_codes or kept == math.prod(shape):
        return without
    with_mask = LeafSpec(shape, codec, kept)
    return with_mask if with_mask.footprint < without.footprint else without


def as_matrix(data: Tensor) -> Tensor:
    """(rows, columns); a vector is one row."""
    return data.reshape(matrix_shape(data.shape))


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """(rows, columns); a vector is one row."""
    return (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])


def to_bytes(values: Tensor) -> list[Array]:
    """Byte planes of a float tensor, most significant first, each of its shape."""
    array = np.ascontiguousarray(values.detach().cpu().numpy())
    size = array.dtype.itemsize
    planes = array.astype(array.dtype.newbyteorder(">")).view(np.uint8).reshape(*array.shape, size)
    return [planes[..., i] for i in range(size)]


def from_bytes(planes: list[Array], dtype: torch.dtype) -> Tensor:
    """The float tensor back from the byte planes that `to_bytes` made of it."""
    joined = np.ascontiguousarray(np.stack(planes, axis=-1).astype(np.uint8))
    kind = {torch.float32: ">f4", torch.float16: ">f2"}[dtype]
    native = joined.view(kind)[..., 0].astype(kind.replace(">", "="))
    return torch.from_numpy(native)
