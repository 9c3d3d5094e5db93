"""Sparsity by magnitude (Han et al. 2015; Grachev 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def magnitude_mask(data: Tensor, sparsity: float) -> Tensor:
    """Which entries are kept, shape as `data`: all but the round(sparsity x entries) smallest.

    Of equal magnitudes the earlier ones go first.
    """
    zeros = round(sparsity * data.numel())
    order = data.abs().flatten().argsort(stable=True)
    mask = torch.ones(data.numel(), dtype=torch.bool, device=data.device)
    mask[order[:zeros]] = False
    return mask.view(data.shape)
