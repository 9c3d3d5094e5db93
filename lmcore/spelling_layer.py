"""What a word is, by its letters: a convolution over them (Kim et al. 2016, "Character-aware neural
language models")."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from lmcore.forms import LETTERS, OTHERS
from lmcore.leaf import Leaf
from lmcore.settings import Settings
from lmcore.weight import Weight

EMBEDDED, FILTERS, BIAS = "letters", "letters.filters", "letters.bias"


class LetterSettings(Settings):
    """Every letter is `size` numbers; `filters` patterns of `width` letters are looked for."""

    size: Annotated[int, Field(ge=1)] = 16
    filters: Annotated[int, Field(ge=1)] = 50
    width: Annotated[int, Field(ge=1, le=LETTERS)] = 5

    def site_shapes(self, alphabet: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) for an alphabet of so many letters."""
        return {
            EMBEDDED: (alphabet + OTHERS, self.size),
            FILTERS: (self.filters, self.width * self.size),
        }

    @property
    def bias_shapes(self) -> dict[str, tuple[int]]:
        return {BIAS: (self.filters,)}


class Spelling(nn.Module):
    """Letters -> for each pattern, how well it fits where it fits best."""

    def __init__(self, settings: LetterSettings, letters: Weight, filters: Weight, bias: Leaf):
        super().__init__()
        self._width = settings.width
        self.letters, self.filters, self.bias = letters, filters, bias

    def forward(self, ids: Tensor) -> Tensor:
        """(..., LETTERS) -> (..., filters)."""
        rows = self.letters.rows(ids)  # (..., LETTERS, size)
        windows = rows.unfold(-2, self._width, 1).transpose(-1, -2).flatten(-2)
        fits = self.filters.matmul(windows) + self.bias.value()
        return torch.tanh(fits.amax(dim=-2))
