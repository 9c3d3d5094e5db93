"""A recurrent layer that reads sentences from both ends."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lmcore import sites
from lmcore.cells import Cell, Drop
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.weight import Weight


class Bidirectional(nn.Module):
    """Two layers, one of which reads each sentence from its end."""

    def __init__(self, ahead: Layer, back: Layer) -> None:
        super().__init__()
        self.ahead, self.back = ahead, back

    @classmethod
    def of(
        cls,
        cell: Cell,
        prefixes: tuple[str, str],
        weights: Mapping[str, Weight],
        biases: Mapping[str, Leaf],
    ) -> Bidirectional:
        """Of the sites and vectors of a network whose names begin so, by direction."""
        ahead, back = (
            Layer(cell, sites.below(prefix, weights), sites.below(prefix, biases))
            for prefix in prefixes
        )
        return cls(ahead, back)

    def named(self, prefixes: tuple[str, str]) -> dict[str, Layer]:
        """Its layers by what their sites' names begin with."""
        return dict(zip(prefixes, (self.ahead, self.back), strict=True))

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
