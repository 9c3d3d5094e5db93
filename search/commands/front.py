"""The front as a table, in a terminal with its plane above."""

from __future__ import annotations

import shutil
import sys

from search.commands.answer import Answer
from search.config import FrontConfig
from search.show.plane import record_of
from search.show.scatter import WIDTH, scatter
from search.show.tables import front_document, front_table
from search.study.context import StudyContext
from search.study.history import history_of
from search.study.results import Results
from search.study.sureness import sureness_of

Config = FrontConfig


def run(config: FrontConfig) -> Answer:
    history = history_of(StudyContext(config))
    results, sure = history.results, sureness_of(history)
    table = front_table(results.front, results.beside, sure)
    drawn = sys.stdout.isatty() if config.scatter == "auto" else config.scatter
    text = f"{_scatter(results)}\n\n{table}" if drawn else table
    return Answer(front_document(results.front, sure), text)


def _scatter(results: Results) -> str:
    width = WIDTH
    if sys.stdout.isatty():
        width = min(WIDTH, shutil.get_terminal_size().columns)
    ascii = not (sys.stdout.encoding or "").lower().startswith("utf")
    record = record_of(results.front, results.corpus, results.beside)
    return "\n".join(scatter(record, width, ascii=ascii))
