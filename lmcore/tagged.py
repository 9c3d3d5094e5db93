"""Sentences with a tag on every word."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lmcore.data import SPLITS, CorpusSettings
from lmcore.errors import UserError
from lmcore.labelled import labelled_files, labels_of, read_lines
from lmcore.lazy import torch
from lmcore.letters import alphabet_of
from lmcore.score import error_of
from lmcore.sentences import SentenceBatch, SentenceData, Sentences
from lmcore.settings import PathText
from lmcore.task import TAGGING
from lmcore.text import by_frequency
from lmcore.vocabulary import EOS, UNK, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


Tagged = list[tuple[str, str]]  # the words of a sentence, each with its tag
UD_ENGLISH = {  # the English Web Treebank of Universal Dependencies
    "train": "ud_ewt/train.tsv",
    "valid": "ud_ewt/dev.tsv",
    "test": "ud_ewt/test.tsv",
}
LONGEST = 50  # words of a sentence, at most, where it is the only one of a file
NO_TAG, UNKNOWN_TAG = -1, -2  # of padding, and one that the training split has not


class TaggedText(CorpusSettings):
    """Sentences with tags, as `read_tagged` reads them: three files, or `train` alone, which is
    split 80/10/10; none given, the English Web Treebank of Universal Dependencies.

    `column` says which of the tags is learned. The vocabulary is the `max_words` most frequent of
    the words that train has more than once.
    """

    files = ("train", "valid", "test")
    task = TAGGING
    kind: Literal["tagged"] = "tagged"
    train: PathText | None = None
    valid: PathText | None = None
    test: PathText | None = None
    column: Annotated[int, Field(ge=1)] = 1
    max_words: Annotated[int, Field(ge=3)] | None = None

    def load(self, cache: Path) -> TaggedData:
        read = partial(read_tagged, column=self.column)
        splits, files, name = labelled_files(self, read, UD_ENGLISH)
        return tagged_data(name, splits, files, self.max_words)


@dataclass(frozen=True)
class TaggedBatch:
    """Sentences side by side, and their tags."""

    sentences: SentenceBatch
    tags: Tensor  # (time, batch); NO_TAG for padding


@dataclass(frozen=True)
class TaggedSentences:
    """The sentences of a split."""

    sentences: Sentences
    tags: Tensor  # (tokens,)

    @property
    def lengths(self) -> Tensor:
        """(sentences,): how many tokens each has."""
        return self.sentences.lengths

    @property
    def content(self) -> list[bytes]:
        """What tells these sentences from others."""
        return [*self.sentences.content, self.tags.numpy().tobytes()]

    def batch(self, places: Tensor) -> TaggedBatch:
        """The sentences at these places (batch,)."""
        batch = self.sentences.batch(places)
        tags = self.tags[self.sentences.at(places)]
        return TaggedBatch(batch, tags.masked_fill(batch.padding, NO_TAG))


@dataclass(frozen=True)
class TaggedData(SentenceData):
    """Three splits of tagged sentences; their labels are tags."""

    train: TaggedSentences
    valid: TaggedSentences
    test: TaggedSentences

    def tokens(self, split: str) -> int:
        return len(self.split(split).tags)

    @cached_property
    def naive(self) -> float:
        usual = torch.bincount(self.train.tags).argmax()
        return error_of((self.valid.tags != usual).sum(), len(self.valid.tags))

    def describe(self) -> str:
        sizes = " / ".join(f"{len(self.split(split).lengths):,}" for split in SPLITS)
        return (
            f"{self.name}: {sizes} sentences (train / valid / test), "
            f"{len(self.vocabulary):,} words, {len(self.labels)} tags"
        )


def read_tagged(path: Path, name: str, column: int) -> list[Tagged]:
    """The sentences of a file: one word a line, its tags after it, tabs between them, and an empty
    line after each sentence. `column` says which tag, the first being 1.

    Raises UserError that names the file as the person knows it, `name`, and the line.
    """
    sentences: list[Tagged] = [[]]
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            sentences.append([])
            continue
        word, *tags = line.split("\t")
        if 0 < len(tags) < column:
            raise UserError(
                f"{name}, line {number:,} has {len(tags)} column(s) of tags, and "
                f"corpus.column={column} asks for another"
            )
        if len(tags) < column or not word.strip() or not tags[column - 1].strip():
            raise UserError(
                f"{name}, line {number:,} is {line[:60]!r}; a line is a word, a tab and its tag, "
                f"or empty after a sentence"
            )
        sentences[-1].append((word, tags[column - 1].strip()))
    found = [sentence for sentence in sentences if sentence]
    if len(found) == 1 and len(found[0]) > LONGEST:
        raise UserError(
            f"{name} has no empty line, so that it is one sentence; a file of tags has a word, a "
            f"tab and its tag a line, and an empty line after each sentence"
        )
    if not found:
        raise UserError(f"{name} has no sentence; give one word a line, a tab and its tag")
    return found


def tagged_data(
    name: str, splits: dict[str, list[Tagged]], files: dict[str, str], most: int | None
) -> TaggedData:
    """The data of the sentences of each split; `files` has their names for people.

    The vocabulary is the words that train has more than once, the `most` frequent. A tag that train
    has not stays unknown, so that every answer to its words is wrong; a remark says so.
    """
    counts = Counter(word for word, _ in chain.from_iterable(splits["train"]))
    often = [word for word in by_frequency(counts) if counts[word] > 1 and word not in (EOS, UNK)]
    vocabulary = Vocabulary(sorted([EOS, UNK, *(often if most is None else often[: most - 2])]))
    labels = labels_of((tag for _, tag in chain.from_iterable(splits["train"])), files["train"])
    if len(labels) < 2:
        raise UserError(f"{files['train']} has the tag {labels[0]!r} alone; give at least two")
    alphabet = alphabet_of(counts)
    odd = {
        split: {tag for _, tag in chain.from_iterable(splits[split])} - {*labels}
        for split in SPLITS
    }
    remarks = tuple(
        f"{files[split]} has tags that {files['train']} has not, as {min(tags)[:40]!r}: any "
        f"answer to their words is wrong"
        for split, tags in odd.items()
        if tags
    )
    train, valid, test = (_encoded(splits[split], vocabulary, labels, alphabet) for split in SPLITS)
    return TaggedData(
        name, vocabulary, train, valid, test, remarks, labels=labels, alphabet=alphabet
    )


def _encoded(
    sentences: list[Tagged], vocabulary: Vocabulary, labels: tuple[str, ...], alphabet: str
) -> TaggedSentences:
    places = {label: place for place, label in enumerate(labels)}
    tags = [places.get(tag, UNKNOWN_TAG) for _, tag in chain.from_iterable(sentences)]
    words = [[word for word, _ in sentence] for sentence in sentences]
    return TaggedSentences(Sentences.of(words, vocabulary, alphabet), torch.tensor(tags))
