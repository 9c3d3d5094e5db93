"""Texts with a label each, and pairs of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from lmcore.data import SPLITS, CorpusSettings
from lmcore.errors import UserError
from lmcore.labelled import known_file, labelled_files, labels_of, read_lines, words_in
from lmcore.lazy import torch
from lmcore.letters import alphabet_of
from lmcore.score import error_of
from lmcore.sentences import SentenceBatch, SentenceData, Sentences
from lmcore.settings import PathText, later
from lmcore.task import ENTAILMENT, SENTIMENT
from lmcore.text import by_frequency
from lmcore.tokens import words_of
from lmcore.treebank import phrases_of
from lmcore.vocabulary import EOS, UNK, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


UNKNOWN_LABEL = -1  # one that the training split has not
SST5 = {"train": "sst/sst5-train.txt", "valid": "sst/sst5-dev.txt", "test": "sst/sst5-test.txt"}
TREES = "sst/trees-fiveclass-train.txt"
SNLI = {"train": "snli/train-subset.tsv", "valid": "snli/dev.tsv", "test": "snli/test.tsv"}


class Labelled(NamedTuple):
    """The words of one text or two, and their label."""

    label: str
    texts: tuple[list[str], ...]


class LabelledText(CorpusSettings):
    """A line is a label, a tab and a text: three files, or `train` alone, which is split 80/10/10;
    none given, the five grades of the Stanford Sentiment Treebank.

    The vocabulary is the `max_words` most frequent of the words that train has more than once,
    with all words of another model, the bundle `vocabulary`, if it is given. With `phrases` every
    graded phrase of the treebank's training sentences is learned, not these alone.
    """

    files = SPLITS  # a vocabulary may be the name of a study
    task = SENTIMENT
    nameable = ("vocabulary",)
    texts: ClassVar[int] = 1
    kind: Literal["labelled", "pairs"] = "labelled"
    train: PathText | None = None
    valid: PathText | None = None
    test: PathText | None = None
    max_words: Annotated[int, Field(ge=3)] | None = None
    vocabulary: PathText | None = later(None)
    phrases: bool = False

    def load(self, cache: Path) -> ClassifiedData:
        phrases = self._phrases() if self.phrases else None
        treebank = not self.places and self.texts == 1
        between = " " if treebank else "\t"
        read = partial(read_labelled, texts=self.texts, between=between)
        known = SST5 if self.texts == 1 else SNLI
        splits, files, name = labelled_files(self, read, known)
        words = words_in(self.vocabulary) if self.vocabulary else ()
        return classified_data(name, splits, files, self.max_words, words, phrases)

    def _phrases(self) -> list[Labelled]:
        if self.places:
            raise UserError(
                "corpus.phrases: only the Stanford Sentiment Treebank has them; a file of your own "
                "may have phrases among its lines"
            )
        return read_phrases(known_file(TREES))


class LabelledPairs(LabelledText):
    """A line is a label, a tab, a text, a tab and another text; none given, the part of SNLI that
    is at hand."""

    task = ENTAILMENT
    texts = 2
    kind: Literal["pairs"] = "pairs"
    phrases: Literal[False] = False


@dataclass(frozen=True)
class ClassifiedBatch:
    """Texts, or pairs of them, and their labels."""

    texts: tuple[SentenceBatch, ...]
    labels: Tensor  # (batch,)


@dataclass(frozen=True)
class ClassifiedTexts:
    """The texts of a split: of pairs the first ones, then the second ones."""

    texts: tuple[Sentences, ...]
    labels: Tensor  # (examples,)

    @property
    def lengths(self) -> Tensor:
        """(examples,): how many tokens each has."""
        return torch.stack([one.lengths for one in self.texts]).sum(0)

    def counts(self, words: int) -> Tensor:
        """(words,): how often each word of a vocabulary is in the texts."""
        return torch.stack([one.counts(words) for one in self.texts]).sum(0)

    @property
    def content(self) -> list[bytes]:
        """What tells these texts from others."""
        texts = chain.from_iterable(text.content for text in self.texts)
        return [*texts, self.labels.numpy().tobytes()]

    def batch(self, places: Tensor) -> ClassifiedBatch:
        """The examples at these places (batch,)."""
        texts = tuple(one.batch(places) for one in self.texts)
        return ClassifiedBatch(texts, self.labels[places])


@dataclass(frozen=True)
class ClassifiedData(SentenceData):
    """Three splits of labelled texts."""

    train: ClassifiedTexts
    valid: ClassifiedTexts
    test: ClassifiedTexts

    def tokens(self, split: str) -> int:
        return int(self.split(split).lengths.sum())

    @cached_property
    def naive(self) -> float:
        usual = torch.bincount(self.train.labels).argmax()
        return error_of((self.valid.labels != usual).sum(), len(self.valid.labels))

    def describe(self) -> str:
        sizes = " / ".join(f"{len(self.split(split).labels):,}" for split in SPLITS)
        noun = "texts" if len(self.train.texts) == 1 else "pairs"
        return (
            f"{self.name}: {sizes} {noun} (train / valid / test), "
            f"{len(self.vocabulary):,} words, {len(self.labels)} labels"
        )


def read_labelled(path: Path, name: str, texts: int, between: str) -> list[Labelled]:
    """The examples of a file. Raises UserError that names the file as the person knows it, `name`,
    and the line."""
    found = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        label, *parts = line.split(between, 1 if texts == 1 else -1)
        words = tuple(words_of(part) for part in parts)
        if len(words) != texts or not label.strip() or not all(words):
            form = "a label, a tab and a text" + (", a tab and another text" if texts > 1 else "")
            raise UserError(f"{name}, line {number:,} is {line[:60]!r}; a line is {form}")
        found.append(Labelled(label.strip(), words))
    if not found:
        raise UserError(f"{name} has no line; give a label, a tab and a text a line")
    return found


def read_phrases(path: Path) -> list[Labelled]:
    """The phrases of a file of the treebank, each once. A phrase of the best grade has 5 there in
    places, where the grades are 0 to 4."""
    every = [
        phrase
        for number, line in enumerate(read_lines(path), 1)
        if line.strip()
        for phrase in phrases_of(line, f"{path}, line {number:,}")
    ]
    unique = dict.fromkeys((one.label.replace("5", "4"), *words_of(one.text)) for one in every)
    return [Labelled(label, (words,)) for label, *words in unique]


def classified_data(
    name: str,
    splits: dict[str, list[Labelled]],
    files: dict[str, str],
    most: int | None = None,
    more: Sequence[str] = (),
    learned: list[Labelled] | None = None,
) -> ClassifiedData:
    """The data of the examples of each split; `files` has their names for people.

    The vocabulary is the words that train has more than once, the `most` frequent, and the words
    `more`. `learned` is what is learned in place of train's examples. A label that train has not
    stays unknown, so that every answer is wrong; a remark says so. Raises UserError where
    train has one label alone.
    """
    every = chain.from_iterable(chain.from_iterable(one.texts) for one in splits["train"])
    counts = Counter(every)
    often = [word for word in by_frequency(counts) if counts[word] > 1 and word not in (EOS, UNK)]
    kept = often if most is None else often[: most - 2]
    vocabulary = Vocabulary(sorted({EOS, UNK, *kept, *more}))
    learned = splits["train"] if learned is None else learned
    labels = labels_of((one.label for one in learned), files["train"])
    if len(labels) < 2:
        raise UserError(f"{files['train']} has the label {labels[0]!r} alone; give at least two")
    odd = {split: {one.label for one in splits[split]} - {*labels} for split in SPLITS}
    remarks = tuple(
        f"{files[split]} has labels that {files['train']} has not, as {min(unknown)[:40]!r}: any "
        f"answer there is wrong"
        for split, unknown in odd.items()
        if unknown
    )
    alphabet = alphabet_of(counts)
    places = {label: place for place, label in enumerate(labels)}

    def encoded(examples: list[Labelled]) -> ClassifiedTexts:
        count = len(examples[0].texts)
        texts = tuple(
            Sentences.of([one.texts[at] for one in examples], vocabulary, alphabet)
            for at in range(count)
        )
        known = [places.get(one.label, UNKNOWN_LABEL) for one in examples]
        return ClassifiedTexts(texts, torch.tensor(known))

    train, valid, test = map(encoded, (learned, splits["valid"], splits["test"]))
    return ClassifiedData(
        name, vocabulary, train, valid, test, remarks, labels=labels, alphabet=alphabet
    )
