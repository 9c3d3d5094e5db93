"""Structure: the form of a site's matrix, as settings with pure functions of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeAlias

from pydantic import BeforeValidator, SerializeAsAny

from lmcore.codec import Ladder, Shape
from lmcore.lazy import torch
from lmcore.settings import Family

if TYPE_CHECKING:
    from torch import Tensor

MatrixShape = tuple[int, int]  # (out, in)
Values: TypeAlias = "dict[str, Tensor]"  # leaf -> what it stores


class SiteStatistics(Protocol):
    """What a text tells of a site's matrix (out, in) in the dense model."""

    def inputs(self) -> Tensor | None:
        """(in, in): second moments of what it multiplies; None where that is one word at a time."""

    def importance(self) -> Tensor:
        """(out, in): mean squared gradient of the loss."""

    def counts(self) -> Tensor | None:
        """(out,): how often the training text has the word of each row; None where none is."""


class Structure(Family, ABC):
    """The form of a site's matrix W (out, in): which leaves store W, and how they make W again.

    A structure needs `leaf_shapes`, `factor` and `dense`. `head`, `matmul` and `look_up` are there
    for forms that have a cheaper way than rebuilding W.
    """

    multiplies: ClassVar[bool] = False  # whether each leaf multiplies something as a matrix does
    holds_any: ClassVar[bool] = True  # whether its largest settings hold any matrix exactly

    @classmethod
    def examples(cls, shape: MatrixShape) -> list[Ladder]:
        """Settings beside `kind`, for a matrix (out, in), that the contract is tested with."""
        raise NotImplementedError(f"{cls.__name__} has no examples for the tests of the contract")

    @classmethod
    def sentence(cls, plain: Mapping[str, Any]) -> str:
        """What such a structure is, for reports, from its settings as plain data."""
        return f"stored as {plain['kind']}"

    # --- before there are tensors ---------------------------------------------------------------

    @abstractmethod
    def leaf_shapes(self, shape: MatrixShape) -> dict[str, Shape]:
        """Leaf -> shape for a matrix (out, in), in the order of the file."""

    def padded(self, shape: MatrixShape) -> MatrixShape:
        """What a matrix (out, in) is rebuilt as, before it is cut to its shape."""
        return shape

    def canonical(self, site: str, shape: MatrixShape) -> Structure:
        """What this structure amounts to at a site of that shape; UserError if it cannot be."""
        return self

    def fits(self, shape: MatrixShape) -> bool:
        """Whether a matrix (out, in) is large enough; `canonical` refuses one that is not."""
        return True

    @property
    def is_open(self) -> bool:
        """Whether it depends on the matrix and is not yet `settled`."""
        return False

    # --- from a dense matrix --------------------------------------------------------------------

    @abstractmethod
    def factor(self, matrix: Tensor, statistics: SiteStatistics) -> Values:
        """Leaf -> start value for a matrix (out, in)."""

    def settled(self, matrix: Tensor, statistics: SiteStatistics) -> Structure:
        """This structure with what depends on the matrix (out, in) settled."""
        return self

    def leaf_inputs(self, leaves: Values, inputs: Tensor) -> Values:
        """Leaf -> second moments of what it multiplies, given those of the matrix (in, in)."""
        raise NotImplementedError(f"the leaves of {self.kind} multiply nothing as matrices do")

    # --- back to the matrix, all differentiable -------------------------------------------------

    @abstractmethod
    def dense(self, leaves: Values, shape: MatrixShape) -> Tensor:
        """W (out, in)."""

    def head(self, leaves: Values, shape: MatrixShape, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, M) with x W^T = z M^T: x (..., in) -> z (..., r), M (out, r)."""
        return x, self.dense(leaves, shape)

    def matmul(self, leaves: Values, shape: MatrixShape, x: Tensor) -> Tensor:
        """x W^T: (..., in) -> (..., out), by the cheapest exact path."""
        z, matrix = self.head(leaves, shape, x)
        return z @ matrix.T

    def look_up(self, leaves: Values, shape: MatrixShape, ids: Tensor) -> Tensor:
        """The rows W[ids]: (...,) -> (..., in)."""
        return torch.nn.functional.embedding(ids, self.dense(leaves, shape))

    def part(self, leaves: Values, shape: MatrixShape, ids: Tensor) -> tuple[Structure, Values]:
        """The matrix W[ids], for ascending ids (k,), each once: its form, and its leaves.

        Where a leaf has a row for each row of W, its gradient is sparse: these rows alone.
        """
        return DenseStructure(), {"matrix": self.look_up(leaves, shape, ids)}


AnyStructure = Annotated[SerializeAsAny[Structure], BeforeValidator(Structure.pick)]


class DenseStructure(Structure):
    """The matrix itself: one leaf (out, in)."""

    kind: Literal["dense"] = "dense"
    multiplies: ClassVar[bool] = True

    @classmethod
    def examples(cls, shape: MatrixShape) -> list[Ladder]:
        return [[{}]]

    def leaf_shapes(self, shape: MatrixShape) -> dict[str, Shape]:
        return {"matrix": shape}

    def factor(self, matrix: Tensor, statistics: SiteStatistics) -> Values:
        return {"matrix": matrix}

    def leaf_inputs(self, leaves: Values, inputs: Tensor) -> Values:
        return {"matrix": inputs}

    def dense(self, leaves: Values, shape: MatrixShape) -> Tensor:
        return leaves["matrix"]

    def part(self, leaves: Values, shape: MatrixShape, ids: Tensor) -> tuple[Structure, Values]:
        return self, {"matrix": stored_rows(leaves["matrix"], ids)}


def stored_rows(leaf: Tensor, ids: Tensor) -> Tensor:
    """Rows (k, in) of a stored leaf (out, in), with a gradient that is sparse and coalesced.

    The ids (k,) ascend, each once.
    """
    from lmcore.rows import rows_of  # torch's own classes, which settings are read without

    return rows_of(leaf, ids)
