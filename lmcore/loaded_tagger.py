"""A tagger in use: what `lmcore.load_tagger` gives.

import lmcore

tagger = lmcore.load_tagger("model.lmb")
tagger.tag(["the", "dog", "barks"])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from lmcore.bundle import Bundle, load
from lmcore.errors import UserError
from lmcore.networks.tagger import Tagger
from lmcore.sentences import Sentences
from lmcore.tagged import NO_TAG, TaggedSentences

BATCH = 32  # sentences that are read at once


class LoadedTagger:
    """A tagger read from a bundle, ready to be asked. `tags` are all that it gives."""

    def __init__(self, bundle: Bundle) -> None:
        if not isinstance(bundle.model, Tagger):
            raise UserError(f"a network for {bundle.model.settings.task.name} is no tagger")
        self.bundle, self._model = bundle, bundle.model
        self.tags = bundle.model.settings.labels

    def __repr__(self) -> str:
        return f"<lmcore tagger: {len(self.tags)} tags, {self.bundle.size_bytes:,} bytes>"

    def tag(self, words: Iterable[str]) -> list[str]:
        """A tag for each word of a sentence. Raises UserError for a text in place of its words."""
        return self.tag_all([words])[0]

    @torch.no_grad()
    def tag_all(self, sentences: Iterable[Iterable[str]]) -> list[list[str]]:
        """The tags of each sentence, each read on its own."""
        wrong = UserError('a sentence is a list of its words: tagger.tag(["the", "dog"])')
        if isinstance(sentences, str):
            raise wrong
        read = [words if isinstance(words, str) else list(words) for words in sentences]
        for words in read:
            if isinstance(words, str) or not all(isinstance(word, str) for word in words):
                raise wrong
        found: list[list[str]] = [[] for _ in read]
        asked = [place for place, words in enumerate(read) if words]
        if not asked:
            return found
        examples = self._examples([read[place] for place in asked])
        for places in torch.split(examples.lengths.argsort(), BATCH):
            batch = examples.batch(places)
            tags = batch.tags.clone()  # (time, batch)
            tags[tags != NO_TAG] = self._model(batch).argmax(1)
            for place, own in zip(places.tolist(), tags.T, strict=True):
                found[asked[place]] = [self.tags[tag] for tag in own.tolist() if tag != NO_TAG]
        return found

    def _examples(self, sentences: Sequence[Sequence[str]]) -> TaggedSentences:
        alphabet = self._model.settings.alphabet
        read = Sentences.of(sentences, self.bundle.vocabulary, alphabet)
        return TaggedSentences(read, torch.zeros(len(read.words), dtype=torch.int64))


def load_tagger(path: str | Path) -> LoadedTagger:
    """The tagger of a bundle. Raises UserError where the file is missing, damaged or none."""
    return LoadedTagger(load(Path(path)))
