"""Low rank: W ~ A B (Grachev 2017; Winata et al. 2019), from several starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from lmcore import sites
from lmcore.codec import Ladder, Shape
from lmcore.errors import UserError
from lmcore.lazy import torch
from lmcore.settings import Settings
from lmcore.structure import (
    DenseStructure,
    MatrixShape,
    SiteStatistics,
    Structure,
    Values,
    stored_rows,
)

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 1e-3  # of the mean second moment of the inputs, before its root is inverted
NMF_ROUNDS = 100


class Energy(Settings):
    """The least rank that keeps this fraction of the squared (weighted) Frobenius norm."""

    energy: Annotated[float, Field(gt=0, le=1)]


def _check_rank(given: Any) -> Any:
    """One message for all forms; pydantic would give one for each."""
    if isinstance(given, Mapping | Energy):
        return Energy.model_validate(given)
    if (type(given) is int and given >= 1) or (type(given) is float and 0 < given <= 1):
        return given
    raise ValueError(
        "a rank is a whole number from 1 on, a share of the dense size above 0 and at most 1, or "
        "{energy: SHARE}"
    )


Rank = Annotated[int | float | Energy, BeforeValidator(_check_rank)]


class LowRankStructure(Structure, ABC):
    """Two factors A (out, rank) and B (rank, in).

    `rank` is a number, a fraction of the dense size that the factors may have, or the energy
    that is kept.
    """

    rank: Rank
    multiplies: ClassVar[bool] = True
    start: ClassVar[str]  # how the factors start, for reports

    @classmethod
    def examples(cls, shape: MatrixShape) -> list[Ladder]:
        return [[{"rank": rank} for rank in range(1, min(shape) + 1)]]

    @classmethod
    def sentence(cls, plain: Mapping[str, Any]) -> str:
        match plain["rank"]:
            case {"energy": energy}:
                rank = f"the rank that keeps {energy:.1%} of the energy"
            case float(share):
                rank = f"the rank of {share:.1%} of the size"
            case number:
                rank = f"rank {number}"
        return f"low rank: {rank} by {cls.start}"

    @abstractmethod
    def factors(
        self, matrix: Tensor, statistics: SiteStatistics, rank: int
    ) -> tuple[Tensor, Tensor]:
        """A and B for a matrix (out, in)."""

    @abstractmethod
    def spectrum(self, matrix: Tensor, statistics: SiteStatistics) -> Tensor:
        """The singular values, falling, whose squares are the energy."""

    def leaf_shapes(self, shape: MatrixShape) -> dict[str, Shape]:
        if isinstance(self.rank, Energy):  # not known yet, but never more than this
            return DenseStructure().leaf_shapes(shape)
        rows, columns = shape
        return {"left": (rows, self._number), "right": (self._number, columns)}

    def factor(self, matrix: Tensor, statistics: SiteStatistics) -> Values:
        left, right = self.factors(matrix, statistics, self._number)
        return {"left": left.contiguous(), "right": right.contiguous()}

    def canonical(self, site: str, shape: MatrixShape) -> Structure:
        """Dense where the factors would hold at least as many numbers as the matrix."""
        rows, columns = shape
        rank = self.rank
        if isinstance(rank, Energy):
            return self if rank.energy < 1 else DenseStructure()
        if isinstance(rank, float):
            rank = max(1, int(rank * rows * columns / (rows + columns)))
        elif not self.fits(shape):
            raise UserError(
                f"recipe.sites.{site}.structure.rank: got {rank}; "
                f"a {rows} x {columns} matrix has a rank of at most {min(shape)}"
            )
        if rank * (rows + columns) >= rows * columns:
            return DenseStructure()
        return self.model_copy(update={"rank": rank})

    def fits(self, shape: MatrixShape) -> bool:
        return not isinstance(self.rank, int) or self.rank <= min(shape)

    @property
    def is_open(self) -> bool:
        return isinstance(self.rank, Energy)

    def settled(self, matrix: Tensor, statistics: SiteStatistics) -> Structure:
        if not isinstance(self.rank, Energy):
            return self
        energy = self.spectrum(matrix, statistics).double().square().cumsum(0)
        kept = energy < self.rank.energy * energy[-1]
        return self.model_copy(update={"rank": min(int(kept.sum()) + 1, len(energy))})

    def leaf_inputs(self, leaves: Values, inputs: Tensor) -> Values:
        right = leaves["right"]
        return {"left": right @ inputs @ right.T, "right": inputs}

    def dense(self, leaves: Values, shape: MatrixShape) -> Tensor:
        return leaves["left"] @ leaves["right"]

    def head(self, leaves: Values, shape: MatrixShape, x: Tensor) -> tuple[Tensor, Tensor]:
        return x @ leaves["right"].T, leaves["left"]

    def look_up(self, leaves: Values, shape: MatrixShape, ids: Tensor) -> Tensor:
        return torch.nn.functional.embedding(ids, leaves["left"]) @ leaves["right"]

    def part(self, leaves: Values, shape: MatrixShape, ids: Tensor) -> tuple[Structure, Values]:
        return self, {**leaves, "left": stored_rows(leaves["left"], ids)}

    @property
    def _number(self) -> int:
        assert isinstance(self.rank, int), "canonical and settled make a number of it"
        return self.rank


class SVD(LowRankStructure):
    """Truncated SVD, the singular values split evenly between the factors."""

    kind: Literal["svd"] = "svd"
    start: ClassVar[str] = "SVD"

    def factors(
        self, matrix: Tensor, statistics: SiteStatistics, rank: int
    ) -> tuple[Tensor, Tensor]:
        return truncated_svd(matrix, rank)

    def spectrum(self, matrix: Tensor, statistics: SiteStatistics) -> Tensor:
        return singular_values(matrix)


class ActivationSVD(LowRankStructure):
    """The A B that minimises the error of the outputs, |D (W - A B) C^(1/2)|, not of the weights.

    C (in, in) are the second moments of the site's inputs on training text. D (out, out) is
    diagonal, the square roots of how much each row counts; `rows` says how much: none, all alike;
    fisher, the row's Fisher information; counts, how often the text has the row's word. The
    minimum is the truncated SVD of D W C^(1/2), with D and C^(1/2) divided out again.
    """

    kind: Literal["activation_svd"] = "activation_svd"
    start: ClassVar[str] = "SVD of the outputs"
    rows: Literal["none", "fisher", "counts"] = "none"

    @classmethod
    def examples(cls, shape: MatrixShape) -> list[Ladder]:
        (ranks,) = super().examples(shape)
        return [[{**rank, "rows": rows} for rank in ranks] for rows in ("none", "fisher", "counts")]

    def canonical(self, site: str, shape: MatrixShape) -> Structure:
        if self.rows == "counts" and site not in sites.WORD_SITES:
            raise UserError(
                f"recipe.sites.{site}.structure.rows: got counts; a row has a word at embedding "
                f"and decoder only, elsewhere it takes none or fisher"
            )
        return super().canonical(site, shape)

    def factors(
        self, matrix: Tensor, statistics: SiteStatistics, rank: int
    ) -> tuple[Tensor, Tensor]:
        rows, root, inverse = self._weights(matrix, statistics)
        left, right = truncated_svd(rows * (matrix.double() @ root), rank)
        # the same product with balanced factors: unbalanced ones train worse, 118.0 against 116.0
        left, right = truncated_svd((left / rows) @ (right @ inverse), rank)
        return left.to(matrix.dtype), right.to(matrix.dtype)

    def spectrum(self, matrix: Tensor, statistics: SiteStatistics) -> Tensor:
        rows, root, _ = self._weights(matrix, statistics)
        return singular_values(rows * (matrix.double() @ root))

    def _weights(self, matrix: Tensor, statistics: SiteStatistics) -> tuple[Tensor, Tensor, Tensor]:
        """D (out, 1), C^(1/2) and its inverse (in, in), in double precision."""
        weights = None
        if self.rows == "fisher":
            weights = statistics.importance().sum(1)
        elif self.rows == "counts":
            weights = statistics.counts()
        rows = matrix.new_ones(len(matrix), 1, dtype=torch.float64)
        if weights is not None:
            relative = weights.double() / weights.double().mean().clamp(min=1e-30)
            rows = (relative + DAMPING).sqrt().unsqueeze(1)
        inputs = statistics.inputs()
        if inputs is None:
            same = torch.eye(matrix.shape[1], dtype=torch.float64, device=matrix.device)
            return rows, same, same
        return rows, *roots(inputs)


class SemiNMF(LowRankStructure):
    """W ~ A B with B >= 0 (Ding et al. 2010; Winata et al. 2019), started from the SVD."""

    kind: Literal["semi_nmf"] = "semi_nmf"
    start: ClassVar[str] = "semi-NMF"
    holds_any: ClassVar[bool] = False  # a factor without negative numbers does not

    def factors(
        self, matrix: Tensor, statistics: SiteStatistics, rank: int
    ) -> tuple[Tensor, Tensor]:
        _, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        b = (values[:rank].sqrt().unsqueeze(1) * right[:rank]).abs()
        w = matrix.double()
        for _ in range(NMF_ROUNDS):
            a = _best_left(w, b)
            wa, aa = w.T @ a, a.T @ a  # (in, rank), (rank, rank)
            over = _positive(wa) + b.T @ _negative(aa)
            under = _negative(wa) + b.T @ _positive(aa) + 1e-9
            b = b * (over / under).sqrt().T
        # both factors at one scale, so that one step codes them alike
        a = _best_left(w, b)
        scale = ((b.norm(dim=1) + 1e-30) / (a.norm(dim=0) + 1e-30)).sqrt()
        return (a * scale).to(matrix.dtype), (b / scale.unsqueeze(1)).to(matrix.dtype)

    def spectrum(self, matrix: Tensor, statistics: SiteStatistics) -> Tensor:
        return singular_values(matrix)


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(out, in) -> (out, rank), (rank, in), the singular values split evenly."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root.unsqueeze(1) * right[:rank]


def singular_values(matrix: Tensor) -> Tensor:
    """(out, in) -> (min(out, in),), falling."""
    values: Tensor = torch.linalg.svdvals(matrix)
    return values


def roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """C^(1/2) and C^(-1/2) of second moments C (n, n), damped, in double precision."""
    moments = moments.double()
    values, vectors = torch.linalg.eigh(moments)
    root = (values.clamp(min=0) + DAMPING * values.mean().clamp(min=1e-30)).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def _best_left(w: Tensor, b: Tensor) -> Tensor:
    """A = W B^T pinv(B B^T)."""
    inverse: Tensor = torch.linalg.pinv(b @ b.T, hermitian=True)
    return w @ b.T @ inverse


def _positive(x: Tensor) -> Tensor:
    return (x.abs() + x) / 2


def _negative(x: Tensor) -> Tensor:
    return (x.abs() - x) / 2
