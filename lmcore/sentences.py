"""Sentences of words, as networks read them side by side, and data that are made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from lmcore.data import SPLITS, Data
from lmcore.errors import UserError
from lmcore.forms import Forms
from lmcore.lazy import torch
from lmcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.training_settings import TrainingSettings


@dataclass(frozen=True)
class SentenceBatch:
    """Sentences side by side, the shorter ones filled up with their first token."""

    words: Tensor  # (time, batch): ids
    letters: Tensor  # (time, batch, LETTERS)
    lengths: Tensor  # (batch,)
    eos: int  # the id of the end of a sentence

    @property
    def padding(self) -> Tensor:
        """(time, batch): whether a place is behind its sentence."""
        time = torch.arange(len(self.words), device=self.words.device).unsqueeze(1)
        return time >= self.lengths


@dataclass(frozen=True)
class Sentences:
    """Sentences, one after another."""

    forms: Forms
    words: Tensor  # (tokens,): places in `forms`
    lengths: Tensor  # (sentences,)
    starts: Tensor  # (sentences,): the first token of each
    eos: int

    @classmethod
    def of(
        cls, sentences: Sequence[Sequence[str]], vocabulary: Vocabulary, alphabet: str
    ) -> Sentences:
        """The sentences of these words; none may be empty."""
        words = [*chain.from_iterable(sentences)]
        forms = Forms.of(words, vocabulary, alphabet)
        lengths = torch.tensor([len(one) for one in sentences])
        starts = lengths.cumsum(0) - lengths
        return cls(forms, forms.index(words), lengths, starts, vocabulary.eos)

    def at(self, places: Tensor) -> Tensor:
        """(time, batch): the tokens of the sentences at these places (batch,); behind the end of a
        sentence its first one."""
        starts, lengths = self.starts[places], self.lengths[places]
        time = torch.arange(int(lengths.max())).unsqueeze(1)
        return torch.where(time >= lengths, starts, starts + time)

    def batch(self, places: Tensor) -> SentenceBatch:
        """The sentences at these places (batch,)."""
        words, forms = self.words[self.at(places)], self.forms
        return SentenceBatch(forms.ids[words], forms.letters[words], self.lengths[places], self.eos)

    def counts(self, words: int) -> Tensor:
        """(words,): how often each word of a vocabulary is among the tokens."""
        return torch.bincount(self.forms.ids[self.words], minlength=words)

    @property
    def content(self) -> list[bytes]:
        """What tells these sentences from others."""
        text = "\n".join(self.forms.words).encode()
        return [text, self.words.numpy().tobytes(), self.lengths.numpy().tobytes()]


@dataclass(frozen=True)
class SentenceData(Data):
    """Three splits of sentences. The `alphabet` is the letters of the training split's words, the
    `labels` are those that its sentences have, if they have any.

    A split tells its `content`, as bytes.
    """

    alphabet: str = field(kw_only=True)
    labels: tuple[str, ...] = field(kw_only=True, default=())

    @cached_property
    def key(self) -> str:
        told = [*self.vocabulary.words, "", *self.labels, "", self.alphabet]
        digest = hashlib.sha256("\n".join(told).encode())
        for split in SPLITS:
            for part in self.split(split).content:
                digest.update(part)
        return digest.hexdigest()[:16]

    def check(self, training: TrainingSettings, where: str) -> None:
        if training.sampled:
            raise UserError(
                f"{where}.sampled: a network of this task gives no probabilities of words that "
                f"could be sampled; leave it out"
            )
