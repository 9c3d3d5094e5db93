"""Byte-level pairs: a vocabulary in which every text can be written, learned from a text.

Byte-pair encoding (Sennrich, Haddow, Birch 2016) over the bytes of UTF-8 (Radford et al. 2019). Ids
0 to 255 are bytes; each further id is two earlier ones merged. The byte of the newline is `<eos>`,
and is never merged. A text's ids spell it to the byte: case, blanks, `\\r` and all.

A text is first cut into stretches, within which bytes are merged: letters, digits, other signs, or
blanks; one blank before a stretch belongs to it. Cuts depend on ranges of characters alone, not on
a version of Unicode's tables, so the same text has the same ids everywhere. A stretch has a bounded
length, for scripts that put no blanks between words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from lmcore.errors import UserError
from lmcore.lazy import torch
from lmcore.vocabulary import EOS, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

BYTES = 256
NEWLINE = 10
MOST = 1 << 16  # tokens

_LETTERS = "A-Za-z\u00c0-\u1fff\u2c00-\u2dff"
_WIDE = "\u2e80-\u2fff\u3040-\ufeff\uff21-\U0010ffff"  # scripts that mostly know no blanks
_BLANKS = r" \t\r\f\v"
STRETCH = (
    f" ?[{_LETTERS}]{{1,32}}| ?[{_WIDE}]{{1,8}}| ?[0-9]{{1,3}}"
    f"| ?[^{_LETTERS}{_WIDE}0-9{_BLANKS}\\n]{{1,16}}"
    f"|[{_BLANKS}]{{1,16}}(?![^{_BLANKS}\\n])|[{_BLANKS}]"
)
LONGEST = 1 + 32 * 3  # bytes of a stretch, and so of a token
_STRETCH = re.compile(STRETCH)
_REMEMBERED = 1 << 18  # stretches whose ids are kept


def _letters() -> str:
    """The letter that stands for each byte where a token is shown, as GPT-2 shows them: itself
    where it is printed, else one from U+0100 on. So a blank is Ġ."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in printed else next(others)) for byte in range(BYTES))


LETTERS = _letters()


class SubwordVocabulary(Vocabulary):
    """The bytes and what `merges` make of them: pairs of ids, the first to be merged first."""

    kind = "subword"
    noun = "pieces"
    is_exact = True

    def __init__(self, merges: Iterable[tuple[int, int]]) -> None:
        self.merges = tuple(merges)
        self.spelled = [bytes([byte]) for byte in range(BYTES)]  # id -> its bytes
        for pair in self.merges:
            if not 0 <= min(pair) <= max(pair) < len(self.spelled) or NEWLINE in pair:
                raise ValueError(f"a pair of {pair[0]} and {pair[1]} is made of no earlier pieces")
            self.spelled.append(self.spelled[pair[0]] + self.spelled[pair[1]])
            if len(self.spelled[-1]) > LONGEST:
                raise ValueError(f"a piece has more than {LONGEST} bytes")
        shown = ["".join(LETTERS[byte] for byte in one) for one in self.spelled]
        shown[NEWLINE] = EOS
        super().__init__(shown)
        self._merged = {pair: BYTES + rank for rank, pair in enumerate(self.merges)}
        self._known = _Known(self._ids)

    @property
    def unknown(self) -> None:
        return None

    def is_same(self, other: Vocabulary) -> bool:
        return isinstance(other, SubwordVocabulary) and self.merges == other.merges

    @property
    def grammar(self) -> str:
        return f"{STRETCH} {self.merges}"

    def encode(self, text: str) -> Tensor:
        """The ids of a text, (tokens,) int64; `decode` gives it back to the byte. Raises UserError
        for half of a surrogate pair, which is no text."""
        return torch.from_numpy(np.fromiter(self._stream(text), dtype=np.int64))

    def _stream(self, text: str) -> Iterator[int]:
        for number, line in enumerate(text.split("\n")):
            if number:
                yield NEWLINE
            yield from chain.from_iterable(map(self._known.__getitem__, _STRETCH.findall(line)))

    def split(self, text: str) -> Iterator[str]:
        return (self.words[i] for i in self.encode(text).tolist())

    def split_line(self, line: str) -> Iterable[str]:
        return self.split(line)

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids spell; U+FFFD for bytes that are no UTF-8, as where a text begins or
        ends inside a character."""
        return self.bytes_of(ids).decode(errors="replace")

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids spell."""
        return b"".join(self.spelled[int(i)] for i in ids)

    def _ids(self, stretch: str) -> tuple[int, ...]:
        try:
            ids = list(stretch.encode())
        except UnicodeEncodeError:
            raise UserError(
                f"the text holds {stretch!a}, half of a surrogate pair, which is no character"
            ) from None
        never = BYTES + len(self.merges)
        while len(ids) > 1:
            merged = [self._merged.get(pair, never) for pair in pairwise(ids)]
            first = min(merged)
            if first == never:
                break
            ids = _merge(ids, self.merges[first - BYTES], first)
        return tuple(ids)


class _Known(dict[str, tuple[int, ...]]):
    """The ids of the stretches that were asked for, as far as there is room."""

    def __init__(self, ids_of: Callable[[str], tuple[int, ...]]) -> None:
        self._ids_of = ids_of

    def __missing__(self, stretch: str) -> tuple[int, ...]:
        if len(self) >= _REMEMBERED:
            self.clear()
        found = self[stretch] = self._ids_of(stretch)
        return found


def _merge(ids: list[int], pair: tuple[int, int], merged: int) -> list[int]:
    """The ids with every such pair merged, from the left."""
    found, i = [], 0
    while i < len(ids):
        here = i + 1 < len(ids) and ids[i] == pair[0] and ids[i + 1] == pair[1]
        found.append(merged if here else ids[i])
        i += 1 + here
    return found


def learn(lines: Iterable[str], size: int) -> SubwordVocabulary:
    """The vocabulary of `size` pieces for the lines of a text, the same for the same lines.

    Fewer pieces where the text has not so many pairs that occur twice.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(STRETCH), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    ids = {letter: byte for byte, letter in enumerate(LETTERS)}
    merges = []
    for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
        if left + right not in ids:  # another pair may spell what an earlier one does
            ids[left + right] = len(ids)
            merges.append((ids[left], ids[right]))
    return SubwordVocabulary(merges)
