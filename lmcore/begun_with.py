"""What a dense network begins with, if not with random numbers: parts of another, and vectors of
words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from torch import Tensor

from lmcore import letters, sites
from lmcore.bundle import Bundle
from lmcore.codec import Array
from lmcore.errors import UserError
from lmcore.files import bundle_named, is_file, sha256_of
from lmcore.labelled import known_file
from lmcore.leaf import Leaf
from lmcore.network import Network
from lmcore.training_settings import DenseTrainingSettings
from lmcore.vocabulary import UNK, Vocabulary

KNOWN = {"glove.6B.50d": "glove/glove.6B.50d.subset.f16.npy"}
OF_WORDS = (*sites.WORD_SITES, sites.VECTORS, sites.DECODER_BIAS)  # have a row a word
OF_FIELDS = {"alphabet": (letters.EMBEDDED,), "labels": ("output", "output.bias")}
CONTEXT = (f"{sites.FORWARD}.", f"{sites.BACKWARD}.")  # what its parts' names begin with
MOST_NUMBERS_OF_A_WORD = 3  # a word may have blanks and numbers in it
UNREADABLE = (  # what numpy raises on a damaged header
    ValueError,
    EOFError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RecursionError,
    TokenError,
)


def vectors_named(given: str) -> Path:
    """The path that is given, or the file of known vectors of that name."""
    return known_file(KNOWN[given], "training.vectors") if given in KNOWN else Path(given)


def beginning_of(settings: DenseTrainingSettings) -> dict[str, str]:
    """Setting -> the hash of what a training begins with; empty where that is random. Raises
    UserError where a file cannot be read."""
    found = {}
    if settings.start is not None:
        found["start"] = _hash("training.start", bundle_named(settings.start))
    if settings.vectors is not None:
        path = vectors_named(settings.vectors)
        found["vectors"] = _hash("training.vectors", path)
        if path.suffix == ".npy":
            found["vectors"] += _hash("training.vectors", _words_of(path))
    return found


def _hash(setting: str, path: Path) -> str:
    if not is_file(path):
        raise UserError(f"{setting}: there is no file {path}")
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{setting}: cannot read {path}: {error.strerror}") from None


def _words_of(path: Path) -> Path:
    """The file with the words of an array."""
    stem = path.name.removesuffix(".npy").removesuffix(".f16")
    return path.with_name(f"{stem}.words.txt")


@torch.no_grad()
def begin_with(network: Network, vocabulary: Vocabulary, other: Bundle) -> list[str]:
    """Give a dense network the values of the sites and vectors that another has by the same names.
    A row of words goes to its word, that of `<unk>` to words that the other does not know. What has
    a row a letter or a label is taken where these are the same.

    Returns the names. Raises UserError where there is none, and where sizes differ.
    """
    theirs = {
        **{site: weight.dense() for site, weight in other.model.sites.items()},
        **{name: leaf.value() for name, leaf in other.model.biases.items()},
    }
    ours = {
        **{site: weight.leaves["matrix"] for site, weight in network.sites.items()},
        **network.biases,
    }
    others = _of_others(network, other.model)
    own, given = ({n for n in names if n.startswith(CONTEXT)} for names in (ours, theirs))
    if own and given and own != given:
        odd = ", ".join(sorted(own ^ given)[:3])
        raise UserError(
            f"training.start: the layers of its context are not those of model.words.context: one "
            f"alone has {odd}; layers and cells must be the same"
        )
    taken = []
    for name, leaf in ours.items():
        if name in theirs and name not in others:
            found = theirs[name]
            if name in OF_WORDS:
                found = found[_rows(vocabulary, other.vocabulary)]
            _take(name, leaf, found)
            taken.append(name)
    if not taken:
        raise UserError(
            f"training.start: a network of the kind {other.model.settings.kind} has no part that "
            f"one of the kind {network.settings.kind} has"
        )
    return taken


def _of_others(network: Network, other: Network) -> set[str]:
    """The parts that have a row a letter or a label, where these differ."""
    mine, their = network.settings, other.settings
    found = set[str]()
    for field, parts in OF_FIELDS.items():
        if getattr(mine, field, None) != getattr(their, field, None):
            found.update(parts)
    return found


def _take(name: str, leaf: Leaf, values: Tensor) -> None:
    if leaf.shape != tuple(values.shape):
        raise UserError(
            f"training.start: {name} is {_size(values.shape)} there and {_size(leaf.shape)} in "
            f"this model"
        )
    leaf.data.copy_(values)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _rows(vocabulary: Vocabulary, other: Vocabulary) -> Tensor:
    """(words,): the row of each word in the other's matrices."""
    if other.unknown is None:
        raise UserError(f"training.start: its vocabulary has no {UNK}")
    return torch.tensor([other.ids.get(word, other.unknown) for word in vocabulary.words])


@torch.no_grad()
def set_vectors(network: Network, vocabulary: Vocabulary, path: Path) -> float:
    """Give the `vectors` of a dense network the rows of a file, zeros for words that it has not.
    Returns the share of words that it has.

    Raises UserError where the network has none or others, and where the file cannot be read.
    """
    if sites.VECTORS not in network.sites:
        raise UserError("training.vectors: the model has none; set model.words.vectors=50, say")
    leaf = network.sites[sites.VECTORS].leaves["matrix"]
    found = _read_vectors(path, vocabulary.ids, leaf.shape[1])
    leaf.data.zero_()
    for word, row in found.items():
        leaf.data[vocabulary.ids[word]] = torch.from_numpy(row.copy())
    return len(found) / len(vocabulary)


def _read_vectors(path: Path, wanted: Mapping[str, int], size: int) -> dict[str, Array]:
    """The rows of the wanted words. A file is lines of a word and its numbers, as GloVe's are, or
    an array .npy whose words stand beside it, a line each, in NAME.words.txt."""
    try:
        found = dict(_from_array(path, size) if path.suffix == ".npy" else _from_lines(path, size))
    except OSError as error:
        named = error.filename or path
        raise UserError(f"training.vectors: cannot read {named}: {error.strerror}") from None
    except UNREADABLE as error:
        raise UserError(f"training.vectors: {path} has no vectors of words: {error}") from None
    found = {word: row for word, row in found.items() if word in wanted}
    if not found:
        raise UserError(f"training.vectors: {path} has none of the words of the training text")
    if not all(np.isfinite(row).all() for row in found.values()):
        raise UserError(f"training.vectors: {path} has numbers that are not finite")
    return found


def _from_array(path: Path, size: int) -> Iterator[tuple[str, Array]]:
    rows = np.lib.format.open_memmap(path, mode="r")
    words = _words_of(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if rows.dtype.kind != "f" or rows.shape != (len(words), size):
        raise UserError(
            f"training.vectors: {path} is an array of {_size(rows.shape)}, and the model takes "
            f"{size} numbers for each of {len(words):,} words"
        )
    yield from zip(words, np.asarray(rows, np.float32), strict=True)


def _from_lines(path: Path, size: int) -> Iterator[tuple[str, Array]]:
    """A word may have blanks in it."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            word, *numbers = line.rstrip().rsplit(" ", size)
            if number == 1 and len(numbers) == 1:
                continue  # fastText begins with how many there are
            more = sum(map(_is_number, word.split(" ")[1:]))
            if len(numbers) != size or more > MOST_NUMBERS_OF_A_WORD:
                raise UserError(
                    f"training.vectors: {path}, line {number:,} has {len(numbers) + more} numbers, "
                    f"and the model takes vectors of {size}"
                )
            yield word, np.array(numbers, np.float32)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
