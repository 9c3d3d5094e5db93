"""The front as a table."""

from __future__ import annotations

from search.commands.answer import Answer
from search.config import ReadingConfig
from search.show.tables import front_document, front_table
from search.study.context import StudyContext
from search.study.history import history_of
from search.study.sureness import sureness_of

Config = ReadingConfig


def run(config: ReadingConfig) -> Answer:
    history = history_of(StudyContext(config))
    results, sure = history.results, sureness_of(history)
    return Answer(
        front_document(results.front, sure), front_table(results.front, results.beside, sure)
    )
