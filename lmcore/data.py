"""What a task is learned from and measured on: three splits over one vocabulary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import BeforeValidator, SerializeAsAny

from lmcore.errors import UserError
from lmcore.files import absolute_file
from lmcore.settings import Family, PathText
from lmcore.spelling import Spelling
from lmcore.task import LANGUAGE, Measure, Task
from lmcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from lmcore.training_settings import TrainingSettings

SPLITS = ("train", "valid", "test")
Split = Literal["train", "valid", "test"]


class CorpusSettings(Family):
    """Where a task's data come from. `files` names the settings that are paths, `nameable` those
    that are a path or the name of something known."""

    files: ClassVar[tuple[str, ...]] = ()
    nameable: ClassVar[tuple[str, ...]] = ()
    task: ClassVar[Task] = LANGUAGE

    @property
    def places(self) -> dict[str, str]:
        """Setting -> path, for the paths that are given."""
        given = {name: getattr(self, name) for name in self.files}
        return {name: path for name, path in given.items() if path is not None}

    def absolute(self) -> Self:
        """The same settings with paths that do not depend on the folder they are typed in."""
        places = {name: str(Path(path).absolute()) for name, path in self.places.items()}
        given = {name: getattr(self, name) for name in self.nameable}
        named = {name: absolute_file(path) for name, path in given.items() if path is not None}
        return self.model_copy(update={**places, **named})

    @abstractmethod
    def load(self, cache: Path) -> Data:
        """The data; `cache` is the folder for downloads. Raises UserError for what is missing or
        wrong in the files."""


AnyCorpus = Annotated[SerializeAsAny[CorpusSettings], BeforeValidator(CorpusSettings.pick)]


def measure_of(kind: str) -> Measure:
    """The measure on data of a kind; perplexity on those of another program."""
    found = CorpusSettings.members.get(kind, CorpusSettings)
    return cast("type[CorpusSettings]", found).task.measure


class OwnText(CorpusSettings):
    """Anybody's own files: three, or one that is split 80/10/10 by lines."""

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


@dataclass(frozen=True)
class Data(ABC):
    """Three splits over one vocabulary. `remarks` are sentences that a person should read before a
    network is trained on them."""

    name: str
    vocabulary: Vocabulary
    train: Any
    valid: Any
    test: Any
    remarks: tuple[str, ...] = ()

    @property
    @abstractmethod
    def key(self) -> str:
        """Hash of the content."""

    def split(self, name: str) -> Any:
        """What a network of the task takes as examples."""
        return getattr(self, name)

    @abstractmethod
    def tokens(self, split: str) -> int:
        """How many tokens the split has."""

    @property
    @abstractmethod
    def naive(self) -> float:
        """The value of the task's measure on the validation split where only frequencies in the
        training split are known."""

    @abstractmethod
    def check(self, training: TrainingSettings, where: str) -> None:
        """Raises UserError where the training split is too small for one update, and for what its
        networks cannot do. `where` is the settings' name as a person knows it."""

    @abstractmethod
    def describe(self) -> str:
        """A line for people."""

    def spelling(self, split: str) -> Spelling | None:
        """What the tokens of a split spell; None where they are words."""
        return None

    def bits_per_byte(self, split: str, perplexity: float) -> float | None:
        """That of a model with this perplexity on a split; None where the tokens are words."""
        spelling = self.spelling(split)
        return spelling.bits_per_byte(perplexity) if spelling else None
