"""Tasks: what a network is for, and what it is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """The measure of a task, the lower the better. `unit` is what follows a number of it."""

    name: str
    unit: str = ""

    def number(self, value: float, digits: int = 2) -> str:
        """ "83.29", "5.61%"."""
        return f"{value:.{digits}f}{self.unit}"

    def said(self, value: float, digits: int = 2) -> str:
        """ "perplexity 83.29", "error 5.61%"."""
        return f"{self.name} {self.number(value, digits)}"

    def key(self, split: str) -> str:
        """The name of a number of the split in documents: "valid_perplexity"."""
        return f"{split}_{self.name}"

    @property
    def plural(self) -> str:
        """ "perplexities", "errors"."""
        return f"{self.name[:-1]}ies" if self.name.endswith("y") else f"{self.name}s"

    @property
    def head(self) -> str:
        """The head of a column of bare numbers: "perplexity", "error %"."""
        return f"{self.name} {self.unit}".rstrip()


PERPLEXITY = Measure("perplexity")
ERROR = Measure("error", "%")


def measured_in(document: Mapping[str, Any], split: str) -> Any:
    """The number of the split in a document, by whichever measure it is named; None where there is
    none."""
    names = (measure.key(split) for measure in (PERPLEXITY, ERROR))
    return next((document[name] for name in names if name in document), None)


@dataclass(frozen=True)
class Task:
    """What a network is for: it brings its data and its networks together. Its name is that of its
    file in conf/task."""

    name: str
    measure: Measure


LANGUAGE = Task("language", PERPLEXITY)
TAGGING = Task("tagging", ERROR)
SENTIMENT = Task("sentiment", ERROR)
ENTAILMENT = Task("entailment", ERROR)
READING = Task("reading", ERROR)
