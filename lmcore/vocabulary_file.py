"""A file that says which word each id stands for: the vocabulary of a model from elsewhere.

A word a line, the first being id 0; or `word id` a line, as Kaldi and icefall write it; or JSON: a
list of words, or a map word -> id.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from lmcore.errors import UserError
from lmcore.text import read_text
from lmcore.vocabulary import EOS, UNK

ENDS = (EOS, "</s>", "<EOS>", "<sos/eos>", "\n")  # what ends a line elsewhere, likeliest first
UNKNOWNS = (UNK, "<UNK>", "<oov>", "<OOV>", "[UNK]")
OURS = dict.fromkeys(ENDS, EOS) | dict.fromkeys(UNKNOWNS, UNK)
_SHOWN = 5  # ids or words in a message
_WITH_ID = re.compile(r"(\S+)[ \t]+([0-9]{1,18})")


def read_vocabulary(path: Path, changes: Mapping[int, str] | None = None) -> list[str]:
    """The words by id; `changes` gives the word of an id, in place of the file's or where the file
    has none. What ends a line is <eos> in the result, what stands for unknown words <unk>.

    Raises UserError where the file cannot be read, where an id has no word or two have the same,
    and where no word ends a line.
    """
    words = _read(path) | dict(changes or {})
    if not words:
        raise UserError(f"{path} has no words in it")
    if min(words) < 0:
        raise UserError(f"words: got {min(words)}; an id is a whole number from 0 on")
    # an id may be any number, so ids are not counted up to it
    if gaps := list(islice((i for i in range(max(words) + 1) if not words.get(i)), _SHOWN + 1)):
        raise UserError(
            f"{path} has no word for {_listed('id', gaps)}; give each one: "
            f"\"words={{{gaps[0]}: '<pad>'}}\", say"
        )
    found = [words[i] for i in range(len(words))]
    for ours, theirs in ((EOS, ENDS), (UNK, UNKNOWNS)):
        there = next((word for word in theirs if word in found), None)
        if there is not None:
            found[found.index(there)] = ours
    if len(counts := Counter(found)) < len(found):
        twice = next(word for word, count in counts.items() if count > 1)
        ids = [i for i, word in enumerate(found) if word == twice]
        raise UserError(
            f"{path}: {_listed('id', ids)} are all {twice!r}; say what one of them is: "
            f'"words={{{ids[-1]}: ...}}"'
        )
    if EOS not in found:
        raise UserError(
            f"{path} has no word that ends a line ({', '.join(map(repr, ENDS))}); say which id "
            f"does: \"words={{ID: '{EOS}'}}\""
        )
    if halves := [i for i, word in enumerate(found) if not _is_text(word)]:
        raise UserError(f"{path}: the word of {_listed('id', halves)} is half of a surrogate pair")
    if broken := [i for i, word in enumerate(found) if "\n" in word]:
        raise UserError(f"{path}: the word of {_listed('id', broken)} has a line's end in it")
    return found


def _listed(what: str, ids: list[int]) -> str:
    more = " and more" if len(ids) > _SHOWN else ""
    return f"{what}{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:_SHOWN]))}{more}"


def _is_text(word: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def _read(path: Path) -> dict[int, str]:
    if path.suffix == ".json":
        return _json(path)
    lines = _lines(path)
    with_ids = [_WITH_ID.fullmatch(line) for line in lines]
    if lines and all(with_ids):
        return _by_id(path, ((one[1], int(one[2])) for one in with_ids if one))
    return dict(enumerate(lines))


def _lines(path: Path) -> list[str]:
    """The lines; a blank is a word, as in a vocabulary of characters."""
    read_text(path)  # says what is wrong with a file that is no text
    text = path.read_text(encoding="utf-8-sig")
    return text.removesuffix("\n").split("\n") if text else []


def _json(path: Path) -> dict[int, str]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if isinstance(data, list) and all(isinstance(word, str) for word in data):
        return dict(enumerate(data))
    if isinstance(data, dict) and all(type(i) is int and i >= 0 for i in data.values()):
        return _by_id(path, data.items())
    raise UserError(f"{path} is a list of words, or a map from each word to its id from 0 on")


def _by_id(path: Path, pairs: Iterable[tuple[str, int]]) -> dict[int, str]:
    found: dict[int, str] = {}
    for word, i in pairs:
        if i in found:
            raise UserError(f"{path} has the words {found[i]!r} and {word!r} for the same id, {i}")
        found[i] = word
    return found
