"""Low rank: W ~ A B by truncated SVD (Grachev 2017; Winata et al. 2019)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import embedding

from lmcore.errors import UserError
from lmcore.weight import DenseStructure, Leaf, Shape, Structure, Weight


class SVD(Structure):
    """Two factors A (out, rank) and B (rank, in)."""

    kind: Literal["svd"] = "svd"
    rank: Annotated[int, Field(ge=1)]

    def leaf_shapes(self, shape: tuple[int, int]) -> dict[str, Shape]:
        rows, columns = shape
        return {"left": (rows, self.rank), "right": (self.rank, columns)}

    def factor(self, matrix: Tensor) -> dict[str, Tensor]:
        """Truncated SVD, the singular values split evenly between the factors."""
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        root = values[: self.rank].sqrt()
        return {
            "left": (left[:, : self.rank] * root).contiguous(),
            "right": (root.unsqueeze(1) * right[: self.rank]).contiguous(),
        }

    def weight(self, leaves: dict[str, Leaf], shape: tuple[int, int]) -> Weight:
        return LowRank(self, leaves)

    def canonical(self, site: str, shape: tuple[int, int]) -> Structure:
        """Dense where the factors would hold at least as many numbers as the matrix."""
        rows, columns = shape
        if self.rank > min(shape):
            raise UserError(
                f"recipe.sites.{site}.structure.rank: got {self.rank}; "
                f"a {rows} x {columns} matrix has a rank of at most {min(shape)}"
            )
        return self if self.rank * (rows + columns) < rows * columns else DenseStructure()


class LowRank(Weight):
    """A (out, r) B (r, in)."""

    @property
    def left(self) -> Leaf:
        return self.leaves["left"]

    @property
    def right(self) -> Leaf:
        return self.leaves["right"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    def dense(self) -> Tensor:
        return self.left.value() @ self.right.value()

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x @ self.right.value().T, self.left.value()

    def rows(self, ids: Tensor) -> Tensor:
        return embedding(ids, self.left.value()) @ self.right.value()
