"""Codes on a grid: equal steps between extremes, and multiples of a step coded at their entropy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field

from lmcore.codec import (
    NO_EVIDENCE,
    Array,
    Codec,
    Codes,
    Evidence,
    Ladder,
    Shape,
    Stream,
    Tables,
    as_matrix,
    from_bytes,
    matrix_shape,
    to_bytes,
)
from lmcore.compress.error_feedback import error_feedback
from lmcore.lazy import torch
from lmcore.settings import later

if TYPE_CHECKING:
    from torch import Tensor

Bits = Annotated[int, Field(ge=1, le=8)]
Scope = Literal["matrix", "row"]
GroupedScope = Scope | Annotated[int, Field(ge=2)]  # so many neighbouring columns of a row

# values (rows, n) of these columns -> their symbols
Nearest: TypeAlias = "Callable[[Tensor, slice], Tensor]"


class GridCodec(Codec, ABC):
    """Each value is stored as one of a few values, which the codec's tables say.

    With `feedback` the matrix is rounded column by column, and the columns after each one make up
    for its error (see `error_feedback`).
    """

    feedback: bool = later(False)

    @property
    def needs_inputs(self) -> bool:
        return self.feedback

    @abstractmethod
    def fit(
        self, data: Tensor, mask: Tensor | None, before: Codes | None, evidence: Evidence
    ) -> tuple[Tables, Nearest]:
        """The tables for `data` (rows, columns), and how its values find their symbols."""

    @abstractmethod
    def values(self, symbols: Tensor, tables: Tables, columns: slice) -> Tensor:
        """What the symbols (rows, n) of these columns stand for."""

    def assign(
        self,
        data: Tensor,
        mask: Tensor | None,
        before: Codes | None,
        evidence: Evidence = NO_EVIDENCE,
    ) -> Codes:
        matrix, kept = as_matrix(data), None if mask is None else as_matrix(mask)
        tables, nearest = self.fit(matrix, kept, before, evidence)
        if self.feedback and evidence.inputs is not None:

            def rounded(values: Tensor, columns: slice) -> Tensor:
                decoded = self.values(nearest(values, columns), tables, columns)
                return decoded if kept is None else decoded * kept[:, columns]

            matrix = error_feedback(matrix, evidence.inputs, rounded)
            matrix = matrix if kept is None else matrix * kept  # a zero may be a code
        return Codes(nearest(matrix, slice(None)).view(data.shape), tables)

    def decode(self, codes: Codes) -> Tensor:
        symbols = codes.symbols
        return self.values(as_matrix(symbols), codes.tables, slice(None)).view(symbols.shape)


class GroupedCodec(GridCodec, ABC):
    """A grid whose tables belong to the whole matrix, to each row, or to groups of its columns.

    `scope` says which values share a table: those of the matrix, of a row, or of so many
    neighbouring columns of a row. Tables are (1 or rows, groups, ...). The methods of a group see
    its tables alone, (1 or rows, ...).
    """

    bits: Bits
    scope: GroupedScope

    @abstractmethod
    def fit_group(
        self,
        data: Tensor,
        mask: Tensor | None,
        importance: Tensor | None,
        before: tuple[Tensor, Tables] | None,
    ) -> Tables:
        """The tables of (groups, values), one group a row, given its symbols and tables before."""

    @abstractmethod
    def nearest_in_group(self, values: Tensor, tables: Tables) -> Tensor:
        """(rows, n) -> symbols."""

    @abstractmethod
    def values_of_group(self, symbols: Tensor, tables: Tables) -> Tensor:
        """(rows, n) -> what they stand for."""

    @property
    @abstractmethod
    def table_sizes(self) -> dict[str, int]:
        """Table -> how many numbers of half precision a group has in it."""

    def fit(
        self, data: Tensor, mask: Tensor | None, before: Codes | None, evidence: Evidence
    ) -> tuple[Tables, Nearest]:
        importance = None if evidence.importance is None else as_matrix(evidence.importance)
        symbols = None if before is None else as_matrix(before.symbols)
        shape = (1, -1) if self.scope == "matrix" else (len(data), -1)

        def part(values: Tensor | None, columns: slice) -> Tensor | None:
            return None if values is None else values[:, columns].reshape(shape)

        groups = []
        for index, columns in enumerate(self._groups(data.shape[1])):
            old = None
            if before is not None and (used := part(symbols, columns)) is not None:
                old = used, {name: table[:, index] for name, table in before.tables.items()}
            values = data[:, columns].reshape(shape)
            kept, weight = part(mask, columns), part(importance, columns)
            groups.append(self.fit_group(values, kept, weight, old))
        tables = {name: torch.stack([one[name] for one in groups], 1) for name in groups[0]}

        def nearest(values: Tensor, columns: slice) -> Tensor:
            return self._by_group(self.nearest_in_group, values, tables, columns)

        return tables, nearest

    def values(self, symbols: Tensor, tables: Tables, columns: slice) -> Tensor:
        return self._by_group(self.values_of_group, symbols, tables, columns)

    def streams(self, shape: Shape, leaf: Shape) -> list[Stream]:
        tables = [
            stream
            for name, size in self.table_sizes.items()
            for stream in table_streams(name, self._table_count(leaf) * size)
        ]
        return [Stream("codes", shape, 0, 2**self.bits - 1), *tables]

    def write(self, codes: Codes, symbols: Tensor) -> list[Array]:
        tables = [codes.tables[name].flatten().half() for name in self.table_sizes]
        return [symbols.numpy(), *(plane for table in tables for plane in to_bytes(table))]

    def read(self, arrays: list[Array], leaf: Shape) -> Codes:
        rows, columns = matrix_shape(leaf)
        groups = len(self._groups(columns))
        tables = {}
        for index, (name, size) in enumerate(self.table_sizes.items()):
            planes = arrays[1 + 2 * index : 3 + 2 * index]
            shape = (1 if self.scope == "matrix" else rows, groups, size)
            tables[name] = from_bytes(planes, torch.float16).float().view(shape)
        return Codes(to_symbols(arrays[0]), tables)

    def _groups(self, columns: int) -> list[slice]:
        width = self.scope if isinstance(self.scope, int) else columns
        return [slice(first, min(first + width, columns)) for first in range(0, columns, width)]

    def _table_count(self, leaf: Shape) -> int:
        rows, columns = matrix_shape(leaf)
        if self.scope == "matrix":
            return 1
        return rows * (-(-columns // self.scope) if isinstance(self.scope, int) else 1)

    def _by_group(
        self,
        function: Callable[[Tensor, Tables], Tensor],
        values: Tensor,
        tables: Tables,
        columns: slice,
    ) -> Tensor:
        """The function on (rows, n) values of these columns, each with its group's tables."""
        count = next(iter(tables.values())).shape[1]
        if count == 1:
            return function(values, {name: table[:, 0] for name, table in tables.items()})
        assert isinstance(self.scope, int)
        first = columns.start or 0
        parts, at = [], 0
        while at < values.shape[1]:
            group = (first + at) // self.scope
            end = min((group + 1) * self.scope - first, values.shape[1])
            inside = {name: table[:, group] for name, table in tables.items()}
            parts.append(function(values[:, at:end], inside))
            at = end
        return torch.cat(parts, 1)


class Linear(GroupedCodec):
    """2^bits equal steps between the smallest and the largest value (Grachev's slides).

    `scope`: over which values the extremes are taken.
    """

    kind: Literal["linear"] = "linear"
    scope: GroupedScope = "row"

    @classmethod
    def examples(cls) -> list[Ladder]:
        scopes: tuple[GroupedScope, ...] = ("matrix", "row", 7)
        return [[{"bits": bits, "scope": scope} for bits in range(1, 9)] for scope in scopes]

    @classmethod
    def sentence(cls, plain: Mapping[str, Any]) -> str:
        return f"{plain['bits']} bits in equal steps"

    @property
    def table_sizes(self) -> dict[str, int]:
        return {"low": 1, "step": 1}

    def fit_group(
        self,
        data: Tensor,
        mask: Tensor | None,
        importance: Tensor | None,
        before: tuple[Tensor, Tables] | None,
    ) -> Tables:
        if mask is not None:
            low = data.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
            high = data.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
            low, high = low.nan_to_num(0, 0, 0), high.nan_to_num(0, 0, 0)
        else:
            low, high = data.amin(1, keepdim=True), data.amax(1, keepdim=True)
        low = rounded_to_half(low)
        step = rounded_to_half((high - low) / (2**self.bits - 1))
        return {"low": low, "step": step}

    def nearest_in_group(self, values: Tensor, tables: Tables) -> Tensor:
        steps = (values - tables["low"]) / tables["step"].clamp(min=1e-8)
        return steps.round_().clamp_(0, 2**self.bits - 1).short()

    def values_of_group(self, symbols: Tensor, tables: Tables) -> Tensor:
        return symbols * tables["step"] + tables["low"]


class Uniform(GridCodec):
    """Each value is stored as a multiple of a step; the multiples are coded at their entropy.

    `step` is in standard deviations of the matrix (or of the row) at the first assignment; from
    then on the step stays.
    `frequency` gives words of their own steps where rows are words: the step of a word that occurs
    n times in the training text is proportional to (n + 10)^(-frequency / 2), in powers of two,
    with `step` as their root mean square. For codes at high rates and a quadratic loss, whose
    curvature in a row grows with n, 1 would be best (reverse water-filling). On the tied 2 x 200
    model as cut, 0.6 makes files of equal perplexity 15% smaller at 1.3 bits; steps by the Fisher
    information of the rows or columns of the other matrices gain less than 1%.
    `rate_penalty`, in nats a bit, is the lambda of entropy-penalised training (Oktay et al. 2020,
    eq. 3): see `pull`.
    `rounding` is the lambda of rate-distortion rounding (as in DeepCABAC, Wiedemann et al. 2020):
    the code q of w minimises (w / step - q)^2 + lambda bits(q), bits under the code lengths of
    the previous assignment. Tried and lost, on the 2 x 200 model without fine-tuning: steps per
    row (0.19 against 0.06 nats at 1.6 bits), levels at their means (equal at equal bits).
    """

    kind: Literal["uniform"] = "uniform"
    step: Annotated[float, Field(gt=0)]
    rounding: Annotated[float, Field(ge=0, le=1)] = 0.1
    scope: Scope = "matrix"
    frequency: Annotated[float, Field(ge=0, le=1)] = later(0.0)
    rate_penalty: Annotated[float, Field(ge=0)] = later(0.0)
    zeros_are_codes: ClassVar[bool] = True
    _limit: ClassVar[int] = 127
    _octaves: ClassVar[int] = 15  # from a row's step to the matrix's, at most

    @classmethod
    def examples(cls) -> list[Ladder]:
        return [
            [{"step": step, "scope": scope, "rounding": rounding} for step in (2.0, 0.7, 0.05)]
            for scope, rounding in (("matrix", 0.1), ("row", 0.1), ("matrix", 0.0))
        ] + [[{"step": 1.0, "frequency": 0.6, "rate_penalty": 1e-6}]]

    @classmethod
    def sentence(cls, plain: Mapping[str, Any]) -> str:
        return f"rounded to multiples of {plain['step']:.3g} standard deviations"

    @property
    def needs_counts(self) -> bool:
        return self.frequency > 0

    def fit(
        self, data: Tensor, mask: Tensor | None, before: Codes | None, evidence: Evidence
    ) -> tuple[Tables, Nearest]:
        tables = before.tables if before else self._first_tables(data, mask, evidence.counts)
        step = self.steps(tables)
        if not self.rounding:
            return tables, lambda values, _: self._plain(values / step)
        scaled = data / step
        symbols = before.symbols if before else self._plain(scaled)
        for _ in range(0 if before else 2):
            symbols = self._rule(symbols)(scaled)
        rule = self._rule(symbols)
        return tables, lambda values, _: rule(values / step)

    def values(self, symbols: Tensor, tables: Tables, columns: slice) -> Tensor:
        return symbols * self.steps(tables)

    def steps(self, tables: Tables) -> Tensor:
        """The step of the matrix, (1, 1), or of each row, (rows, 1)."""
        return tables["step"] * tables["octaves"].exp2() if self.frequency else tables["step"]

    def streams(self, shape: Shape, leaf: Shape) -> list[Stream]:
        rows, _ = matrix_shape(leaf)
        codes = Stream("codes", shape, -self._limit, self._limit)
        steps = table_streams("step", rows if self.scope == "row" else 1)
        octaves = Stream("octaves", (rows,), -self._octaves, self._octaves, is_codes=False)
        return [codes, *steps, *([octaves] if self.frequency else [])]

    def write(self, codes: Codes, symbols: Tensor) -> list[Array]:
        written = [symbols.numpy(), *to_bytes(codes.tables["step"].flatten().half())]
        if self.frequency:
            written.append(codes.tables["octaves"].flatten().to(torch.int8).numpy())
        return written

    def read(self, arrays: list[Array], leaf: Shape) -> Codes:
        codes, *step = arrays
        tables = {}
        if self.frequency:
            tables["octaves"] = torch.from_numpy(step.pop().astype(np.float32)).unsqueeze(1)
        tables["step"] = from_bytes(step, torch.float16).float().unsqueeze(1)
        return Codes(to_symbols(codes), tables)

    def _first_tables(self, data: Tensor, mask: Tensor | None, counts: Tensor | None) -> Tables:
        tables = {"step": self._first_step(data, mask)}
        if self.frequency and counts is None:
            tables["octaves"] = data.new_zeros(len(data), 1)
        elif self.frequency:
            steps = (counts.to(data).unsqueeze(1) + 10) ** (-self.frequency / 2)
            octaves = (steps / steps.square().mean().sqrt()).log2().round()
            tables["octaves"] = octaves.clamp_(-self._octaves, self._octaves)
        return tables

    def _first_step(self, data: Tensor, mask: Tensor | None) -> Tensor:
        shape = (len(data), -1) if self.scope == "row" else (1, -1)
        rows = data.reshape(shape)
        keep = torch.ones_like(rows) if mask is None else mask.reshape(shape).float()
        count = keep.sum(1, keepdim=True).clamp(min=1)
        mean = (rows * keep).sum(1, keepdim=True) / count
        deviation = ((rows - mean).square() * keep).sum(1, keepdim=True).div(count).sqrt()
        half = torch.finfo(torch.float16)
        return (self.step * deviation).clamp(half.tiny, half.max).half().float()

    def _plain(self, scaled: Tensor) -> Tensor:
        return scaled.round().clamp_(-self._limit, self._limit).short()

    def pull(self, codes: Codes) -> Tensor | None:
        if not self.rate_penalty:
            return None
        lengths = self._lengths(codes.symbols)
        saved = (lengths.diff(prepend=lengths[:1])).clamp(min=0).to(codes.symbols.device)
        magnitudes = codes.symbols.abs().int()
        bits = saved.index_select(0, magnitudes.flatten()).view(codes.symbols.shape)
        matrix = as_matrix(bits * codes.symbols.sign())
        return (-self.rate_penalty * matrix / self.steps(codes.tables)).view(bits.shape)

    def _lengths(self, symbols: Tensor) -> Tensor:
        """Bits of a code of each magnitude 0..limit, (limit + 1,)."""
        counts = _counts(symbols, self._limit)
        lengths = -((counts + 0.5) / (counts + 0.5).sum()).log2()
        lengths[1:] += 1  # the sign
        return lengths

    def _rule(self, symbols: Tensor) -> Callable[[Tensor], Tensor]:
        """The cheapest code of every value, given the symbols of an earlier assignment.

        (u - k)^2 + lambda L_k is a line in u less u^2, so the cheapest k over all u >= 0 is the
        lower hull of the points (k, k^2 + lambda L_k), and its slopes are the thresholds.
        """
        lengths = self._lengths(symbols)
        hull: list[tuple[int, float]] = []
        for k, cost in enumerate(
            (torch.arange(len(lengths)) ** 2 + self.rounding * lengths).tolist()
        ):
            while len(hull) >= 2 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (k, cost)):
                hull.pop()
            hull.append((k, cost))
        slopes = torch.tensor([_slope(a, b) / 2 for a, b in pairwise(hull)])
        levels = torch.tensor([k for k, _ in hull], dtype=torch.int16, device=symbols.device)

        def cheapest(scaled: Tensor) -> Tensor:
            thresholds = slopes.to(scaled).clamp_(min=0)
            nearest = torch.bucketize(scaled.abs().flatten(), thresholds, out_int32=True)
            magnitude = levels.index_select(0, nearest).view(scaled.shape)
            return torch.where(scaled < 0, -magnitude, magnitude)

        return cheapest


def rounded_to_half(values: Tensor) -> Tensor:
    """What a table says of numbers in half precision; none becomes infinite."""
    largest = torch.finfo(torch.float16).max
    return values.clamp(-largest, largest).half().float()


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _counts(symbols: Tensor, limit: int) -> Tensor:
    """How often each magnitude 0..limit occurs, (limit + 1,)."""
    return torch.bincount(symbols.abs().flatten().int(), minlength=limit + 1).float().cpu()


def table_streams(name: str, count: int) -> Iterator[Stream]:
    """The streams of `count` half-precision numbers: their high bytes, their low bytes."""
    return (Stream(f"{name}.byte{i}", (count,), 0, 255, is_codes=False) for i in (1, 0))


def to_symbols(array: Array) -> Tensor:
    return torch.from_numpy(array.astype(np.int16))
