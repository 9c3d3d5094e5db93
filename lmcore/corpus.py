"""Text -> vocabulary -> ids -> streams.

A corpus is three streams of ids (train, valid, test). In a corpus of words, every line of the text
ends with `<eos>`, and a word outside the vocabulary is `<unk>`. The vocabulary is sorted: its order
carries no information and a sorted list compresses best in the bundle. The other kinds spell the
text, see `lmcore/spelled_text.py`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lmcore.data import SPLITS, CorpusSettings, Data, OwnText
from lmcore.errors import UserError
from lmcore.lazy import torch
from lmcore.penn_treebank import read_penn_treebank
from lmcore.settings import PathText, later
from lmcore.spelled_text import Streams, character_text, piece_text, subword_text
from lmcore.spelling import Spelling
from lmcore.subword import BYTES, MOST
from lmcore.text import Lines, Texts, by_frequency, read_string, read_text, split_lines
from lmcore.text_checks import check_lengths, remarks
from lmcore.training_settings import TrainingSettings, check_text
from lmcore.vocabulary import EOS, UNK, Vocabulary
from lmcore.vocabulary_file import read_vocabulary

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EOS", "UNK", "Corpus", "CorpusSettings", "Vocabulary", "load_corpus"]


class PennTreebank(CorpusSettings):
    """Penn Treebank, word level, Mikolov's preprocessing: 929,589 / 73,760 / 82,430 tokens."""

    files = ("dir",)
    kind: Literal["ptb"] = "ptb"
    dir: PathText | None = None

    def load(self, cache: Path) -> Corpus:
        return corpus_of("ptb", read_penn_treebank(self.dir, cache), max_words=None)


class TextFiles(OwnText):
    """Words between white space: the `max_words` most frequent, or those of a `vocabulary`."""

    files = (*OwnText.files, "vocabulary")
    kind: Literal["text"] = "text"
    max_words: Annotated[int, Field(ge=3)] = 10_000
    vocabulary: PathText | None = later(None)

    def load(self, cache: Path) -> Corpus:
        return _own_corpus(self)


class SubwordText(OwnText):
    """Byte-level pairs that are learned on the training text."""

    kind: Literal["subword"] = "subword"
    vocabulary_size: Annotated[int, Field(ge=BYTES, le=MOST)] = 4_000

    def load(self, cache: Path) -> Corpus:
        return _spelled_corpus(self, cache)


class CharacterText(OwnText):
    """Unicode characters of the training text, or those in the file `vocabulary`."""

    files = (*OwnText.files, "vocabulary")
    kind: Literal["characters"] = "characters"
    max_characters: Annotated[int, Field(ge=3)] = 5_000
    vocabulary: PathText | None = later(None)

    def load(self, cache: Path) -> Corpus:
        return _spelled_corpus(self, cache)


class PieceText(OwnText):
    """The pieces of a recogniser: of its SentencePiece model (`pieces`), or of its `tokens` where
    the text is already in pieces."""

    files = (*OwnText.files, "pieces", "tokens")
    kind: Literal["pieces"] = "pieces"
    pieces: PathText | None = None
    tokens: PathText | None = None

    def load(self, cache: Path) -> Corpus:
        return _spelled_corpus(self, cache)


class PythonDocs(CorpusSettings):
    """The English prose of Python 3.11's `pydoc_data.topics`, which comes with this package."""

    kind: Literal["pydoc"] = "pydoc"
    max_words: Annotated[int, Field(ge=3)] = 1_500

    def load(self, cache: Path) -> Corpus:
        return corpus_of("pydoc", split_lines(read_text(_PYDOC), block=8), self.max_words)


@dataclass(frozen=True)
class Corpus(Data):
    """Three streams of ids over one vocabulary.

    `spellings` say what the streams spell, by split; a corpus of words has none.
    """

    train: Tensor  # (tokens,)
    valid: Tensor  # (tokens,)
    test: Tensor  # (tokens,)
    spellings: Mapping[str, Spelling] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Hash of the content: the vocabulary and every id."""
        vocabulary = self.vocabulary
        digest = hashlib.sha256("\n".join(vocabulary.words).encode())
        if vocabulary.kind != "words":
            digest.update(f"\n{vocabulary.kind} {vocabulary.grammar}".encode())
        for split in SPLITS:
            digest.update(self.split(split).numpy().tobytes())
        return digest.hexdigest()[:16]

    def split(self, name: str) -> Tensor:
        stream: Tensor = getattr(self, name)
        return stream

    def tokens(self, split: str) -> int:
        return len(self.split(split))

    @cached_property
    def naive(self) -> float:
        return unigram_perplexity(self.train, self.valid, len(self.vocabulary))

    def check(self, training: TrainingSettings, where: str) -> None:
        check_text(training, len(self.train), where, f"the train part of {self.name}")

    def spelling(self, split: str) -> Spelling | None:
        return self.spellings.get(split)

    def describe(self) -> str:
        sizes = " / ".join(f"{len(self.split(split)):,}" for split in SPLITS)
        unknown = self.vocabulary.unknown
        share = float((self.train == unknown).float().mean()) if unknown is not None else 0.0
        told = f", {share:.1%} {UNK} in train"
        if spelling := self.spellings.get("train"):
            each = spelling.size_bytes / spelling.tokens
            told = f"{told if share else ''}, {each:.2f} bytes a token"
        return (
            f"{self.name}: {sizes} tokens (train / valid / test), "
            f"{len(self.vocabulary):,} {self.vocabulary.noun}{told}"
        )


def load_corpus(settings: CorpusSettings, cache: Path) -> Corpus:
    """The text of the settings; `cache` is the folder for downloads. Raises UserError where they
    are not of a text."""
    return text_in(settings.load(cache))


def text_in(data: Data) -> Corpus:
    """The data, where they are a text. Raises UserError where they are not."""
    if not isinstance(data, Corpus):
        raise UserError(f"this needs a text, and {data.name} is none")
    return data


def unigram_perplexity(train: Tensor, ids: Tensor, words: int) -> float:
    """Of the text `ids` (tokens,), by how frequent each of the `words` words is in `train`
    (tokens,), plus one."""
    counts = torch.bincount(train, minlength=words).double() + 1
    nats = -(counts / counts.sum()).log()[ids].mean()
    return float(nats.exp())


def tokens(lines: Lines) -> Iterator[str]:
    """All words in order, `<eos>` after each line."""
    return chain.from_iterable([*line, EOS] for line in lines)


def corpus_of(name: str, texts: Texts, max_words: int | None) -> Corpus:
    """The corpus over the words of `train`, the most frequent where there is a `max_words`."""
    counts = Counter(tokens(texts["train"]))
    if max_words is None:
        words = set(counts)
    else:
        kept = [word for word in by_frequency(counts) if word not in (EOS, UNK)]
        words = {EOS, UNK, *kept[: max_words - 2]}
    return _encoded(name, texts, words)


def _encoded(name: str, texts: Texts, words: Iterable[str]) -> Corpus:
    vocabulary = Vocabulary(sorted(words))
    train, valid, test = (vocabulary.ids_of(tokens(texts[split])) for split in SPLITS)
    return Corpus(name, vocabulary, train, valid, test)


# --- text and pydoc --------------------------------------------------------------------------

_PYDOC = Path(__file__).parent / "data" / "pydoc.txt"


def _own_corpus(settings: TextFiles) -> Corpus:
    named = settings.named
    read = {f"corpus.{name} {path}": read_text(Path(path)) for name, path in named.items()}
    texts = _parts(list(read.values()))
    check_lengths(texts, read)
    if settings.vocabulary is not None:
        corpus = _encoded(_title(settings), texts, read_vocabulary(Path(settings.vocabulary)))
        return replace(corpus, remarks=remarks(texts, corpus.vocabulary.ids, None))
    corpus = corpus_of(_title(settings), texts, settings.max_words)
    return replace(corpus, remarks=remarks(texts, corpus.vocabulary.ids, settings.max_words))


def _parts(read: list[Lines]) -> Texts:
    return dict(zip(SPLITS, read, strict=True)) if len(read) > 1 else split_lines(read[0], block=1)


def _title(settings: OwnText) -> str:
    return f"{settings.kind} {Path(next(iter(settings.named.values()))).name}"


def _spelled_corpus(settings: SubwordText | CharacterText | PieceText, cache: Path) -> Corpus:
    named = settings.named
    read = {f"corpus.{name} {path}": read_string(Path(path)) for name, path in named.items()}
    match settings:
        case SubwordText():
            streams = subword_text(read, settings.vocabulary_size, cache / "data" / "subword")
        case CharacterText():
            given = settings.vocabulary
            characters = None if given is None else read_vocabulary(Path(given))
            streams = character_text(read, settings.max_characters, characters)
        case PieceText():
            streams = piece_text(read, settings.pieces, settings.tokens)
    return _of_streams(_title(settings), streams)


def _of_streams(name: str, streams: Streams) -> Corpus:
    train, valid, test = (streams.ids[split] for split in SPLITS)
    return Corpus(name, streams.vocabulary, train, valid, test, streams.remarks, streams.spellings)
