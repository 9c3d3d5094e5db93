"""The answer of a command, and what several commands have in common."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

from lmcore.errors import UserError
from search.config import StudyConfig
from search.study.context import StudyContext
from search.study.study import Progress, progress


@dataclass(frozen=True)
class Answer:
    """The output of a command: a JSON document for programs, a text for people."""

    document: dict[str, Any]
    text: str


def agreed(yes: bool, question: str) -> bool:
    """Whether the person agrees: by `yes=true`, or at the terminal.

    Raises UserError where there is no terminal to ask at.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} Standard input is no terminal to ask at; yes=true agrees")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def tell_corpus(context: StudyContext[StudyConfig]) -> None:
    """Describe the text on standard error, with what a person should know of it."""
    corpus = context.corpus
    for line in (corpus.describe(), *(f"warning: {remark}" for remark in corpus.remarks)):
        print(line, file=sys.stderr)


def progress_of(context: StudyContext[StudyConfig]) -> Progress:
    """The study's progress towards the trials that its sweeps asked for. `trials` in the settings
    does not matter here. Raises UserError where a trial is damaged in the database."""
    study = context.study
    try:
        done = progress(study, context.slots.total())
    except ValueError:  # what Optuna reads of it is no JSON
        raise UserError(
            f"study {context.name}: a trial is damaged in the database; restore it from a copy"
        ) from None
    repeats, repeats_done = context.slots.repeats()
    return replace(done, repeats=repeats, repeats_done=repeats_done)
