"""The letters of words: which there are, and how a network reads them, as settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from lmcore.capacity import HEADER_BYTES
from lmcore.errors import UserError
from lmcore.settings import Settings

LETTERS = 16  # of a word; later ones are not read
NO_LETTER, UNKNOWN_LETTER = 0, 1
OTHERS = 2  # rows of a matrix of letters that are none of the alphabet's
EMBEDDED, FILTERS, BIAS = "letters", "letters.filters", "letters.bias"


NUMBERS, PATTERNS = 256, 4_096  # at most


class LetterSettings(Settings):
    """Every letter is `size` numbers; `filters` patterns of `width` letters are looked for."""

    size: Annotated[int, Field(ge=1, le=NUMBERS)] = 16
    filters: Annotated[int, Field(ge=1, le=PATTERNS)] = 50
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


def alphabet_of(words: Iterable[str]) -> str:
    """The letters of the words, each once, sorted. Raises UserError where a bundle's header has no
    room for so many."""
    alphabet = "".join(sorted(set().union(*map(set, words))))
    if len(json.dumps(alphabet)) > HEADER_BYTES // 2:
        raise UserError(
            f"the words of the training text have {len(alphabet):,} letters, more than a bundle "
            f"holds; is it a text?"
        )
    return alphabet
