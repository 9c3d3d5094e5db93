"""Where the files of labelled examples are, and how they are split."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from lmcore.capacity import HEADER_BYTES
from lmcore.data import SPLITS, CorpusSettings
from lmcore.errors import UserError
from lmcore.files import bundle_named
from lmcore.text import read_string

E = TypeVar("E")
MOST_LABELS, LONGEST_LABEL = 1_000, 200  # letters; the header of a bundle holds them all
EVERY = 10  # of so many examples, the last two are for valid and test


def labelled_files(
    settings: CorpusSettings, read: Callable[[Path, str], list[E]], known: Mapping[str, str]
) -> tuple[dict[str, list[E]], dict[str, str], str]:
    """The examples of each split, the file of each as a person knows it, and the data's name.

    The files are those of the settings, all three or `train` alone, or without any those of a
    `known` data set, by split below the folder of data. `read` gets a path and what to call it.
    Raises UserError for another choice.
    """
    places = settings.places
    if not places:
        found = {split: known_file(known[split]) for split in SPLITS}
        named = {split: str(path) for split, path in found.items()}
        name = Path(known["train"]).parent.name
    elif set(places) == set(SPLITS):
        found = {split: Path(path) for split, path in places.items()}
        named = {split: f"corpus.{split} {path}" for split, path in places.items()}
        name = f"{settings.kind} {found['train'].name}"
    elif set(places) == {"train"}:
        path = Path(places["train"])
        called = f"corpus.train {path}"
        every = read(path, called)
        if len(every) < EVERY:
            raise UserError(
                f"{called} has {len(every)} examples; to be split 80/10/10 it needs {EVERY}"
            )
        named = {split: f"the {split} part of {called}" for split in SPLITS}
        return _split(every), named, f"{settings.kind} {path.name}"
    else:
        raise UserError(
            f"corpus={settings.kind} takes corpus.train, corpus.valid and corpus.test, or "
            f"corpus.train alone, which is split"
        )
    return {split: read(found[split], named[split]) for split in SPLITS}, named, name


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, as `lmcore.text.read_string` reads it."""
    return read_string(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def labels_of(found: Iterable[str], name: str) -> tuple[str, ...]:
    """The labels of a training split, each once. Raises UserError where there are so many, or so
    long ones, that they can be none; `name` is what the person calls the split."""
    labels = tuple(sorted(set(found)))
    if len(labels) > MOST_LABELS:
        raise UserError(
            f"{name} has {len(labels):,} labels, and more than {MOST_LABELS:,} are none; is the "
            f"label in another column?"
        )
    longest = max(labels, key=len, default="")
    if len(longest) > LONGEST_LABEL or len(json.dumps(labels)) > HEADER_BYTES // 2:
        raise UserError(
            f"{name} has labels that are texts, as {longest[:40]!r}; "
            f"is the label in another column?"
        )
    return labels


def _split(every: list[E]) -> dict[str, list[E]]:
    """Of ten examples eight for train, then one for valid and one for test."""
    of_ten = ["train"] * (EVERY - 2) + ["valid", "test"]
    parts: dict[str, list[E]] = {split: [] for split in SPLITS}
    for number, one in enumerate(every):
        # another place in each ten: labels that take turns would be alone in valid and test
        parts[of_ten[(number + number // EVERY) % EVERY]].append(one)
    return parts


def known_file(file: str, setting: str = "corpus.train") -> Path:
    """A file below the folder of data. Raises UserError where there is no such folder; `setting` is
    where a person may give another."""
    if data := os.environ.get("LMPARETO_DATA"):
        return Path(data) / file
    raise UserError(
        f"{file} is not at hand; name your own, {setting}=FILE, or say where the data "
        f"are: LMPARETO_DATA=FOLDER with {file} in it"
    )


def words_in(given: str) -> Sequence[str]:
    """The words of a bundle, or of the dense model of a published study. Raises UserError where its
    tokens are no words."""
    from lmcore.bundle import load  # with torch, which settings are read without

    vocabulary = load(bundle_named(given)).vocabulary
    if vocabulary.kind != "words":
        raise UserError(
            f"corpus.vocabulary: {given} has {vocabulary.noun}, and the texts of a task are words"
        )
    return vocabulary.words
