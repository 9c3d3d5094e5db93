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
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny

from lmcore.errors import UserError
from lmcore.penn_treebank import read_penn_treebank
from lmcore.settings import Family, PathText, later
from lmcore.spelled_text import Streams, character_text, piece_text, subword_text
from lmcore.spelling import Spelling
from lmcore.subword import BYTES, MOST
from lmcore.text import Lines, Texts, by_frequency, read_string, read_text, split_lines
from lmcore.text_checks import check_lengths, remarks
from lmcore.vocabulary import EOS, UNK, Vocabulary
from lmcore.vocabulary_file import read_vocabulary

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EOS", "UNK", "Corpus", "CorpusSettings", "Vocabulary", "load_corpus"]

SPLITS = ("train", "valid", "test")
Split = Literal["train", "valid", "test"]


class CorpusSettings(Family):
    """Where the text comes from. `files` names the settings that are paths."""

    files: ClassVar[tuple[str, ...]] = ()

    @property
    def places(self) -> dict[str, str]:
        """Setting -> path, for the paths that are given."""
        given = {name: getattr(self, name) for name in self.files}
        return {name: path for name, path in given.items() if path is not None}

    def absolute(self) -> Self:
        """The same settings with paths that do not depend on the folder they are typed in."""
        places = {name: str(Path(path).absolute()) for name, path in self.places.items()}
        return self.model_copy(update=places)


class PennTreebank(CorpusSettings):
    """Penn Treebank, word level, Mikolov's preprocessing: 929,589 / 73,760 / 82,430 tokens."""

    files = ("dir",)
    kind: Literal["ptb"] = "ptb"
    dir: PathText | None = None


class OwnText(CorpusSettings):
    """Anybody's text, one sentence a line: three files, or one that is split 80/10/10 by lines."""

    files: ClassVar[tuple[str, ...]] = ("train", "valid", "test", "file")
    train: PathText | None = None
    valid: PathText | None = None
    test: PathText | None = None
    file: PathText | None = None

    @property
    def named(self) -> dict[str, str]:
        """Setting -> path: of `file` alone, or of the three parts in their order.

        Raises UserError where the settings say neither.
        """
        three = {"train": self.train, "valid": self.valid, "test": self.test}
        given = {split: path for split, path in three.items() if path is not None}
        if self.file is not None and not given:
            return {"file": self.file}
        if self.file is None and len(given) == len(three):
            return given
        raise UserError(
            f"corpus={self.kind} takes corpus.train, corpus.valid and corpus.test, "
            f"or corpus.file alone"
        )


class TextFiles(OwnText):
    """Words between white space: the `max_words` most frequent, or those of a `vocabulary`."""

    files = (*OwnText.files, "vocabulary")
    kind: Literal["text"] = "text"
    max_words: Annotated[int, Field(ge=3)] = 10_000
    vocabulary: PathText | None = later(None)


class SubwordText(OwnText):
    """Byte-level pairs that are learned on the training text."""

    kind: Literal["subword"] = "subword"
    vocabulary_size: Annotated[int, Field(ge=BYTES, le=MOST)] = 4_000


class CharacterText(OwnText):
    """Unicode characters of the training text, or those in the file `vocabulary`."""

    files = (*OwnText.files, "vocabulary")
    kind: Literal["characters"] = "characters"
    max_characters: Annotated[int, Field(ge=3)] = 5_000
    vocabulary: PathText | None = later(None)


class PieceText(OwnText):
    """The pieces of a recogniser: of its SentencePiece model (`pieces`), or of its `tokens` where
    the text is already in pieces."""

    files = (*OwnText.files, "pieces", "tokens")
    kind: Literal["pieces"] = "pieces"
    pieces: PathText | None = None
    tokens: PathText | None = None


class PythonDocs(CorpusSettings):
    """The English prose of Python 3.11's `pydoc_data.topics`, which comes with this package."""

    kind: Literal["pydoc"] = "pydoc"
    max_words: Annotated[int, Field(ge=3)] = 1_500


AnyCorpus = Annotated[SerializeAsAny[CorpusSettings], BeforeValidator(CorpusSettings.pick)]


@dataclass(frozen=True)
class Corpus:
    """Three streams of ids over one vocabulary.

    `remarks` are sentences that a person should read before a model is trained on the streams.
    `spellings` say what the streams spell, by split; a corpus of words has none.
    """

    name: str
    vocabulary: Vocabulary
    train: Tensor  # (tokens,)
    valid: Tensor  # (tokens,)
    test: Tensor  # (tokens,)
    remarks: tuple[str, ...] = ()
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

    def bits_per_byte(self, split: str, perplexity: float) -> float | None:
        """That of a model with this perplexity on a split; None where the tokens are words."""
        spelling = self.spellings.get(split)
        return spelling.bits_per_byte(perplexity) if spelling else None

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
    """The corpus of the settings; `cache` is the folder for downloads."""
    match settings:
        case PennTreebank():
            return _corpus("ptb", read_penn_treebank(settings.dir, cache), max_words=None)
        case TextFiles():
            return _own_corpus(settings)
        case PythonDocs():
            return _corpus("pydoc", split_lines(read_text(_PYDOC), block=8), settings.max_words)
        case SubwordText() | CharacterText() | PieceText():
            return _spelled_corpus(settings, cache)
    raise TypeError(f"no corpus is made of {type(settings).__name__}")


def tokens(lines: Lines) -> Iterator[str]:
    """All words in order, `<eos>` after each line."""
    return chain.from_iterable([*line, EOS] for line in lines)


def _corpus(name: str, texts: Texts, max_words: int | None) -> Corpus:
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
    corpus = _corpus(_title(settings), texts, settings.max_words)
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
