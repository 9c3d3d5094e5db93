"""Tokens and their ids, both ways: of words, of characters, of a recogniser's own pieces.

Every kind of vocabulary has the same interface: `words` are its tokens as people and `tokens.txt`
write them, in the order of the model's rows; `encode` makes ids of a text and `decode` a text of
ids. A newline is `<eos>` in all of them, and nothing but a newline is. `lmcore/subword.py` has the
byte-level kind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from lmcore.errors import UserError
from lmcore.lazy import torch
from lmcore.spelling import Spelling

if TYPE_CHECKING:
    from torch import Tensor

EOS, UNK = "<eos>", "<unk>"
Kind = Literal["words", "subword", "characters", "pieces"]  # stored in files: never rename one
BLANK = "▁"  # what SentencePiece writes for a blank
_NO_ID = -1
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a piece that is one byte of a character


class Vocabulary:
    """Words and their ids. A text is read as words between white space."""

    kind: ClassVar[Kind] = "words"
    noun: ClassVar[str] = "words"  # for people
    is_exact: ClassVar[bool] = False  # whether its tokens spell the text, not only its words

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self.ids = {word: i for i, word in enumerate(self.words)}
        if len(self.ids) != len(self.words):
            raise ValueError("a vocabulary holds each word once")
        if "" in self.ids:
            raise ValueError("a vocabulary holds no empty word")
        self._check()

    def _check(self) -> None:
        if EOS not in self.ids:
            raise ValueError(f"a vocabulary holds {EOS}")

    def __len__(self) -> int:
        return len(self.words)

    @property
    def eos(self) -> int:
        """The id of the end of a sentence."""
        return self.ids[EOS]

    @property
    def sos(self) -> int:
        """The id that the first token of a sentence is predicted from: in a stream, the end of the
        sentence before. A recogniser's own `<s>` is no part of the streams."""
        return self.eos

    @property
    def unknown(self) -> int | None:
        """The id of what the vocabulary has not, None where every text can be encoded or where such
        a text is refused."""
        return self.ids.get(UNK)

    def is_same(self, other: Vocabulary) -> bool:
        """Whether both give every text the same ids."""
        return self.kind == other.kind and self.words == other.words

    @property
    def grammar(self) -> str:
        """What encoding depends on beside the words, as a text that is hashed."""
        return ""

    def spelling(self, text: str, ids: Tensor) -> Spelling | None:
        """What the `ids` of a text spell, None where a vocabulary of words does not spell it."""
        if not self.is_exact:
            return None
        hidden = 0 if self.unknown is None else int((ids == self.unknown).sum())
        return Spelling(len(ids), len(text.encode()), hidden)

    def ids_of(self, words: Iterable[str]) -> Tensor:
        """The ids of tokens, (tokens,) int64. Raises UserError for one that the vocabulary has not,
        unless it has `<unk>`."""
        unknown = self.unknown
        found = map(self.ids.get, words, repeat(_NO_ID if unknown is None else unknown))
        ids = np.fromiter(found, dtype=np.int64)
        if (ids == _NO_ID).any():
            raise UserError(
                f"the text holds {self.noun} that the vocabulary of {len(self):,} {self.noun} does "
                f"not, and the vocabulary has no {UNK} to stand for them"
            )
        return torch.from_numpy(ids)

    def encode(self, text: str) -> Tensor:
        """The ids of a text, (tokens,) int64. Each newline is `<eos>`; a text that does not end in
        one ends inside a sentence. Raises UserError where `ids_of` does."""
        return self.ids_of(self.split(text))

    def split(self, text: str) -> Iterator[str]:
        """The tokens of a text."""
        for number, line in enumerate(text.split("\n")):
            if number:
                yield self.words[self.eos]
            yield from self.split_line(line)

    def split_line(self, line: str) -> Iterable[str]:
        """The tokens of a text without a newline."""
        return line.split()

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for: words with a blank between them, lines."""
        lines: list[list[str]] = [[]]
        for i in map(int, ids):
            if i == self.eos:
                lines.append([])
            else:
                lines[-1].append(self.words[i])
        return "\n".join(" ".join(line) for line in lines)


class CharacterVocabulary(Vocabulary):
    """Unicode characters. `decode` of `encode` gives a text back that has none but known ones."""

    kind = "characters"
    noun = "characters"
    is_exact = True

    def _check(self) -> None:
        super()._check()
        if any(len(word) != 1 for word in self.ids.keys() - {EOS, UNK}) or "\n" in self.ids:
            raise ValueError(f"a vocabulary of characters holds characters, {EOS} and {UNK}")

    def split_line(self, line: str) -> Iterable[str]:
        return line

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; U+FFFD where one is unknown."""
        stands = {EOS: "\n", UNK: "\ufffd"}
        return "".join(stands.get(word, word) for word in (self.words[int(i)] for i in ids))


class PieceVocabulary(Vocabulary):
    """The pieces of a SentencePiece model, by the ids that it gives them.

    A text is read as pieces with white space between them ("▁THE ▁C AT"), unless `model` is there:
    then it is read as it stands, by SentencePiece. A bundle keeps the pieces, not the model.
    """

    kind = "pieces"
    noun = "pieces"
    is_exact = True
    ENDS: ClassVar[tuple[str, ...]] = ("<sos/eos>", "</s>", EOS, "<eos/sos>")
    SILENT: ClassVar[tuple[str, ...]] = ("<s>", "<sos>", "<bos>", "<blk>", "<blank>", "<pad>")

    def __init__(self, words: Iterable[str], model: Path | None = None) -> None:
        super().__init__(words)
        self.model = model
        self._processor = None if model is None else processor_of(model)

    def _check(self) -> None:
        if not any(end in self.ids for end in self.ENDS):
            raise ValueError(f"the pieces have no end of a sentence: one of {', '.join(self.ENDS)}")
        if any(re.search(r"[\s]", word) for word in self.words):
            raise ValueError(f"a piece writes a blank as {BLANK}, and holds no white space")

    @property
    def eos(self) -> int:
        return next(self.ids[end] for end in self.ENDS if end in self.ids)

    def with_model(self, path: Path) -> PieceVocabulary:
        """The vocabulary with the SentencePiece model that it came from, so that it reads any text.
        Raises UserError where the model has other pieces."""
        found = PieceVocabulary(pieces_of(path), path)
        if found.words != self.words:
            raise UserError(f"{path} has other pieces than the vocabulary of {len(self):,} has")
        return found

    def split_line(self, line: str) -> Iterable[str]:
        if self._processor is None:
            return line.split()
        pieces: list[str] = self._processor.encode(line, out_type=str)
        return pieces

    def spelling(self, text: str, ids: Tensor) -> Spelling:
        """What the `ids` of a text spell: the text as SentencePiece leaves it, which may write a
        letter in another way and blanks in fewer."""
        size_bytes = hidden = 0
        for line in text.split("\n"):
            pieces = list(self.split_line(line))
            size_bytes += len(spelled(pieces).encode()) + 1
            hidden += sum(len(one) for one in pieces if self.ids.get(one) in (None, self.unknown))
        return Spelling(len(ids), size_bytes - 1, hidden)

    def decode(self, ids: Iterable[int]) -> str:
        """The text that pieces spell; U+FFFD where one is unknown."""
        lines: list[list[str]] = [[]]
        for i in map(int, ids):
            if i == self.eos:
                lines.append([])
            elif i == self.unknown:
                lines[-1].append("\ufffd")
            elif self.words[i] not in self.SILENT:
                lines[-1].append(self.words[i])
        return "\n".join(map(spelled, lines))


def spelled(pieces: Iterable[str]) -> str:
    """The text of a line's pieces, whose first blank is SentencePiece's own."""
    joined = b"".join(
        bytes.fromhex(byte[1]) if (byte := _BYTE.fullmatch(piece)) else piece.encode()
        for piece in pieces
    )
    return joined.decode(errors="replace").replace(BLANK, " ").removeprefix(" ")


def pieces_of(path: Path) -> list[str]:
    """The pieces of a SentencePiece model, by id. Raises UserError where the file is none."""
    processor = processor_of(path)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def processor_of(path: Path):  # type: ignore[no-untyped-def]  # SentencePiece has no types
    """The SentencePiece model of a file. Raises UserError where it cannot be read."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise UserError(
            f"{path} is read by SentencePiece, which is not installed: pip install "
            f"'lmpareto[pieces]'. Without it, corpus.tokens=tokens.txt takes a text in pieces"
        ) from None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError:
        raise UserError(
            f"{path} is no SentencePiece model: such a file is often named bpe.model or "
            f"unigram.model; a list of tokens is given by corpus.tokens"
        ) from None
    return processor


def read_tokens(path: Path) -> list[str]:
    """The tokens of a `tokens.txt`, by id: "TOKEN ID" a line, the ids from 0 on in any order.

    Raises UserError where the file is none. Symbols of a lexicon's disambiguation (`#0`, `#1`) at
    the end are left out: a recogniser's models do not know them.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path} is no list of tokens, for it is no text: corpus.tokens takes tokens.txt; "
            f"a SentencePiece model is given by corpus.pieces"
        ) from None
    found: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        token, _, digits = line.rstrip().rpartition(" ")
        if not token.strip() or not re.fullmatch(r"[0-9]{1,9}", digits):
            raise UserError(
                f"{path}, line {number}: got {line[:60]!r}; it takes a token, a blank and its id, "
                f"as in {BLANK}THE 4"
            )
        if int(digits) in found:
            raise UserError(f"{path}, line {number}: the id {digits} was given before")
        found[int(digits)] = token.strip()
    if not found:
        raise UserError(f"{path} has no tokens; it takes a token, a blank and its id a line")
    while re.fullmatch(r"#[0-9]+", found.get(len(found) - 1, "")):
        found.pop(len(found) - 1)
    if gap := next((i for i in range(len(found)) if i not in found), None):
        raise UserError(f"{path}: there is no token of the id {gap}, but one of {max(found)}")
    if 0 not in found:
        raise UserError(f"{path}: there is no token of the id 0, and a model's first row is 0's")
    words = [found[i] for i in range(len(found))]
    if len(set(words)) < len(words):
        twice = next(word for word, count in Counter(words).items() if count > 1)
        raise UserError(f"{path}: the token {twice} is there twice")
    return words
