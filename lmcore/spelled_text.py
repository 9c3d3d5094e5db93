"""Texts that are kept to the letter -> vocabulary -> streams that spell them.

The text of a part is encoded as it stands: each newline is `<eos>`, and nothing is added, dropped
or changed. So the bytes that a stream spells are known, and with them the bits per byte of a model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmcore.errors import DiskError, UserError
from lmcore.files import write_atomic
from lmcore.spelling import Spelling
from lmcore.subword import BYTES, STRETCH, SubwordVocabulary, learn
from lmcore.text import by_frequency, split_lines
from lmcore.text_checks import LEAST_TOKENS, UNKNOWN_SHARE, repeated
from lmcore.vocabulary import (
    EOS,
    UNK,
    CharacterVocabulary,
    PieceVocabulary,
    Vocabulary,
    pieces_of,
    read_tokens,
)

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Streams:
    """A vocabulary, and by part: the ids (tokens,), what they spell, and what a person should
    know."""

    vocabulary: Vocabulary
    ids: Mapping[str, Tensor]
    spellings: Mapping[str, Spelling]
    remarks: tuple[str, ...]


def subword_text(read: Mapping[str, str], size: int, cache: Path) -> Streams:
    """Streams of `size` byte-level pairs. `read` has the text of each file, by the name that a
    person knows it by: one for each part, or one for all. `cache` keeps what was learned.

    Raises UserError where a text is too short for that many, or for a perplexity.
    """
    texts = _parts(read)
    vocabulary = _learned(texts["train"], size, cache)
    if len(vocabulary) < size:
        raise UserError(
            f"corpus.vocabulary_size={size} is too large: the training text has pairs that occur "
            f"twice for {len(vocabulary):,} pieces; "
            f"give at most corpus.vocabulary_size={len(vocabulary)}, or a longer text"
        )
    return _streams(read, texts, vocabulary)


def _learned(text: str, size: int, cache: Path) -> SubwordVocabulary:
    """The vocabulary of a text, from the cache where it was learned before: 100 MB take minutes."""
    if size == BYTES:
        return SubwordVocabulary(())
    digest = hashlib.sha256(f"{size} {STRETCH}\n".encode())
    digest.update(text.encode())
    path = cache / f"{digest.hexdigest()[:16]}.json"
    try:
        return SubwordVocabulary((left, right) for left, right in json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        vocabulary = learn(text.split("\n"), size)
    with suppress(DiskError):  # it is learned again, then
        write_atomic(path, json.dumps(vocabulary.merges).encode())
    return vocabulary


def character_text(
    read: Mapping[str, str], most: int, given: Iterable[str] | None = None
) -> Streams:
    """Streams of characters: at most so many, the marks `<eos>` and `<unk>` among them, or those
    that are given. Raises UserError where one of these is no character."""
    texts = _parts(read)
    if given is not None:
        try:
            return _streams(read, texts, CharacterVocabulary(sorted(given)))
        except ValueError as error:
            raise UserError(f"corpus.vocabulary: {error}") from None
    counts = Counter(texts["train"])
    counts.pop("\n", None)
    kept = by_frequency(counts)[: most - 2]
    streams = _streams(read, texts, CharacterVocabulary(sorted([EOS, UNK, *kept])))
    shares = {part: one.hidden / one.tokens for part, one in streams.spellings.items()}
    if max(shares.values()) < UNKNOWN_SHARE:
        return streams
    listed = ", ".join(f"{share:.1%} of {part}" for part, share in shares.items())
    said = (
        f"unknown characters are {listed}: train has {len(counts):,} different ones, and "
        f"corpus.max_characters={most} keeps {len(kept):,}. corpus=subword knows every character"
    )
    return Streams(streams.vocabulary, streams.ids, streams.spellings, (said, *streams.remarks))


def piece_text(read: Mapping[str, str], pieces: str | None, tokens: str | None) -> Streams:
    """Streams of a recogniser's pieces: by its SentencePiece model, or by its list of tokens where
    the text is in pieces. Raises UserError where it is not one of them that is given, and where
    the file is none."""
    if (pieces is None) == (tokens is None):
        raise UserError(
            "corpus=pieces takes corpus.pieces, a recogniser's SentencePiece model (bpe.model), "
            "or corpus.tokens, its tokens.txt, where the text is already in pieces"
        )
    path = Path(pieces or tokens or "")
    words = pieces_of(path) if pieces else read_tokens(path)
    try:
        vocabulary = PieceVocabulary(words, path if pieces else None)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    streams = _streams(read, _parts(read), vocabulary)
    unknown = vocabulary.unknown
    share = 0.0 if unknown is None else float((streams.ids["train"] == unknown).float().mean())
    if share >= UNKNOWN_SHARE:
        raise UserError(_mixed_up(path, share, is_model=bool(pieces)))
    return streams


def _mixed_up(path: Path, share: float, is_model: bool) -> str:
    if is_model:
        return (
            f"{path} knows too little of the text: {share:.1%} of the training text's pieces are "
            f"{UNK}. Write the text as the model's own was written, in capitals, say"
        )
    return (
        f"{share:.1%} of the training text's tokens are not in {path}: a text for corpus.tokens is "
        f"in pieces, as in ▁THE ▁C AT. For a text in words give the SentencePiece model: "
        f"corpus.pieces=bpe.model"
    )


def _parts(read: Mapping[str, str]) -> dict[str, str]:
    """The text of each part. Raises UserError where a file has nothing but white space."""
    for name, text in read.items():
        if not text.strip():
            raise UserError(
                f"{name} {'has only blank lines' if text else 'is empty'}; "
                f"give a text with one sentence a line"
            )
    texts = list(read.values())
    if len(texts) > 1:
        return dict(zip(PARTS, texts, strict=True))
    *lines, last = texts[0].split("\n")
    ended = [f"{line}\n" for line in lines] + ([last] if last else [])
    return {part: "".join(own) for part, own in split_lines(ended, block=1).items()}


def _streams(read: Mapping[str, str], texts: Mapping[str, str], vocabulary: Vocabulary) -> Streams:
    """The streams of the parts. Raises UserError where one has too few tokens."""
    ids = {part: vocabulary.encode(text) for part, text in texts.items()}
    names = list(read) if len(read) > 1 else list(read) * len(texts)
    for name, (part, stream) in zip(names, ids.items(), strict=True):
        if len(stream) < LEAST_TOKENS:
            split = "" if len(read) > 1 else f"; split by lines, its {part}"
            raise UserError(
                f"{name}{split} has {len(stream):,} tokens, and needs {LEAST_TOKENS}. "
                f"Give a longer text, with one sentence a line"
            )
    spellings = {}
    for part, text in texts.items():
        spelling = vocabulary.spelling(text, ids[part])
        assert spelling
        spellings[part] = spelling
    return Streams(vocabulary, ids, spellings, tuple(repeated(_lines(texts))))


def _lines(texts: Mapping[str, str]) -> dict[str, list[str]]:
    return {part: text.split("\n") for part, text in texts.items()}
