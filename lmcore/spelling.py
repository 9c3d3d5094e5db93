"""Bits per byte: what a model of any vocabulary needs for a text, in a unit that is the text's.

A perplexity is a mean over tokens, so it depends on how many tokens a vocabulary makes of a text.
The bits that all tokens of the text take together, over the bytes of its UTF-8, do not:

    bits per byte = (tokens x log2(perplexity) + hidden x log2(0x110000)) / bytes

The bytes are those of the whole text, newlines counted. `hidden` counts the characters that stand
behind `<unk>`: a reader who sees `<unk>` knows nothing of them, so each is charged as one of the
0x110000 that Unicode has room for. What is compared so is the length of a code that gives the text
back. A vocabulary of words has no bits per byte: white space and what `<unk>` hides are not coded.
(The text has other segmentations into tokens, which add to its probability; they are not summed.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

HIDDEN_BITS = math.log2(0x110000)


@dataclass(frozen=True)
class Spelling:
    """The text that a stream of tokens spells."""

    tokens: int
    size_bytes: int  # of UTF-8, newlines counted
    hidden: int = 0  # characters that stand behind <unk>

    def bits_per_byte(self, perplexity: float) -> float:
        """That of a model with this perplexity a token on the text; inf where that is no number
        above zero."""
        if not 0 < perplexity < math.inf:
            return math.inf
        bits = self.tokens * math.log2(perplexity) + self.hidden * HIDDEN_BITS
        return bits / self.size_bytes

    def plain(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def of(cls, plain: Any) -> Self | None:
        """The spelling in plain data, None where there is none."""
        if not isinstance(plain, Mapping) or plain.keys() - {"tokens", "size_bytes", "hidden"}:
            return None
        known = all(type(one) is int and one >= 0 for one in plain.values())
        return cls(**plain) if known and plain.get("size_bytes") and "tokens" in plain else None
