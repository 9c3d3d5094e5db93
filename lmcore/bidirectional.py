"""A recurrent layer that reads sentences from both ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmcore.cells import Drop
from lmcore.layer import Layer


class Bidirectional(nn.Module):
    """Two layers, one of which reads each sentence from its end."""

    def __init__(self, ahead: Layer, back: Layer) -> None:
        super().__init__()
        self.ahead, self.back = ahead, back

    def forward(self, x: Tensor, lengths: Tensor, drop: Drop) -> Tensor:
        """x (time, batch, in) of sentences with so many tokens (batch,), the rest padding ->
        (time, batch, 2 x width), the layer from the begin first."""
        batch = x.shape[1]
        ahead, _ = self.ahead(x, self.ahead.zero_state(batch), drop)
        back, _ = self.back(reversed_within(x, lengths), self.back.zero_state(batch), drop)
        return torch.cat([ahead, reversed_within(back, lengths)], dim=2)


def reversed_within(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sentence of x (time, batch, ...) from its end; the padding stays where it is."""
    time = torch.arange(len(x), device=x.device).unsqueeze(1)
    places = torch.where(time < lengths, lengths - 1 - time, time)  # (time, batch)
    return x.gather(0, places.view(*places.shape, *[1] * (x.dim() - 2)).expand_as(x))
