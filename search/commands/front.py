"""The front as a table."""

from __future__ import annotations

from search.commands.answer import Answer
from search.config import ReadingConfig
from search.show.tables import front_document, front_table
from search.study.context import StudyContext
from search.study.results import results_of

Config = ReadingConfig


def run(config: ReadingConfig) -> Answer:
    results = results_of(StudyContext(config))
    return Answer(front_document(results.front), front_table(results.front, results.beside))
