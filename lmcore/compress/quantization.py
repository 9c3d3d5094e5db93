"""Bits: how the values of a leaf are coded.

A codec is settings alone: what it learns from the data (steps, levels) stands in the `Codes` it
makes. `assign` finds the codes of a float tensor, `decode` the values that the codes stand for,
`streams` the integers that are written to the file. All leave the tensor's shape as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor

from lmcore.settings import Family

Shape = tuple[int, ...]
Bits = Annotated[int, Field(ge=1, le=8)]
Scope = Literal["matrix", "row"]


@dataclass(frozen=True)
class Codes:
    """What a codec makes of a leaf."""

    symbols: Tensor  # the leaf's shape; integers, or the values themselves in a float format
    tables: dict[str, Tensor] = field(default_factory=dict)  # what `decode` reads them with

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


class Codec(Family, ABC):
    """How values are stored."""

    exact_in_training: ClassVar[bool] = False  # whether training may see the float copy itself
    refresh_updates: ClassVar[int] = 16  # updates between two assignments while training
    zeros_are_codes: ClassVar[bool] = False  # whether masked zeros are coded like other values

    @abstractmethod
    def assign(self, data: Tensor, mask: Tensor | None, before: Codes | None) -> Codes:
        """Codes of `data` (any shape) where `mask` (same shape) keeps it.

        `before` are the leaf's previous codes: what was fixed at the first assignment stays.
        """

    @abstractmethod
    def decode(self, codes: Codes) -> Tensor:
        """The values, of the symbols' shape; masked entries are not defined."""

    @abstractmethod
    def streams(self, shape: Shape, rows: int) -> list[Stream]:
        """What is written for symbols of this shape, of a leaf with so many rows."""

    @abstractmethod
    def write(self, codes: Codes, symbols: Tensor) -> list[np.ndarray[Any, Any]]:
        """The integers of each stream; `symbols` are those of the codes that are kept."""

    @abstractmethod
    def read(self, arrays: list[np.ndarray[Any, Any]]) -> Codes:
        """The codes back from the integers, in the streams' order."""


class Float32(Codec):
    """Four bytes a value."""

    kind: Literal["float32"] = "float32"
    exact_in_training: ClassVar[bool] = True
    _bytes: ClassVar[int] = 4
    _dtype: ClassVar[torch.dtype] = torch.float32

    def assign(self, data: Tensor, mask: Tensor | None, before: Codes | None) -> Codes:
        return Codes(data.to(self._dtype, copy=True))

    def decode(self, codes: Codes) -> Tensor:
        return codes.symbols.float()

    def streams(self, shape: Shape, rows: int) -> list[Stream]:
        """One stream a byte, the most telling (sign and exponent) first."""
        return [Stream(f"byte{i}", shape, 0, 255) for i in reversed(range(self._bytes))]

    def write(self, codes: Codes, symbols: Tensor) -> list[np.ndarray[Any, Any]]:
        return _to_bytes(symbols.to(self._dtype))

    def read(self, arrays: list[np.ndarray[Any, Any]]) -> Codes:
        return Codes(_from_bytes(arrays, self._dtype))


class Float16(Float32):
    """Two bytes a value, IEEE half precision."""

    kind: Literal["float16"] = "float16"  # type: ignore[assignment]
    _bytes: ClassVar[int] = 2
    _dtype: ClassVar[torch.dtype] = torch.float16


class Linear(Codec):
    """2^bits equal steps between the smallest and the largest value (Grachev's slides).

    `scope` matrix or row: over which values the extremes are taken.
    """

    kind: Literal["linear"] = "linear"
    bits: Bits
    scope: Scope = "row"

    def assign(self, data: Tensor, mask: Tensor | None, before: Codes | None) -> Codes:
        rows = _by_scope(data, self.scope)  # (groups, values)
        if mask is not None:
            keep = _by_scope(mask, self.scope)
            low = rows.masked_fill(~keep, torch.inf).amin(1, keepdim=True)
            high = rows.masked_fill(~keep, -torch.inf).amax(1, keepdim=True)
            low, high = low.nan_to_num(0, 0, 0), high.nan_to_num(0, 0, 0)
        else:
            low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        largest = torch.finfo(torch.float16).max
        low = low.clamp(-largest, largest).half().float()
        step = ((high - low) / (2**self.bits - 1)).clamp(max=largest).half().float()
        symbols = ((rows - low) / step.clamp(min=1e-8)).round_().clamp_(0, 2**self.bits - 1)
        return Codes(symbols.short().view(data.shape), {"low": low, "step": step})

    def decode(self, codes: Codes) -> Tensor:
        rows = _by_scope(codes.symbols, self.scope)
        return (rows * codes.tables["step"] + codes.tables["low"]).view(codes.symbols.shape)

    def streams(self, shape: Shape, rows: int) -> list[Stream]:
        groups = rows if self.scope == "row" else 1
        return [
            Stream("codes", shape, 0, 2**self.bits - 1),
            *_table("low", groups),
            *_table("step", groups),
        ]

    def write(self, codes: Codes, symbols: Tensor) -> list[np.ndarray[Any, Any]]:
        low, step = codes.tables["low"], codes.tables["step"]
        return [
            symbols.numpy(),
            *_to_bytes(low.flatten().half()),
            *_to_bytes(step.flatten().half()),
        ]

    def read(self, arrays: list[np.ndarray[Any, Any]]) -> Codes:
        low = _from_bytes(arrays[1:3], torch.float16).float().unsqueeze(1)
        step = _from_bytes(arrays[3:5], torch.float16).float().unsqueeze(1)
        return Codes(_symbols(arrays[0]), {"low": low, "step": step})


class KMeans(Codec):
    """2^bits fitted levels a matrix (Han et al. 2016, trained quantization).

    The levels start at the k-means optimum; while training each refresh is one Lloyd step, so
    that levels and assignments follow the float copy.
    """

    kind: Literal["kmeans"] = "kmeans"
    bits: Bits

    def assign(self, data: Tensor, mask: Tensor | None, before: Codes | None) -> Codes:
        kept = data.flatten() if mask is None else data[mask]
        if before is None:
            levels = _kmeans(kept, 2**self.bits)
        else:
            old = before.symbols.flatten() if mask is None else before.symbols[mask]
            levels = _means(kept, old.long(), before.tables["levels"])
        levels = levels.half().float().sort().values
        symbols = torch.bucketize(data, (levels[1:] + levels[:-1]) / 2)
        return Codes(symbols.short(), {"levels": levels})

    def decode(self, codes: Codes) -> Tensor:
        levels, symbols = codes.tables["levels"], codes.symbols
        return levels.index_select(0, symbols.flatten().int()).view(symbols.shape)

    def streams(self, shape: Shape, rows: int) -> list[Stream]:
        return [Stream("codes", shape, 0, 2**self.bits - 1), *_table("levels", 2**self.bits)]

    def write(self, codes: Codes, symbols: Tensor) -> list[np.ndarray[Any, Any]]:
        return [symbols.numpy(), *_to_bytes(codes.tables["levels"].half())]

    def read(self, arrays: list[np.ndarray[Any, Any]]) -> Codes:
        return Codes(
            _symbols(arrays[0]), {"levels": _from_bytes(arrays[1:], torch.float16).float()}
        )


class Uniform(Codec):
    """Multiples of a step, any number of levels, coded at their entropy.

    `step` is in standard deviations of the matrix (or row) at the first assignment, and stays.
    `rounding` is the lambda of rate-distortion rounding (as in DeepCABAC, Wiedemann et al. 2020):
    the code q of w minimises (w / step - q)^2 + lambda bits(q), bits under the code lengths of
    the previous assignment. Tried and lost, on the 2 x 200 model without fine-tuning: steps per
    row (0.19 against 0.06 nats at 1.6 bits), levels at their means (equal at equal bits).
    """

    kind: Literal["uniform"] = "uniform"
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    rounding: Annotated[float, Field(ge=0, le=1)] = 0.1
    scope: Scope = "matrix"
    zeros_are_codes: ClassVar[bool] = True
    _limit: ClassVar[int] = 127

    def assign(self, data: Tensor, mask: Tensor | None, before: Codes | None) -> Codes:
        step = before.tables["step"] if before else self._first_step(data, mask)
        scaled = (_by_scope(data, self.scope) / step).view(data.shape)
        if before and self.rounding:
            symbols = self._round(scaled, _counts(before.symbols, self._limit))
        else:
            symbols = scaled.round().clamp_(-self._limit, self._limit).short()
            for _ in range(3 if self.rounding else 0):
                symbols = self._round(scaled, _counts(symbols, self._limit))
        return Codes(symbols, {"step": step})

    def decode(self, codes: Codes) -> Tensor:
        rows = _by_scope(codes.symbols, self.scope)
        return (rows * codes.tables["step"]).view(codes.symbols.shape)

    def streams(self, shape: Shape, rows: int) -> list[Stream]:
        groups = rows if self.scope == "row" else 1
        return [Stream("codes", shape, -self._limit, self._limit), *_table("step", groups)]

    def write(self, codes: Codes, symbols: Tensor) -> list[np.ndarray[Any, Any]]:
        return [symbols.numpy(), *_to_bytes(codes.tables["step"].flatten().half())]

    def read(self, arrays: list[np.ndarray[Any, Any]]) -> Codes:
        step = _from_bytes(arrays[1:], torch.float16).float().unsqueeze(1)
        return Codes(_symbols(arrays[0]), {"step": step})

    def _first_step(self, data: Tensor, mask: Tensor | None) -> Tensor:
        rows = _by_scope(data, self.scope)
        keep = torch.ones_like(rows) if mask is None else _by_scope(mask, self.scope).float()
        count = keep.sum(1, keepdim=True).clamp(min=1)
        mean = (rows * keep).sum(1, keepdim=True) / count
        deviation = ((rows - mean).square() * keep).sum(1, keepdim=True).div(count).sqrt()
        half = torch.finfo(torch.float16)
        return (self.step * deviation).clamp(half.tiny, half.max).half().float()

    def _round(self, scaled: Tensor, counts: Tensor) -> Tensor:
        """The cheapest code of every value, given how often each magnitude was used (limit + 1,).

        (u - k)^2 + lambda L_k is a line in u less u^2, so the cheapest k over all u >= 0 is the
        lower hull of the points (k, k^2 + lambda L_k), and its slopes are the thresholds.
        """
        probability = (counts + 0.5) / (counts + 0.5).sum()
        lengths = -probability.log2()
        lengths[1:] += 1  # the sign
        hull: list[tuple[int, float]] = []
        for k, cost in enumerate(
            (torch.arange(len(counts)) ** 2 + self.rounding * lengths).tolist()
        ):
            while len(hull) >= 2 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (k, cost)):
                hull.pop()
            hull.append((k, cost))
        slopes = [_slope(a, b) / 2 for a, b in pairwise(hull)]
        thresholds = scaled.new_tensor(slopes).clamp_(min=0)
        levels = torch.tensor([k for k, _ in hull], dtype=torch.int16, device=scaled.device)
        nearest = torch.bucketize(scaled.abs().flatten(), thresholds, out_int32=True)
        magnitude = levels.index_select(0, nearest).view(scaled.shape)
        return torch.where(scaled < 0, -magnitude, magnitude)


AnyCodec = Annotated[SerializeAsAny[Codec], BeforeValidator(Codec.pick)]


def _by_scope(data: Tensor, scope: Scope) -> Tensor:
    """(groups, values): a row each for `row`, all in one for `matrix` and for vectors."""
    return data.flatten(1) if scope == "row" and data.dim() > 1 else data.reshape(1, -1)


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _counts(symbols: Tensor, limit: int) -> Tensor:
    """How often each magnitude 0..limit occurs, (limit + 1,)."""
    return torch.bincount(symbols.abs().flatten().int(), minlength=limit + 1).float().cpu()


def _kmeans(values: Tensor, count: int, rounds: int = 60) -> Tensor:
    """Levels (count,) of one-dimensional k-means, by Lloyd's rounds on the sorted values.

    Between two thresholds the sorted values are a slice, and the mean of a slice is a difference
    of running sums: a round costs `count` look-ups.
    """
    if len(values) == 0:
        return values.new_zeros(count)
    ordered = values.double().sort().values
    running = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    # as dense as the cube root of the values' density (Panter and Dite 1951): a gap is about the
    # density's inverse, so each gap counts as its power 2/3
    spread = torch.cat([ordered.new_zeros(1), ordered.diff().pow(2 / 3).cumsum(0)])
    shares = spread[-1] * (torch.arange(count, device=values.device) + 0.5) / count
    levels = ordered[torch.searchsorted(spread, shares)]
    for _ in range(rounds):
        inner = torch.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2)
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(ordered))])
        sizes = edges.diff()
        means = running[edges].diff() / sizes.clamp(min=1)
        levels = torch.where(sizes > 0, means, levels)
    return levels.to(values.dtype)


def _means(values: Tensor, codes: Tensor, levels: Tensor) -> Tensor:
    """The mean of the values of each code, (levels,); a code that is not used keeps its level."""
    sums = torch.zeros_like(levels).index_add_(0, codes, values)
    sizes = torch.bincount(codes, minlength=len(levels))
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), levels)


def _table(name: str, count: int) -> Iterator[Stream]:
    """The streams of `count` half-precision numbers: their high bytes, their low bytes."""
    return (Stream(f"{name}.byte{i}", (count,), 0, 255, is_codes=False) for i in (1, 0))


def _to_bytes(values: Tensor) -> list[np.ndarray[Any, Any]]:
    """Byte planes of a float tensor, most significant first, each of its shape."""
    array = np.ascontiguousarray(values.detach().cpu().numpy())
    size = array.dtype.itemsize
    planes = array.astype(array.dtype.newbyteorder(">")).view(np.uint8).reshape(*array.shape, size)
    return [planes[..., i] for i in range(size)]


def _from_bytes(planes: list[np.ndarray[Any, Any]], dtype: torch.dtype) -> Tensor:
    joined = np.ascontiguousarray(np.stack(planes, axis=-1).astype(np.uint8))
    kind = {torch.float32: ">f4", torch.float16: ">f2"}[dtype]
    native = joined.view(kind)[..., 0].astype(kind.replace(">", "="))
    return torch.from_numpy(native)


def _symbols(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(array.astype(np.int16))
