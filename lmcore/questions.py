"""Questions on paragraphs, whose answers are parts of them: data of the form of SQuAD 1.1."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from lmcore.data import SPLITS, CorpusSettings
from lmcore.errors import UserError
from lmcore.labelled import known_file, words_in
from lmcore.lazy import torch
from lmcore.letters import alphabet_of
from lmcore.paragraphs import EVERY, articles_by_split
from lmcore.sentences import SentenceBatch, SentenceData, Sentences
from lmcore.settings import PathText, later
from lmcore.squad import Answer, Article, Paragraph, read_squad
from lmcore.task import READING
from lmcore.text import by_frequency
from lmcore.tokens import Token, tokens_of, words_of
from lmcore.vocabulary import EOS, UNK, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


TRAIN, DEV = "squad/train-v1.1.json", "squad/dev-v1.1.json"
Tokenised = tuple[Paragraph, tuple[Token, ...]]
NO_PLACE = -1  # fills up rows of places
LONGEST_QUESTION = 40  # tokens; the rest is not read


class QuestionText(CorpusSettings):
    """Files as SQuAD 1.1 is published: three, or `train` and `test`, of whose training articles one
    in twenty is for validation; none given, SQuAD, whose test side is its dev side.

    A paragraph of more than `longest` tokens is left out of training. The vocabulary is the
    `max_words` most frequent of the words that train has more than once, with all words of another
    model, the bundle `vocabulary`, if it is given.
    """

    files = SPLITS
    task = READING
    nameable = ("vocabulary",)
    kind: Literal["questions"] = "questions"
    train: PathText | None = None
    valid: PathText | None = None
    test: PathText | None = None
    longest: Annotated[int, Field(ge=1)] = 400
    max_words: Annotated[int, Field(ge=3)] | None = None
    vocabulary: PathText | None = later(None)

    def load(self, cache: Path) -> QuestionData:
        places = self.places
        if not places:
            places = {"train": str(known_file(TRAIN)), "test": str(known_file(DEV))}
        if not {"train", "test"} <= places.keys():
            raise UserError(
                "corpus=questions takes corpus.train, corpus.valid and corpus.test, or "
                "corpus.train and corpus.test alone"
            )
        called = {split: f"corpus.{split} {path}" for split, path in places.items()}
        read: dict[str, Sequence[Article]] = {
            split: read_squad(Path(path), called[split]) for split, path in places.items()
        }
        if "valid" not in read:
            read |= _parted(read["train"], called["train"])
        more = words_in(self.vocabulary) if self.vocabulary else ()
        name = f"questions {Path(places['train']).name}"
        return question_data(name, read, self.longest, self.max_words, more)


def _parted(articles: Sequence[Article], called: str) -> dict[str, Sequence[Article]]:
    """Without the articles that are for validation, and those."""
    if len(articles) < EVERY:
        raise UserError(
            f"{called} has {len(articles)} articles; to give one in {EVERY} for validation it "
            f"needs {EVERY}; or give corpus.valid"
        )
    found = articles_by_split(articles)
    return {"train": [*found["train"], *found["test"]], "valid": found["valid"]}


class Asked(NamedTuple):
    """A question, the paragraph that it is about, and what is right.

    `spans` are the tokens [first, last] of all places where the answer may be; none where the
    answer is not known to be in the paragraph.
    """

    words: list[str]
    paragraph: int
    answers: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class QuestionBatch:
    """Questions side by side, and their paragraphs."""

    paragraphs: SentenceBatch  # each once; where `columns` is None, that of each question
    questions: SentenceBatch
    first: Tensor  # (batch, places): tokens where an answer may begin; NO_PLACE fills up
    last: Tensor  # (batch, places): and where it ends then
    places: Tensor  # (batch,): of the questions in their split
    columns: Tensor | None = None  # (batch,): which of the paragraphs each question is about

    def of_each(self, values: Tensor, axis: int) -> Tensor:
        """Values of the paragraphs, those of each question's along the axis."""
        return values if self.columns is None else values.index_select(axis, self.columns)


@dataclass(frozen=True)
class Questions:
    """The questions of a split."""

    texts: tuple[str, ...]  # the paragraphs
    tokens: tuple[tuple[Token, ...], ...]  # of each paragraph
    paragraphs: Sentences
    questions: Sentences
    about: Tensor  # (questions,): the paragraph of each
    answers: tuple[tuple[str, ...], ...]  # that are right
    first: Tensor  # (questions, places): see QuestionBatch
    last: Tensor

    @property
    def lengths(self) -> Tensor:
        """(questions,): how many tokens their paragraphs have."""
        return self.paragraphs.lengths[self.about]

    @property
    def content(self) -> list[bytes]:
        """What tells these questions from others."""
        numbers = (self.about, self.first, self.last)
        texts = [*self.paragraphs.content, *self.questions.content]
        told = [values.numpy().tobytes() for values in numbers]
        return [*texts, *told, repr(self.answers).encode()]

    def batch(self, places: Tensor, once: bool = False) -> QuestionBatch:
        """The questions at these places (batch,). With `once`, a paragraph of several questions is
        there once: where nothing is trained it need not be read again."""
        about, columns = self.about[places], None
        if once:
            about, columns = torch.unique(about, return_inverse=True)
        return QuestionBatch(
            self.paragraphs.batch(about),
            self.questions.batch(places),
            self.first[places],
            self.last[places],
            places,
            columns,
        )

    def answer(self, place: int, first: int, last: int) -> str:
        """What the question's paragraph has from one of its tokens to another."""
        paragraph = int(self.about[place])
        tokens = self.tokens[paragraph]
        return self.texts[paragraph][tokens[first].start : tokens[last].end]


@dataclass(frozen=True)
class QuestionData(SentenceData):
    """Three splits of questions."""

    train: Questions
    valid: Questions
    test: Questions

    def tokens(self, split: str) -> int:
        return int(self.split(split).lengths.sum())

    @property
    def naive(self) -> float:
        return 100.0  # no part of a paragraph is the usual answer

    def describe(self) -> str:
        sizes = " / ".join(f"{len(self.split(split).about):,}" for split in SPLITS)
        return (
            f"{self.name}: {sizes} questions (train / valid / test), {len(self.vocabulary):,} words"
        )


def question_data(
    name: str,
    read: Mapping[str, Sequence[Article]],
    longest: int,
    most: int | None = None,
    more: Sequence[str] = (),
) -> QuestionData:
    """The data of the articles of each split. Raises UserError where a split has no question whose
    answer is where its file says."""
    splits, remarks = {}, []
    for split in SPLITS:
        paragraphs = _paragraphs(read[split])
        questions = list(_asked(paragraphs))
        every = sum(len(paragraph.qas) for paragraph, _ in paragraphs)
        if unasked := every - len(questions):
            remarks.append(f"{unasked:,} questions of {split} have no words or no answer")
        if split == "train":
            known = [one for one in questions if one.spans]
            if lost := len(questions) - len(known):
                remarks.append(f"{lost:,} questions of train have no answer where it is said to be")
            questions = [one for one in known if len(paragraphs[one.paragraph][1]) <= longest]
            if known and not questions:
                remarks.append(f"its paragraphs are longer than corpus.longest={longest} tokens")
        if not questions:
            reasons = "".join(f"; {one}" for one in remarks)
            raise UserError(f"{name}: its {split} part has no question to be used{reasons}")
        splits[split] = paragraphs, questions
    words = chain(
        chain.from_iterable((token.word for token in tokens) for _, tokens in splits["train"][0]),
        chain.from_iterable(one.words for one in splits["train"][1]),
    )
    counts = Counter(words)
    often = [word for word in by_frequency(counts) if counts[word] > 1 and word not in (EOS, UNK)]
    kept = often if most is None else often[: most - 2]
    vocabulary = Vocabulary(sorted({EOS, UNK, *kept, *more}))
    alphabet = alphabet_of(kept)
    train, valid, test = (_encoded(*splits[split], vocabulary, alphabet) for split in SPLITS)
    return QuestionData(name, vocabulary, train, valid, test, tuple(remarks), alphabet=alphabet)


def _paragraphs(articles: Iterable[Article]) -> list[Tokenised]:
    every = chain.from_iterable(article.paragraphs for article in articles)
    return [(one, tuple(tokens_of(one.context))) for one in every]


def _asked(paragraphs: Iterable[Tokenised]) -> Iterable[Asked]:
    for number, (paragraph, tokens) in enumerate(paragraphs):
        starts = [token.start for token in tokens]
        for question in paragraph.qas:
            words = words_of(question.question)[:LONGEST_QUESTION]
            answers = [answer for answer in question.answers if answer.text.strip()]
            if not words or not tokens or not answers:
                continue
            places = _spans(answers[0], paragraph.context, tokens, starts)
            right = tuple(answer.text for answer in answers)
            yield Asked(words, number, right, tuple(dict.fromkeys(places)))


def _spans(
    answer: Answer, text: str, tokens: Sequence[Token], starts: Sequence[int]
) -> Iterable[tuple[int, int]]:
    """The tokens [first, last] of each place of an answer; the tokens have these starts."""
    for start in answer.candidates or (answer.answer_start,):
        end = start + len(answer.text)
        if text[start:end] != answer.text:
            continue
        first, last = bisect_right(starts, start) - 1, bisect_left(starts, end) - 1
        if first < 0 or tokens[first].end <= start:
            first += 1  # the answer begins with a blank
        if first <= last:
            yield first, last


def _encoded(
    paragraphs: Sequence[Tokenised],
    asked: Sequence[Asked],
    vocabulary: Vocabulary,
    alphabet: str,
) -> Questions:
    used = sorted({one.paragraph for one in asked})
    numbers = {paragraph: number for number, paragraph in enumerate(used)}
    own = [paragraphs[number] for number in used]
    tokens = tuple(found for _, found in own)
    width = max(1, *(len(one.spans) for one in asked))
    first, last = torch.full((2, len(asked), width), NO_PLACE)
    for row, one in enumerate(asked):
        for column, span in enumerate(one.spans):
            first[row, column], last[row, column] = span
    read = [[token.word for token in found] for found in tokens]
    return Questions(
        tuple(paragraph.context for paragraph, _ in own),
        tokens,
        Sentences.of(read, vocabulary, alphabet),
        Sentences.of([one.words for one in asked], vocabulary, alphabet),
        torch.tensor([numbers[one.paragraph] for one in asked]),
        tuple(one.answers for one in asked),
        first,
        last,
    )
