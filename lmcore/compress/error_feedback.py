"""Error-feedback rounding (GPTQ; Frantar et al. 2023, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lmcore.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 0.01  # of the mean diagonal of the second moments, as in the paper
BLOCK = 32  # columns whose errors reach the later ones in one product


def error_feedback(
    matrix: Tensor, inputs: Tensor, rounded: Callable[[Tensor, slice], Tensor]
) -> Tensor:
    """The matrix (rows, columns) whose plain rounding is the rounding with error feedback.

    Columns are rounded in order. Each column's rounding error is handed on to the columns after
    it, as far as their inputs are correlated with its own, and they are changed to make up for
    the error before they are rounded. Column j of the result is column j just before its turn.
    `inputs` (columns, columns) are the second moments of what the matrix is multiplied with.
    `rounded` gives what values (rows, n) of the given columns are stored as.
    """
    columns = matrix.shape[1]
    moments = inputs.double()
    damping = DAMPING * moments.diagonal().mean().clamp(min=1e-12)
    moments = moments + damping * torch.eye(columns, dtype=moments.dtype, device=moments.device)
    inverse = torch.linalg.cholesky(torch.linalg.inv(moments), upper=True).to(matrix.dtype)
    matrix = matrix.clone()
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        errors = torch.empty_like(matrix[:, first:last])
        for column in range(first, last):
            one = slice(column, column + 1)
            error = (matrix[:, one] - rounded(matrix[:, one], one)) / inverse[column, column]
            matrix[:, column + 1 : last] -= error * inverse[one, column + 1 : last]
            errors[:, column - first] = error[:, 0]
        matrix[:, last:] -= errors @ inverse[first:last, last:]
    return matrix
