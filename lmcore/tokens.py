"""Text that people write -> tokens, each with where it stands."""

from __future__ import annotations

import re
from typing import NamedTuple

# "don't" is do n't and "it's" is it 's, as in most corpora; every other sign stands alone
_TOKEN = re.compile(r"\w+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|\w+|[^\w\s]")
_APOSTROPHES = str.maketrans("’‘", "''")


class Token(NamedTuple):
    """A token in lower case; the text has it at [start, end)."""

    word: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text."""
    return [Token(one[0], one.start(), one.end()) for one in _TOKEN.finditer(_lowered(text))]


def words_of(text: str) -> list[str]:
    """The words of its tokens."""
    return _TOKEN.findall(_lowered(text))


def _lowered(text: str) -> str:
    """In lower case, each letter where it was."""
    text = text.translate(_APOSTROPHES)
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(one if len(one.lower()) > 1 else one.lower() for one in text)  # İ becomes two
