"""Codes on a grid, and the grid of equal steps between extremes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

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


def rounded_to_half(values: Tensor) -> Tensor:
    """What a table says of numbers in half precision; none becomes infinite."""
    largest = torch.finfo(torch.float16).max
    return values.clamp(-largest, largest).half().float()


def table_streams(name: str, count: int) -> Iterator[Stream]:
    """The streams of `count` half-precision numbers: their high bytes, their low bytes."""
    return (Stream(f"{name}.byte{i}", (count,), 0, 255, is_codes=False) for i in (1, 0))


def to_symbols(array: Array) -> Tensor:
    return torch.from_numpy(array.astype(np.int16))
