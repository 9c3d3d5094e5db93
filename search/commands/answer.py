"""The answer of a command, and what several commands have in common."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from search.config import StudyConfig
from search.study.context import StudyContext
from search.study.study import Progress, progress


@dataclass(frozen=True)
class Answer:
    """The output of a command: a JSON document for programs, a text for people."""

    document: dict[str, Any]
    text: str


def tell_corpus(context: StudyContext[StudyConfig]) -> None:
    """Describe the text on standard error, with what a person should know of it."""
    corpus = context.corpus
    for line in (corpus.describe(), *(f"warning: {remark}" for remark in corpus.remarks)):
        print(line, file=sys.stderr)


def progress_of(context: StudyContext[StudyConfig]) -> Progress:
    """The study's progress towards the trials that its sweeps asked for. `trials` in the settings
    does not matter here."""
    return progress(context.study, context.slots.total())
