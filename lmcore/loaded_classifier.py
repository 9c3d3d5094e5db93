"""A network that labels texts in use: what `lmcore.load_classifier` gives.

import lmcore

classifier = lmcore.load_classifier("model.lmb")
classifier.label("a lovely film")

One of pairs takes two texts: classifier.label("a man sleeps", "nobody is awake").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from lmcore.bundle import Bundle, load
from lmcore.classified import ClassifiedTexts
from lmcore.errors import UserError
from lmcore.networks.classifier import Classifier
from lmcore.networks.matcher import Matcher
from lmcore.sentences import Sentences
from lmcore.tokens import words_of

BATCH = 32  # texts that are read at once


class LoadedClassifier:
    """A network of texts, or of pairs of them, read from a bundle. `labels` are all that it gives,
    `texts` is how many it takes at once: 1 or 2."""

    def __init__(self, bundle: Bundle) -> None:
        if not isinstance(bundle.model, Classifier | Matcher):
            raise UserError(f"a network for {bundle.model.settings.task.name} is no classifier")
        self.bundle, self._model = bundle, bundle.model
        self.labels = bundle.model.settings.labels
        self.texts = 1 if isinstance(bundle.model, Classifier) else 2

    def __repr__(self) -> str:
        return f"<lmcore classifier: {len(self.labels)} labels, {self.bundle.size_bytes:,} bytes>"

    def label(self, *texts: str) -> str:
        """The label of a text, or of a pair. Raises UserError for one without words."""
        return self.label_all([texts])[0]

    def label_all(self, examples: Iterable[str | Sequence[str]]) -> list[str]:
        """The label of each text, or of each pair. Raises UserError for one text in place of
        several."""
        if isinstance(examples, str):
            raise UserError('it takes several texts: label_all(["a film", "a book"])')
        return [self.labels[place] for place in self._scores(examples).argmax(1).tolist()]

    def probabilities(self, *texts: str) -> dict[str, float]:
        """The probability of every label, the likeliest first."""
        found = dict(zip(self.labels, self._scores([texts])[0].softmax(0).tolist(), strict=True))
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    @torch.no_grad()
    def _scores(self, examples: Iterable[str | Sequence[str]]) -> torch.Tensor:
        """(examples, labels): logits."""
        read = [self._read(one) for one in examples]
        if not read:
            return torch.empty(0, len(self.labels))
        alphabet, vocabulary = self._model.settings.alphabet, self.bundle.vocabulary
        texts = tuple(
            Sentences.of([one[at] for one in read], vocabulary, alphabet)
            for at in range(self.texts)
        )
        asked = ClassifiedTexts(texts, torch.zeros(len(read), dtype=torch.int64))
        found = torch.empty(len(read), len(self.labels))
        for places in torch.split(asked.lengths.argsort(), BATCH):
            found[places] = self._model(asked.batch(places))
        return found

    def _read(self, example: str | Sequence[str]) -> list[list[str]]:
        texts = [example] if isinstance(example, str) else list(example)
        if len(texts) != self.texts or not all(isinstance(text, str) for text in texts):
            form = "a text" if self.texts == 1 else "two texts"
            raise UserError(f"it takes {form}, as strings; got {example!r:.60}")
        words = [words_of(text) for text in texts]
        if not all(words):
            raise UserError(f"a text without a word has no label; got {example!r:.60}")
        return words


def load_classifier(path: str | Path) -> LoadedClassifier:
    """The classifier of a bundle, of texts or of pairs. Raises UserError where the file is missing,
    damaged or none."""
    return LoadedClassifier(load(Path(path)))
