"""Multiples of a step, coded at their entropy: the finest method for few bits a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from lmcore.codec import (
    Array,
    Codes,
    Evidence,
    Ladder,
    Pull,
    Shape,
    Stream,
    Tables,
    as_matrix,
    from_bytes,
    matrix_shape,
    to_bytes,
)
from lmcore.compress.quantization import GridCodec, Nearest, Scope, table_streams, to_symbols
from lmcore.lazy import torch
from lmcore.settings import later

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 127  # the largest magnitude of a code
WIDTH = LIMIT + 1  # magnitudes
OCTAVES = 15  # from a row's step to the matrix's, at most
SEEN = 10  # added to each word's count: few occurrences say little
CONTEXTS = 12  # classes of places, half an octave of expected magnitude each
CENTRE = 8  # the class in which a code of magnitude 1 is expected
CELLS = 16  # a step, to look thresholds up in
LAST_CELL = LIMIT * CELLS


class Uniform(GridCodec):
    """Each value is stored as a multiple of a step; the multiples are coded at their entropy.

    - `step` is in standard deviations of the matrix (or of the row) at the first assignment. From
      then on the step stays. It is larger where the largest value would be beyond 127 steps, as in
      a row of one value.
    - `rounding` is the lambda of rate-distortion rounding (as in DeepCABAC, Wiedemann et al. 2020):
      the code q of w minimises (w / step - q)^2 + lambda bits(q), with the code lengths of the
      assignment before.
    - `lengths` says whose code lengths these are: those of the whole `matrix`, or those of a
      `context` as the file's coder has them, where codes of rows and columns of alike size stand
      together (see `_Lengths`).
    - `frequency` gives words steps of their own, where rows are words. The step of a word that
      occurs n times in the training text is proportional to (n + 10)^(-frequency / 2), in powers of
      two, with `step` as their root mean square. At high rates and with a quadratic loss, whose
      curvature in a row grows with n, 1 would be best (reverse water-filling).
    - `rate_penalty` is the lambda of entropy-penalised training (Oktay et al. 2020, eq. 3), in nats
      a bit: see `pull`.

    Measured without fine-tuning: `frequency` 0.6 makes files of the tied 2 x 200 model 15% smaller
    at equal perplexity (1.3 bits a weight); `context` makes those of a 2 x 400 model 3% smaller
    (0.9 bits). Tried and lost: steps per row (0.19 against 0.06 nats at 1.6 bits), levels at their
    means (equal at equal bits), steps by the Fisher information of the rows or columns of the other
    matrices (less than 1%).
    """

    kind: Literal["uniform"] = "uniform"
    step: Annotated[float, Field(gt=0)]
    rounding: Annotated[float, Field(ge=0, le=1)] = 0.1
    scope: Scope = "matrix"
    lengths: Literal["matrix", "context"] = later("matrix")
    frequency: Annotated[float, Field(ge=0, le=1)] = later(0.0)
    rate_penalty: Annotated[float, Field(ge=0)] = later(0.0)
    zeros_are_codes: ClassVar[bool] = True

    @classmethod
    def examples(cls) -> list[Ladder]:
        ladders: list[Ladder] = [
            [{"step": step, "scope": scope, "rounding": rounding} for step in (2.0, 0.7, 0.05)]
            for scope, rounding in (("matrix", 0.1), ("row", 0.1), ("matrix", 0.0))
        ]
        more = {"lengths": "context", "frequency": 0.6, "rate_penalty": 1e-6}
        return [*ladders, [{"step": step, **more} for step in (2.0, 0.7, 0.05)]]

    @classmethod
    def sentence(cls, plain: Mapping[str, Any]) -> str:
        finer = ", finer for frequent words" if plain.get("frequency") else ""
        return f"rounded to multiples of {plain['step']:.3g} standard deviations{finer}"

    @property
    def needs_counts(self) -> bool:
        return self.frequency > 0

    def untrained(self) -> Uniform:
        return self.model_copy(update={"rate_penalty": 0.0})

    def fit(
        self, data: Tensor, mask: Tensor | None, before: Codes | None, evidence: Evidence
    ) -> tuple[Tables, Nearest]:
        tables = before.tables if before else self._first_tables(data, mask, evidence.counts)
        step = self.steps(tables)
        if not self.rounding:
            return tables, lambda values, _: _plain(values / step)
        scaled = data / step
        symbols = as_matrix(before.symbols) if before else _plain(scaled)
        for _ in range(0 if before else 2):
            symbols = self._cheapest(symbols)(scaled, slice(None))
        rule = self._cheapest(symbols)
        return tables, lambda values, columns: rule(values / step, columns)

    def values(self, symbols: Tensor, tables: Tables, columns: slice) -> Tensor:
        return symbols * self.steps(tables)

    def steps(self, tables: Tables) -> Tensor:
        """The step of the matrix, (1, 1), or of each row, (rows, 1)."""
        return tables["step"] * tables["octaves"].exp2() if self.frequency else tables["step"]

    def pull(self, codes: Codes) -> Pull | None:
        """Towards 0 by lambda (bits of the code - bits of the next smaller one) / step: the
        gradient of lambda x the file's bits, where these are taken as linear between two codes."""
        if not self.rate_penalty:
            return None
        symbols = as_matrix(codes.symbols)
        lengths = _Lengths(symbols, by_context=self.lengths == "context")
        saved = lengths.table.diff(dim=1, prepend=lengths.table[:, :1]).clamp_(min=0)
        steps = self.steps(codes.tables)
        slopes = self.rate_penalty * lengths.of(saved, symbols) / steps
        fastest = float((slopes / steps).amax()) * self.refresh_updates
        values = (-slopes * symbols.sign()).view(codes.symbols.shape)
        return Pull(values, 1 / fastest if fastest else math.inf)

    def streams(self, shape: Shape, leaf: Shape) -> list[Stream]:
        rows, _ = matrix_shape(leaf)
        codes = Stream("codes", shape, -LIMIT, LIMIT)
        steps = table_streams("step", rows if self.scope == "row" else 1)
        octaves = Stream("octaves", (rows,), -OCTAVES, OCTAVES, is_codes=False)
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
        if not self.frequency:
            return tables
        if counts is None:
            tables["octaves"] = data.new_zeros(len(data), 1)
        else:
            steps = (counts.to(data).unsqueeze(1) + SEEN) ** (-self.frequency / 2)
            octaves = (steps / steps.square().mean().sqrt()).log2().round()
            tables["octaves"] = octaves.clamp_(-OCTAVES, OCTAVES)
        return tables

    def _first_step(self, data: Tensor, mask: Tensor | None) -> Tensor:
        shape = (len(data), -1) if self.scope == "row" else (1, -1)
        rows = data.reshape(shape)
        keep = torch.ones_like(rows) if mask is None else mask.reshape(shape).float()
        count = keep.sum(1, keepdim=True).clamp(min=1)
        mean = (rows * keep).sum(1, keepdim=True) / count
        deviation = ((rows - mean).square() * keep).sum(1, keepdim=True).div(count).sqrt()
        within = torch.maximum(self.step * deviation, (rows * keep).abs().amax(1, True) / LIMIT)
        half = torch.finfo(torch.float16)
        return within.clamp(half.tiny, half.max).half().float()

    def _cheapest(self, symbols: Tensor) -> Callable[[Tensor, slice], Tensor]:
        """The cheapest code of every value, given the symbols of an earlier assignment."""
        lengths = _Lengths(symbols, by_context=self.lengths == "context")
        rule, contexts = _Rule(self.rounding * lengths.table), lengths.contexts
        return lambda scaled, columns: rule(
            scaled, None if contexts is None else contexts[:, columns]
        )


class _Lengths:
    """Bits of each magnitude 0..LIMIT, `table` (contexts, LIMIT + 1), under the frequencies that
    symbols (rows, columns) have: all together, or by context.

    The context of a place is the magnitude that its row and its column let expect, the product of
    their means over the mean of all, in half octaves.
    """

    def __init__(self, symbols: Tensor, by_context: bool) -> None:
        magnitudes = symbols.abs().int()
        self.contexts = _contexts(magnitudes) if by_context else None
        counts = torch.bincount(
            self._index(magnitudes).flatten(), minlength=(CONTEXTS if by_context else 1) * WIDTH
        )
        table = counts.view(-1, WIDTH).float() + 0.5
        self.table = -(table / table.sum(1, keepdim=True)).log2()
        self.table[:, 1:] += 1  # the sign

    def of(self, table: Tensor, symbols: Tensor) -> Tensor:
        """What a table (contexts, LIMIT + 1) has for each symbol, shape as they."""
        index = self._index(symbols.abs().int())
        return table.flatten().index_select(0, index.flatten()).view(symbols.shape)

    def _index(self, magnitudes: Tensor) -> Tensor:
        return magnitudes if self.contexts is None else self.contexts * WIDTH + magnitudes


def _contexts(magnitudes: Tensor) -> Tensor:
    """The context of each place, (rows, columns) int32."""
    sizes = magnitudes.float()
    mean = sizes.mean() + 1e-3
    rows, columns = (sizes.mean(dim, keepdim=True) / mean + 0.02 for dim in (1, 0))
    expected = (rows.log2() + columns.log2() + mean.log2()).mul_(2).add_(CENTRE)
    return expected.round_().clamp_(0, CONTEXTS - 1).int()


class _Rule:
    """The cheapest code of scaled values u, where code k costs (u - k)^2 + costs[context, |k|].

    That is a line in u less u^2. So the cheapest k over all u >= 0 is the lower hull of the points
    (k, k^2 + costs[k]), and its slopes are the thresholds. A step has CELLS cells, and a value is
    compared with the thresholds of its cell alone, of which there is hardly ever more than one.
    """

    def __init__(self, costs: Tensor) -> None:
        heights = (torch.arange(costs.shape[1]) ** 2 + costs.cpu()).tolist()
        below, levels, found = [], list[int](), []
        for context, row in enumerate(heights):
            hull = _hull(row)
            slopes = [_slope(one, other) / 2 for one, other in pairwise(hull)]
            thresholds = np.maximum(np.array(slopes, dtype=np.float32), 0)
            cells = np.minimum(thresholds * CELLS, LAST_CELL).astype(np.int64)
            inside = np.bincount(cells, minlength=LAST_CELL + 1)
            below.append(len(levels) + inside.cumsum() - inside)
            levels += [k for k, _ in hull]
            nth = np.arange(len(cells)) - np.searchsorted(cells, cells)  # in its cell
            found.append((nth, cells + context * (LAST_CELL + 1), thresholds))
        deepest = max((int(nth.max(initial=0)) for nth, *_ in found), default=0)
        table = np.full((deepest + 1, len(found) * (LAST_CELL + 1)), np.inf, dtype=np.float32)
        for nth, cells, thresholds in found:
            table[nth, cells] = thresholds
        self.below = torch.from_numpy(np.concatenate(below).astype(np.int32)).to(costs.device)
        self.thresholds = torch.from_numpy(table).to(costs.device)
        self.levels = torch.tensor(levels, dtype=torch.float32, device=costs.device)

    def __call__(self, scaled: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Of values in steps, each in a context (shape as they) or all in the first one."""
        sizes = scaled.abs().flatten()
        cells = (sizes * CELLS).clamp_(max=LAST_CELL).int().clamp_(min=0)  # what is no number: 0
        if contexts is not None:
            cells += contexts.flatten() * (LAST_CELL + 1)
        level = self.below.index_select(0, cells)
        for thresholds in self.thresholds:
            level += sizes > thresholds.index_select(0, cells)
        magnitude = self.levels.index_select(0, level).view(scaled.shape)
        return torch.copysign(magnitude, scaled).short()


def _hull(heights: list[float]) -> list[tuple[int, float]]:
    """The lower hull of the points (k, heights[k])."""
    hull: list[tuple[int, float]] = []
    for point in enumerate(heights):
        while len(hull) >= 2 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _plain(scaled: Tensor) -> Tensor:
    return scaled.round().clamp_(-LIMIT, LIMIT).short()


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
