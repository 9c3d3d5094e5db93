"""The words of a text as what a network reads: their ids, and the letters that spell them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcore.vocabulary import Vocabulary

LETTERS = 16  # of a word; later ones are not read
NO_LETTER, UNKNOWN_LETTER = 0, 1
OTHERS = 2  # rows of a matrix of letters that are none of the alphabet's


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


def alphabet_of(words: Iterable[str]) -> str:
    """The letters of the words, each once, sorted."""
    return "".join(sorted(set().union(*map(set, words))))
