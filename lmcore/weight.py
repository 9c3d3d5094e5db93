"""Weight: the matrix (out, in) of a site, however it is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from lmcore.leaf import Leaf
from lmcore.structure import DenseStructure, MatrixShape, Structure, Values


class Weight(nn.Module):
    """The matrix W (out, in) of a site: its leaves, and the structure that makes W of them."""

    def __init__(self, structure: Structure, leaves: dict[str, Leaf], shape: MatrixShape) -> None:
        super().__init__()
        self.structure, self.shape = structure, shape
        self._leaves = nn.ModuleDict(leaves)
        self.watch: Callable[[Tensor], None] | None = None  # see `lmcore.watching`

    @classmethod
    def of(cls, matrix: Tensor) -> Weight:
        """The weight of a matrix (out, in) that is stored as it is, in float32."""
        shape = (matrix.shape[0], matrix.shape[1])
        return cls(DenseStructure(), {"matrix": Leaf(matrix)}, shape)

    @property
    def leaves(self) -> dict[str, Leaf]:
        """The tensors that are really stored, in the order of the file."""
        return {name: cast(Leaf, leaf) for name, leaf in self._leaves.items()}

    def dense(self) -> Tensor:
        """W (out, in), differentiable."""
        return self.structure.dense(self._values(), self.shape)

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, M) with x W^T = z M^T: (..., in) -> (..., r), (out, r). What a fused loss needs."""
        self._watched(x)
        return self.structure.head(self._values(), self.shape, x)

    def matmul(self, x: Tensor) -> Tensor:
        """x W^T: (..., in) -> (..., out), by the cheapest exact path."""
        self._watched(x)
        return self.structure.matmul(self._values(), self.shape, x)

    def rows(self, ids: Tensor) -> Tensor:
        """W[ids]: (...,) -> (..., in), the embedding look-up."""
        return self.structure.look_up(self._values(), self.shape, ids)

    def part(self, ids: Tensor) -> WeightPart:
        """W's rows of the `ids`, of any shape and in any order, for steps that need no others."""
        words: Tensor = ids.unique()  # type: ignore[no-untyped-call]
        structure, values = self.structure.part(self._values(), self.shape, words)
        return WeightPart(words, structure, values, (len(words), self.shape[1]))

    def _watched(self, x: Tensor) -> None:
        if self.watch:
            self.watch(x)

    def _values(self) -> Values:
        return {name: leaf.value() for name, leaf in self.leaves.items()}


@dataclass(frozen=True)
class WeightPart:
    """Some rows of a weight: those of the ascending ids `words` (k,), each once."""

    words: Tensor
    structure: Structure
    values: Values
    shape: MatrixShape  # (k, in)

    def places(self, ids: Tensor) -> Tensor:
        """Where the part has the rows of these ids, all of which it has; shape as they."""
        return torch.searchsorted(self.words, ids.contiguous())

    def rows(self, ids: Tensor) -> Tensor:
        """W[ids]: (...,) -> (..., in)."""
        return self.structure.look_up(self.values, self.shape, self.places(ids))

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, M) with x W[words]^T = z M^T: (..., in) -> (..., r), (k, r)."""
        return self.structure.head(self.values, self.shape, x)
