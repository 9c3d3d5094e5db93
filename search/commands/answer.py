"""What a command answers, and what several commands say alike."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from search.config import StudyConfig
from search.study.context import StudyContext
from search.study.study import Progress, progress


@dataclass(frozen=True)
class Answer:
    """What a command has to say, for programs and for people."""

    document: dict[str, Any]
    text: str


def tell_corpus(context: StudyContext[StudyConfig]) -> None:
    """Say on standard error what the text is."""
    print(context.corpus.describe(), file=sys.stderr)


def progress_of(context: StudyContext[StudyConfig]) -> Progress:
    """How far the study is, of the trials that sweeps asked for, whatever the settings say now."""
    return progress(context.study, context.slots.total())
