"""What a task is learned from and measured on: three splits over one vocabulary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from lmcore.vocabulary import Vocabulary

SPLITS = ("train", "valid", "test")
Split = Literal["train", "valid", "test"]


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

    @abstractmethod
    def describe(self) -> str:
        """A line for people."""
