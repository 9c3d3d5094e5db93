"""A few rows of a large tensor, whose gradient is these rows and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape = matrix.shape
        return matrix.index_select(0, ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        return sparse_rows(ids, gradients[0], ctx.shape), None


rows_of = cast(Callable[[Tensor, Tensor], Tensor], _Rows.apply)


def sparse_rows(ids: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """The matrix of that shape with these rows (k, in) at the ascending ids (k,), else zero."""
    return torch.sparse_coo_tensor(
        ids.unsqueeze(0), rows, shape, check_invariants=False, is_coalesced=True
    )


def masked_rows(matrix: Tensor, mask: Tensor) -> Tensor:
    """A coalesced sparse matrix of rows, with zeros where the mask (shape as it) is False."""
    (ids,) = matrix.indices()
    return sparse_rows(ids, matrix.values() * mask.index_select(0, ids), matrix.shape)
