"""Dropout for recurrent networks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import dropout


class Dropout(nn.Module):
    """Dropout on the embedding output and on each layer's output.

    `kind` element draws a mask per value (Zaremba et al. 2014); sequence draws one mask per
    window and stream, the same at every time step (Gal & Ghahramani 2016). `rows` drops whole
    embedding rows for a window. `recurrent` drops single weights of U for a window (DropConnect,
    Merity et al. 2018): the recurrence is regularised and the fused kernel stays.
    """

    def __init__(self, kind: str, rate: float, rows: float, recurrent: float = 0.0) -> None:
        super().__init__()
        self.kind, self.rate = kind, rate
        self.row_rate, self.recurrent_rate = rows, recurrent

    def forward(self, x: Tensor) -> Tensor:
        """(time, batch, features), same shape out."""
        if not self.training or self.rate == 0:
            return x
        time, batch, features = x.shape
        mask = x.new_empty(1 if self.kind == "sequence" else time, batch, features)
        return x * mask.bernoulli_(1 - self.rate).div_(1 - self.rate)

    def rows(self, x: Tensor, ids: Tensor, words: int) -> Tensor:
        """Embedding output (time, batch, features) with the rows of dropped words zero."""
        if not self.training or self.row_rate == 0:
            return x
        keep = x.new_empty(words).bernoulli_(1 - self.row_rate).div_(1 - self.row_rate)
        return x * keep[ids].unsqueeze(2)

    def weights(self, matrix: Tensor) -> Tensor:
        """A recurrent matrix (gates x H, H) with dropped weights zero."""
        return dropout(matrix, self.recurrent_rate, self.training)
