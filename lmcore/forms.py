"""The words of a text as what a network reads: their ids, and the letters that spell them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmcore.lazy import torch
from lmcore.letters import LETTERS, NO_LETTER, OTHERS, UNKNOWN_LETTER
from lmcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Forms:
    """Words as they are written, each once."""

    words: tuple[str, ...]
    ids: Tensor  # (forms,): of the vocabulary
    letters: Tensor  # (forms, LETTERS): of the alphabet, after the OTHERS

    @classmethod
    def of(cls, words: Iterable[str], vocabulary: Vocabulary, alphabet: str) -> Forms:
        """The different ones of these words, in their alphabetical order."""
        known = tuple(sorted(set(words)))
        places = {letter: index for index, letter in enumerate(alphabet, OTHERS)}
        letters = torch.full((len(known), LETTERS), NO_LETTER)
        for row, word in enumerate(known):
            found = [places.get(letter, UNKNOWN_LETTER) for letter in word[:LETTERS]]
            letters[row, : len(found)] = torch.tensor(found)
        return cls(known, vocabulary.ids_of(known), letters)

    def index(self, words: Sequence[str]) -> Tensor:
        """(words,): where each word is."""
        places = {word: place for place, word in enumerate(self.words)}
        return torch.tensor([places[word] for word in words])
