"""All that a study has to show, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmcore.files import check_folder
from search.commands.answer import Answer, tell_corpus
from search.config import PublishConfig
from search.show.headline import headline_document, headline_text
from search.show.page import write_pictures
from search.show.plane import record_of
from search.show.plots import figure
from search.show.publish import publish
from search.study.context import StudyContext
from search.study.history import history_of

Config = PublishConfig


def run(config: PublishConfig) -> Answer:
    context, folder = StudyContext(config), Path(config.to)
    history = history_of(context)
    results = history.results
    check_folder(folder)
    tell_corpus(context)
    table = publish(context, history, folder)
    drawn = record_of(results.front, results.corpus, results.beside, results.predicted)
    write_pictures(figure(drawn), folder, "front")
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    document: dict[str, Any] = {"study": context.name, "files": files}
    text = "\n".join(files)
    if table is None:
        return Answer(document, text)
    return Answer(
        {**document, "table": headline_document(table)}, f"{text}\n\n{headline_text(table)}"
    )
