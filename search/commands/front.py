"""The front as a table, in a terminal with its plane above; of several studies, the best models of
limits."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lmcore.data import measure_of
from lmcore.errors import UserError
from search.commands.answer import Answer
from search.config import PUBLISHED, FrontConfig
from search.show.headline import (
    Headline,
    headline,
    headline_document,
    headline_text,
    read_tested,
)
from search.show.literature import literature_points
from search.show.plane import record_of
from search.show.scatter import WIDTH, scatter
from search.show.tables import front_document, front_table
from search.study.begun import BEGUN, CORPUS
from search.study.context import StudyContext
from search.study.history import history_of
from search.study.published import attributes_in, bundles_in, folder_of
from search.study.results import Results
from search.study.sureness import sureness_of

Config = FrontConfig


def run(config: FrontConfig) -> Answer:
    if config.studies:
        found = _headline(config)
        return Answer(headline_document(found), headline_text(found))
    history = history_of(StudyContext(config))
    results, sure = history.results, sureness_of(history)
    table = front_table(results.front, results.beside, sure, results.limits)
    drawn = sys.stdout.isatty() if config.scatter == "auto" else config.scatter
    text = f"{_scatter(results)}\n\n{table}" if drawn else table
    return Answer(front_document(results.front, results.beside, sure, results.limits), text)


def _scatter(results: Results) -> str:
    width = WIDTH
    if sys.stdout.isatty():
        width = min(WIDTH, shutil.get_terminal_size().columns)
    ascii = not (sys.stdout.encoding or "").lower().startswith("utf")
    record = record_of(results.front, results.corpus, results.beside)
    return "\n".join(scatter(record, width, ascii=ascii))


def _headline(config: FrontConfig) -> Headline:
    """The best models of the limits among published studies. Raises UserError where one is not
    published, where they are of different texts, and where there are no limits."""
    folders = {name: _published(name) for name in config.names}
    kept = {name: attributes_in(folder) for name, folder in folders.items()}
    kinds = {one.get(CORPUS, config.corpus.kind) for one in kept.values()}
    texts = {one[BEGUN]["corpus"] for one in kept.values() if "corpus" in one.get(BEGUN, {})}
    if len(kinds) > 1 or len(texts) > 1:
        raise UserError(
            f"{', '.join(folders)} are studies of different texts or vocabularies, whose "
            f"numbers do not compare"
        )
    limits = dict(config.bundles)
    for folder in folders.values() if not limits else ():
        limits |= bundles_in(folder)
    if not limits:
        raise UserError("bundles: give the limits, as in 'bundles={0.5MB: 0.5 MB, 1MB: 1 MB}'")
    (kind,) = kinds
    measure = measure_of(kind)
    models = [one for name, folder in folders.items() for one in read_tested(name, folder, measure)]
    return headline(models, limits, literature_points(kind), measure)


def _published(name: str) -> Path:
    if folder := folder_of(name):
        return folder
    raise UserError(
        f"study {name} is not published, and its numbers on the test split are computed then: "
        f"lmpareto publish study={name} to={PUBLISHED / name}"
    )
