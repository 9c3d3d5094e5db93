"""Tensor train: W as a chain of small cores (Oseledets 2011; Novikov et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lmcore.codec import Ladder, Shape
from lmcore.errors import UserError
from lmcore.lazy import torch
from lmcore.settings import Settings
from lmcore.structure import DenseStructure, MatrixShape, SiteStatistics, Structure, Values

if TYPE_CHECKING:
    from torch import Tensor

Size = Annotated[int, Field(ge=1)]

# What a multiply-add of a contraction, whose products are small, costs in those of a rebuild: from
# 1 (one vector) to 6 (700) on one core, at 10000 x 200, ranks 4 to 64, 2 to 4 cores.
SMALL_PRODUCT = 3


def _check_rank(given: Any) -> Any:
    """One message for both forms; pydantic would give one for each."""
    ranks = given if isinstance(given, list | tuple) else [given]
    if not ranks or not all(type(rank) is int and rank >= 1 for rank in ranks):
        raise ValueError("it is a whole number from 1 on, or a list of them, one a bond")
    return given


class Factors(Settings):
    """Into what the matrix's sides are cut, a factor a core."""

    rows: tuple[Size, ...]
    columns: tuple[Size, ...]


class TensorTrainStructure(Structure):
    """Cores G_k (r_{k-1}, m_k, n_k, r_k) with r_0 = r_d = 1.

    W[i, j] = G_1[i_1, j_1] ... G_d[i_d, j_d], a product of matrices (Novikov et al. 2015, eq. 3);
    i_k and j_k are the digits of i and j, the first the most telling. `rank` is the largest r_k,
    or r_1, ..., r_{d-1}; a rank above what its bond can have counts as that. `factors` None: the
    m_k and n_k are near-equal. Where their products exceed the matrix, it is padded with zeros
    that nobody sees.
    """

    kind: Literal["tensor_train"] = "tensor_train"
    rank: Annotated[int | tuple[int, ...], BeforeValidator(_check_rank)]
    cores: Annotated[int, Field(ge=2, le=6)] = 3
    factors: Factors | None = None

    @classmethod
    def examples(cls, shape: MatrixShape) -> list[Ladder]:
        # 64 x 64: most matrices of the tests are padded
        factors = {"rows": [4, 4, 4], "columns": [4, 2, 8]}
        return [
            [{"rank": rank, **settings} for rank in (1, 2, 3, 5, 8, 64)]
            for settings in ({"cores": 2}, {"cores": 3, "factors": factors})
        ]

    @classmethod
    def sentence(cls, plain: Mapping[str, Any]) -> str:
        rank = plain["rank"]
        ranks = f"rank {rank}" if isinstance(rank, int) else f"ranks {', '.join(map(str, rank))}"
        return f"tensor train: {plain['cores']} cores of {ranks}"

    def modes(self, shape: MatrixShape) -> list[tuple[int, int]]:
        """(m_k, n_k) of each core.

        Automatic rows rise and columns fall, so that no core has the large factors of both.
        """
        if self.factors:
            return list(zip(self.factors.rows, self.factors.columns, strict=True))
        rows, columns = (near_equal_factors(size, self.cores) for size in shape)
        return list(zip(rows, reversed(columns), strict=True))

    def padded(self, shape: MatrixShape) -> MatrixShape:
        """The products of the m_k and of the n_k."""
        rows, columns = zip(*self.modes(shape), strict=True)
        return math.prod(rows), math.prod(columns)

    def ranks(self, shape: MatrixShape) -> list[int]:
        """r_0, ..., r_d, none above r_{k-1} m_k n_k or m_{k+1} n_{k+1} r_{k+1}."""
        sizes = [m * n for m, n in self.modes(shape)]
        inner = self.rank if isinstance(self.rank, tuple) else (self.rank,) * (self.cores - 1)
        ranks = [1, *inner, 1]
        for k in range(1, self.cores):
            ranks[k] = min(ranks[k], ranks[k - 1] * sizes[k - 1])
        for k in reversed(range(1, self.cores)):
            ranks[k] = min(ranks[k], sizes[k] * ranks[k + 1])
        return ranks

    def leaf_shapes(self, shape: MatrixShape) -> dict[str, Shape]:
        """Core k as a matrix (r_{k-1} m_k, n_k r_k): the file coder predicts along the rows of a
        matrix, and a codec of scope "row" scales what one row digit multiplies on its own."""
        ranks = self.ranks(shape)
        return {
            f"core{k}": (ranks[k] * m, n * ranks[k + 1])
            for k, (m, n) in enumerate(self.modes(shape))
        }

    def factor(self, matrix: Tensor, statistics: SiteStatistics) -> Values:
        """TT-SVD (Oseledets 2011, Algorithm 1), each bond's singular values split evenly.

        In float64: an SVD that follows another sees the first one's rounding.
        """
        rows, columns = matrix.shape
        modes, ranks = self.modes((rows, columns)), self.ranks((rows, columns))
        rest = _interleave(matrix.double(), modes)
        scale, cores = rest.new_ones(1), {}
        for k, ((m, n), rank) in enumerate(zip(modes[:-1], ranks[1:-1], strict=True)):
            rest = rest.reshape(ranks[k] * m * n, -1)
            left, values, right = torch.linalg.svd(rest, full_matrices=False)
            root = values[:rank].sqrt()
            core = left[:, :rank].reshape(ranks[k], -1) / scale.unsqueeze(1)
            cores[f"core{k}"] = core.reshape(-1, rank) * root
            rest = values[:rank].unsqueeze(1) * right[:rank]  # (r_k, what is left)
            # a value of nothing takes nothing along, and must not be divided by
            scale = root.clamp(min=max(1e-8 * float(root[0]), 1e-30))
        cores[f"core{len(modes) - 1}"] = rest / scale.unsqueeze(1)
        return {
            name: cores[name].reshape(shape).to(matrix.dtype).contiguous()
            for name, shape in self.leaf_shapes((rows, columns)).items()
        }

    def dense(self, leaves: Values, shape: MatrixShape) -> Tensor:
        merged = _merge(_cores(_plan(self, shape), leaves))  # (1, padded out, padded in, 1)
        return merged[0, : shape[0], : shape[1], 0]

    def matmul(self, leaves: Values, shape: MatrixShape, x: Tensor) -> Tensor:
        plan, vectors = _plan(self, shape), x.numel() // shape[1]
        rebuilt = plan.dense + vectors * math.prod(shape)
        if SMALL_PRODUCT * vectors * plan.vector < rebuilt:
            return self._contract(leaves, shape, x)
        return super().matmul(leaves, shape, x)

    def look_up(self, leaves: Values, shape: MatrixShape, ids: Tensor) -> Tensor:
        plan = _plan(self, shape)
        if SMALL_PRODUCT * ids.numel() * plan.row < plan.dense:
            return self._contract_rows(leaves, shape, ids)
        return super().look_up(leaves, shape, ids)

    def _contract(self, leaves: Values, shape: MatrixShape, x: Tensor) -> Tensor:
        """x W^T (..., out), core by core (Novikov et al. 2015, eq. 5)."""
        plan, flat = _plan(self, shape), x.reshape(math.prod(x.shape[:-1]), shape[1])
        padded = torch.nn.functional.pad(flat, (0, plan.padded[1] - shape[1]))
        state = padded.unsqueeze(1)  # (vectors M_k, r_k, the columns of the cores to come)
        for core in _cores(plan, leaves):
            n = core.shape[2]
            state = state.reshape(*state.shape[:2], n, state.shape[2] // n)
            state = torch.einsum("vrnc,rmns->vmsc", state, core).flatten(0, 1)
        y = state.reshape(len(padded), plan.padded[0])
        return y[:, : shape[0]].reshape(*x.shape[:-1], shape[0])

    def _contract_rows(self, leaves: Values, shape: MatrixShape, ids: Tensor) -> Tensor:
        """W[ids] (..., in), from the matrices G_k[i_k] of these rows alone."""
        plan, flat = _plan(self, shape), ids.flatten()
        below, cores = plan.padded[0], _cores(plan, leaves)
        merged = cores[0].new_ones(len(flat), 1, 1)  # (ids, N_k, r_k)
        for core in cores:
            below //= core.shape[1]
            digits = flat // below % core.shape[1]
            slices = core.transpose(0, 1)[digits]  # (ids, r_{k-1}, n_k, r_k)
            merged = torch.einsum("vNr,vrns->vNns", merged, slices).flatten(1, 2)
        return merged[:, : shape[1], 0].reshape(*ids.shape, shape[1])

    def canonical(self, site: str, shape: MatrixShape) -> Structure:
        """Dense where the cores would hold at least as many numbers as the matrix.

        Ranks are what their bonds can have; one number where it gives the same ranks, and no
        factors where they are the automatic ones.
        """
        self._check(f"recipe.sites.{site}.structure", shape)
        if sum(math.prod(leaf) for leaf in self.leaf_shapes(shape).values()) >= math.prod(shape):
            return DenseStructure()
        ranks = self.ranks(shape)
        plain = self.model_copy(update={"rank": max(ranks), "factors": None})
        if self.modes(shape) != plain.modes(shape):
            plain = plain.model_copy(update={"factors": self.factors})
        if ranks != plain.ranks(shape):
            plain = plain.model_copy(update={"rank": tuple(ranks[1:-1])})
        return plain

    def fits(self, shape: MatrixShape) -> bool:
        return self.factors is not None or min(shape) >= 2**self.cores

    def _check(self, where: str, shape: MatrixShape) -> None:
        """UserError, for the setting below `where`, if no matrix (out, in) can have it."""
        matrix = f"a {shape[0]} x {shape[1]} matrix in {self.cores} cores"
        if self.factors:
            sides = {"rows": self.factors.rows, "columns": self.factors.columns}
            for (side, given), size in zip(sides.items(), shape, strict=True):
                got = f"{where}.factors.{side}: got {list(given)}"
                if len(given) != self.cores:
                    raise UserError(f"{got}; {matrix} takes {self.cores} factors a side")
                if math.prod(given) < size:
                    raise UserError(
                        f"{got}, whose product is {math.prod(given)}; {matrix} takes a product "
                        f"of at least {size}"
                    )
            if (1, 1) in self.modes(shape):
                raise UserError(
                    f"{where}.factors: core {self.modes(shape).index((1, 1))} has factors 1 and 1; "
                    f"{matrix} takes more than one number a core"
                )
        elif not self.fits(shape):
            raise UserError(
                f"{where}.cores: got {self.cores}; {matrix} would take sides of at least "
                f"{2**self.cores}, for factors of at least 2"
            )
        if isinstance(self.rank, tuple) and len(self.rank) != self.cores - 1:
            raise UserError(
                f"{where}.rank: got {list(self.rank)}; {matrix} takes one rank, or "
                f"{self.cores - 1}, one a bond"
            )


@dataclass(frozen=True)
class _Plan:
    """How a matrix is made of its cores, and what each way costs in multiply-adds."""

    modes: tuple[tuple[int, int], ...]  # (m_k, n_k)
    padded: MatrixShape
    dense: int  # of rebuilding the matrix: its last product alone
    vector: int  # of a contraction with the cores, for each vector
    row: int  # of looking up a row


@lru_cache(maxsize=256)
def _plan(structure: TensorTrainStructure, shape: MatrixShape) -> _Plan:
    modes, padded = tuple(structure.modes(shape)), structure.padded(shape)
    dense = math.prod(padded) * structure.ranks(shape)[len(modes) // 2]
    vector, row, rows, columns = 0, 0, 1, padded[1]
    for leaf, (m, n) in zip(structure.leaf_shapes(shape).values(), modes, strict=True):
        numbers = math.prod(leaf)
        row += padded[1] // columns * numbers // m
        columns //= n
        vector += rows * numbers * columns
        rows *= m
    return _Plan(modes, padded, dense, vector, row)


def _cores(plan: _Plan, leaves: Values) -> list[Tensor]:
    """The cores (r_{k-1}, m_k, n_k, r_k), each of which is stored as (r_{k-1} m_k, n_k r_k)."""
    return [
        leaf.view(leaf.shape[0] // m, m, n, leaf.shape[1] // n)
        for leaf, (m, n) in zip(leaves.values(), plan.modes, strict=True)
    ]


def _merge(cores: list[Tensor]) -> Tensor:
    """(r_{k-1}, m_k, n_k, r_k) each -> (r_0, M, N, r_d), M and N the products of the m_k and n_k.

    By halves: from the first core to the last, four cores of 10000 x 200 take twice as long.
    """
    if len(cores) == 1:
        return cores[0]
    half = len(cores) // 2
    merged = torch.einsum("rMNs,smnt->rMmNnt", _merge(cores[:half]), _merge(cores[half:]))
    return merged.flatten(3, 4).flatten(1, 2)


@lru_cache
def near_equal_factors(size: int, count: int) -> tuple[int, ...]:
    """Rising factors, the last at most three times the first, with the least product >= size.

    Of equal products the one with the smallest sum, so the most equal factors: 10000 = 20 x 20 x
    25, 650 = 5 x 10 x 13. A prime is padded: 101 into 102 = 6 x 17.
    """
    root = 1
    while root**count < size:
        root += 1
    found = _rising_factors((), size, count, root)
    return min(found, key=lambda factors: (math.prod(factors), sum(factors)))


def _rising_factors(
    begun: tuple[int, ...], size: int, count: int, root: int
) -> Iterator[tuple[int, ...]]:
    """The factors of `near_equal_factors` that begin so; none with a product above root^count.

    The last factor is at least the root, so the first is at least a third of the root.
    """
    product, left = math.prod(begun), count - len(begun)
    most = 3 * begun[0] if begun else root
    if left == 1:
        last = max(begun[-1], -(-size // product))
        if last <= most:
            yield (*begun, last)
        return
    for factor in range(begun[-1] if begun else -(-root // 3), most + 1):
        if product * factor**left > root**count:
            return
        if product * factor * (3 * (begun[0] if begun else factor)) ** (left - 1) >= size:
            yield from _rising_factors((*begun, factor), size, count, root)


def _interleave(matrix: Tensor, modes: list[tuple[int, int]]) -> Tensor:
    """(out, in), padded with zeros -> (m_1, n_1, ..., m_d, n_d)."""
    rows, columns = zip(*modes, strict=True)
    (out, inputs), count = matrix.shape, len(modes)
    padded = torch.nn.functional.pad(
        matrix, (0, math.prod(columns) - inputs, 0, math.prod(rows) - out)
    )
    order = [side * count + k for k in range(count) for side in (0, 1)]
    return padded.reshape(*rows, *columns).permute(order)
