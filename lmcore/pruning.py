"""Sparsity: the stage between structure and bits. Some values of a site's leaves become zero.

A site says how many of its values are to be zero and in what pattern; the recipe's pruning says
which ones, and when.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, SerializeAsAny

from lmcore.codec import matrix_shape
from lmcore.progress import Regularizer
from lmcore.settings import Family

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.leaf import Leaf

Block = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Pattern = Literal["weights", "rows"] | Block  # what becomes zero together
DEFAULT = "magnitude"  # the kind of a pruning that names none: it was the only one

# by "site/leaf": a leaf, or the values of one, the share of zeros and the pattern it is to have
Targets: TypeAlias = "Mapping[str, tuple[Leaf, float, Pattern]]"
Wanted: TypeAlias = "Mapping[str, tuple[Tensor, float, Pattern]]"


class Pruning(Family, ABC):
    """Which values become zero, and when."""

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Settings beside `kind` that the contract is tested with."""
        raise NotImplementedError(f"{cls.__name__} has no examples for the tests of the contract")

    @classmethod
    def sentence(cls, plain: Mapping[str, Any], sparsity: float) -> str:
        """What such a pruning does to a site of that sparsity, for reports."""
        return f"{sparsity:.0%} zeros by {plain.get('kind', DEFAULT)}"

    @property
    def is_shared(self) -> bool:
        """Whether all leaves get their zeros together: how many one gets depends on its values."""
        return False

    @property
    def is_at_once(self) -> bool:
        """Whether all zeros are there before any fine-tuning; if not, `regularizer` brings them."""
        return True

    def canonical(self, finetuned: bool) -> Pruning:
        """What this pruning amounts to in a recipe that has zeros."""
        return self

    @abstractmethod
    def masks(self, wanted: Wanted) -> dict[str, Tensor]:
        """Leaf -> mask of the values that are kept, bool, shape as the leaf's."""

    def regularizer(self, targets: Targets) -> Regularizer | None:
        """What brings the zeros while the leaves are fine-tuned, where they do not come at once."""
        return None


def _pick(data: Any) -> Family:
    named = {"kind": DEFAULT, **data} if isinstance(data, Mapping) else data
    return Pruning.pick(named)


AnyPruning = Annotated[SerializeAsAny[Pruning], BeforeValidator(_pick)]


def kept_values(shape: tuple[int, ...], sparsity: float, pattern: Pattern) -> int:
    """How many values of a leaf a mask of this sparsity keeps; at most, where blocks overhang."""
    rows, columns = matrix_shape(shape)
    sides = zip(block_shape(shape, pattern), (rows, columns), strict=True)
    height, width = (min(block, side) for block, side in sides)
    blocks = math.ceil(rows / height) * math.ceil(columns / width)
    kept = blocks - round(sparsity * blocks)
    return min(rows * columns, kept * height * width)


def is_exact(shape: tuple[int, ...], pattern: Pattern) -> bool:
    """Whether no block overhangs, so that each stands for as many values."""
    sides = zip(matrix_shape(shape), block_shape(shape, pattern), strict=True)
    return all(side % block == 0 for side, block in sides)


def block_shape(shape: tuple[int, ...], pattern: Pattern) -> tuple[int, int]:
    """(rows, columns) of what becomes zero together in a leaf of that shape."""
    match pattern:
        case "weights":
            return 1, 1
        case "rows":
            return 1, matrix_shape(shape)[1]
        case _:
            return pattern
