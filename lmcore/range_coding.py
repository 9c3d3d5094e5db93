"""What the forms of `lmcore.coding` pass through the range coder: values, under integer tables."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Protocol

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

TOTAL = 1 << 24  # of a table's frequencies: constriction's precision in Python
Categorical = constriction.stream.model.Categorical
Uniform = constriction.stream.model.Uniform


class Port(Protocol):
    """Passes values through the range coder, in one direction.

    A port that `writes` codes the values under the model and returns them. A port that reads
    returns what it reads; of the values that it is given only their number matters. So a form is
    written once for both directions: it goes on with the values that the port returned.
    """

    writes: bool

    def __call__(self, values: Ints, model: Any, *params: Any) -> Ints: ...


def integer_tables(counts: Longs, rest: int) -> NDArray[np.float32]:
    """Counts (..., n) as integers that sum to 2^24 - n; `rest` takes what rounding leaves."""
    free = TOTAL - counts.shape[-1]
    tables: Longs = counts * free // counts.sum(-1, keepdims=True)
    tables[..., rest] += free - tables.sum(-1)
    return tables.astype(np.float32)


def pieces(count: int, first: int, part: int) -> Iterator[tuple[int, int]]:
    """Pieces as long as 1/part of all before them, from which a model of them is learned."""
    edges = [0]
    while edges[-1] < count:
        edges.append(min(count, edges[-1] + max(first, edges[-1] // part)))
    return pairwise(edges)
