"""What a word is, by its letters: a convolution over them (Kim et al. 2016, "Character-aware neural
language models")."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lmcore import letters
from lmcore.leaf import Leaf
from lmcore.letters import LetterSettings
from lmcore.weight import Weight


class Spelling(nn.Module):
    """Letters -> for each pattern, how well it fits where it fits best."""

    def __init__(
        self, settings: LetterSettings, weights: Mapping[str, Weight], biases: Mapping[str, Leaf]
    ) -> None:
        """`weights` and `biases` are those of the network."""
        super().__init__()
        self._width = settings.width
        self.letters, self.filters = weights[letters.EMBEDDED], weights[letters.FILTERS]
        self.bias = biases[letters.BIAS]

    def forward(self, ids: Tensor) -> Tensor:
        """(..., LETTERS) -> (..., filters)."""
        rows = self.letters.rows(ids)  # (..., LETTERS, size)
        windows = rows.unfold(-2, self._width, 1).transpose(-1, -2).flatten(-2)
        fits = self.filters.matmul(windows) + self.bias.value()
        return torch.tanh(fits.amax(dim=-2))
