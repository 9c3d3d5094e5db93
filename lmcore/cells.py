"""Recurrent layers over Weights: one fused kernel, whatever form the weights have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lmcore.weight import Leaf, Weight

State = tuple[Tensor, Tensor]  # h, c: each (batch, hidden)


class LSTMLayer(nn.Module):
    """One LSTM layer: W (4H, in), U (4H, H), bias (4H,), gates i, f, g, o stacked.

    i, f, o = sigma(W x + U h + b), g = tanh(W x + U h + b); c' = f c + i g; h' = o tanh(c').
    """

    def __init__(self, input: Weight, recurrent: Weight, bias: Leaf) -> None:
        super().__init__()
        self.input = input
        self.recurrent = recurrent
        self.bias = bias

    @property
    def hidden(self) -> int:
        return self.recurrent.shape[1]

    def zero_state(self, batch: int) -> State:
        """h and c, each (batch, hidden), zero."""
        zeros = self.bias.data.new_zeros(batch, self.hidden)
        return zeros, zeros

    def forward(
        self, x: Tensor, state: State, drop: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, State]:
        """(time, batch, in) -> (time, batch, hidden), and the state after the last step.

        `drop` is what is done to U (4H, H) before it is used.
        """
        bias = self.bias.value()
        recurrent = drop(self.recurrent.dense())
        weights = [self.input.dense(), recurrent, bias, torch.zeros_like(bias)]
        h, c = state
        output, h, c = torch.lstm(
            x,
            (h.unsqueeze(0), c.unsqueeze(0)),
            weights,
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=self.training,
            bidirectional=False,
            batch_first=False,
        )
        return output, (h.squeeze(0), c.squeeze(0))
