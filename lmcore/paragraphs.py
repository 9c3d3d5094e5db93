"""Paragraphs of an encyclopedia and news: what a bidirectional language model is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from lmcore.corpus import Corpus, corpus_of
from lmcore.data import SPLITS, CorpusSettings
from lmcore.labelled import known_file
from lmcore.penn_treebank import read_penn_treebank
from lmcore.settings import PathText
from lmcore.squad import read_squad
from lmcore.text import Lines
from lmcore.tokens import words_of

T = TypeVar("T")
SQUAD = "squad/train-v1.1.json"
EVERY = 20  # of so many articles, the last two are for valid and test


class ParagraphText(CorpusSettings):
    """The paragraphs of SQuAD's training articles, a line each, and Penn Treebank.

    Of twenty articles one is for valid and one for test, so that no paragraph of theirs is seen in
    training. The vocabulary is the `max_words` most frequent words of train.
    """

    files = ("squad", "ptb")
    kind: Literal["paragraphs"] = "paragraphs"
    squad: PathText | None = None
    ptb: PathText | None = None
    max_words: Annotated[int, Field(ge=3)] = 20_000

    def load(self, cache: Path) -> Corpus:
        path = known_file(SQUAD, "corpus.squad") if self.squad is None else Path(self.squad)
        articles = articles_by_split(read_squad(path, f"corpus.squad {path}"))
        news = read_penn_treebank(self.ptb, cache)
        texts: dict[str, Lines] = {}
        for split in SPLITS:
            paragraphs = chain.from_iterable(one.paragraphs for one in articles[split])
            texts[split] = [*(words_of(one.context) for one in paragraphs), *news[split]]
        return corpus_of("paragraphs", texts, self.max_words)


def articles_by_split(articles: Sequence[T]) -> dict[str, list[T]]:
    """Of twenty articles eighteen for train, then one for valid and one for test."""
    found: dict[str, list[T]] = {split: [] for split in SPLITS}
    for index, article in enumerate(articles):
        place = index % EVERY - (EVERY - 2)
        found["train" if place < 0 else SPLITS[1 + place]].append(article)
    return found
