"""A reader in use: what `lmcore.load_reader` gives.

import lmcore

reader = lmcore.load_reader("model.lmb")
reader.answer("Who barked?", "In the evening Rex barked at the moon.")
"""

from __future__ import annotations

from pathlib import Path

import torch

from lmcore.bundle import Bundle, load
from lmcore.errors import UserError
from lmcore.networks.reader import Reader
from lmcore.questions import LONGEST_QUESTION, NO_PLACE, QuestionBatch
from lmcore.sentences import SentenceBatch, Sentences
from lmcore.tokens import tokens_of, words_of


class LoadedReader:
    """A reader of questions, read from a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        if not isinstance(bundle.model, Reader):
            raise UserError(f"a network for {bundle.model.settings.task.name} is no reader")
        self.bundle, self._model = bundle, bundle.model

    def __repr__(self) -> str:
        return f"<lmcore reader: {self.bundle.size_bytes:,} bytes>"

    @torch.no_grad()
    def answer(self, question: str, paragraph: str) -> str:
        """The part of the paragraph that is the likeliest answer. Raises UserError where one of the
        two has no word."""
        tokens, asked = tokens_of(paragraph), words_of(question)[:LONGEST_QUESTION]
        if not tokens or not asked:
            raise UserError("a question and a paragraph have words")
        none = torch.full((1, 1), NO_PLACE)
        batch = QuestionBatch(
            self._read([token.word for token in tokens]),
            self._read(asked),
            none,
            none,
            torch.tensor([0]),
        )
        first, last = self._model.answers(batch)[0][0].tolist()
        return paragraph[tokens[first].start : tokens[last].end]

    def _read(self, words: list[str]) -> SentenceBatch:
        alphabet = self._model.settings.alphabet
        return Sentences.of([words], self.bundle.vocabulary, alphabet).batch(torch.tensor([0]))


def load_reader(path: str | Path) -> LoadedReader:
    """The reader of a bundle. Raises UserError where the file is missing, damaged or none."""
    return LoadedReader(load(Path(path)))
