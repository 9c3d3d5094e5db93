"""What a dense network begins with, if not with random numbers: parts of another, and vectors of
words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmcore import sites
from lmcore.bundle import Bundle
from lmcore.codec import Array
from lmcore.errors import UserError
from lmcore.labelled import known_file
from lmcore.leaf import Leaf
from lmcore.network import Network
from lmcore.vocabulary import UNK, Vocabulary

KNOWN = {"glove.6B.50d": "glove/glove.6B.50d.subset.f16.npy"}
STUDIES = Path(__file__).parent.parent / "studies"  # exists in a checkout only


def bundle_named(given: str) -> Path:
    """The path that is given, or the dense model of the published study of that name."""
    published = STUDIES / given / "dense.lmb"
    return published if published.is_file() and not Path(given).is_file() else Path(given)


def vectors_named(given: str) -> Path:
    """The path that is given, or the file of known vectors of that name."""
    return known_file(KNOWN[given], "training.vectors") if given in KNOWN else Path(given)


@torch.no_grad()
def begin_with(network: Network, vocabulary: Vocabulary, other: Bundle) -> list[str]:
    """Give a dense network the values of the sites and vectors that another has by the same names.
    A row of words goes to its word, that of `<unk>` to words that the other does not know.

    Returns the names. Raises UserError where there is none, and where sizes differ.
    """
    taken = []
    for site, weight in network.sites.items():
        if site in other.model.sites:
            found = other.model.sites[site].dense()
            if site in sites.WORD_SITES:
                found = found[_rows(vocabulary, other.vocabulary)]
            _take(site, weight.leaves["matrix"], found)
            taken.append(site)
    for name, leaf in network.biases.items():
        if name in other.model.biases:
            _take(name, leaf, other.model.biases[name].value())
            taken.append(name)
    if not taken:
        raise UserError(
            f"training.start: a network of the kind {other.model.settings.kind} has no part that "
            f"one of the kind {network.settings.kind} has"
        )
    return taken


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
        leaf.data[vocabulary.ids[word]] = torch.from_numpy(np.asarray(row, np.float32))
    return len(found) / len(vocabulary)


def _read_vectors(path: Path, wanted: Mapping[str, int], size: int) -> dict[str, Array]:
    """The rows of the wanted words. A file is lines of a word and its numbers, as GloVe's are, or
    an array .npy whose words stand beside it, a line each, in NAME.words.txt."""
    try:
        if path.suffix == ".npy":
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            stem = path.name.removesuffix(".npy").removesuffix(".f16")
            words = path.with_name(f"{stem}.words.txt").read_text(encoding="utf-8").splitlines()
            if rows.shape != (len(words), size):
                raise UserError(
                    f"training.vectors: {path} has {_size(rows.shape)} numbers for {len(words):,} "
                    f"words, and the model takes vectors of {size}"
                )
            return {word: rows[at] for at, word in enumerate(words) if word in wanted}
        found = {}
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                word, *numbers = line.rstrip("\n").split(" ")
                if word not in wanted:
                    continue
                if len(numbers) != size:
                    raise UserError(
                        f"training.vectors: {path}, line {number:,} has {len(numbers)} numbers, "
                        f"and the model takes vectors of {size}"
                    )
                found[word] = np.array(numbers, np.float32)
        return found
    except OSError as error:
        raise UserError(f"training.vectors: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"training.vectors: {path} has no vectors of words: {error}") from None
