"""All that a study has to show, in one folder."""

from __future__ import annotations

from pathlib import Path

from lmcore.files import check_folder
from search.commands.answer import Answer, tell_corpus
from search.config import PublishConfig
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
    publish(context, history, folder)
    drawn = record_of(results.front, results.corpus, results.beside, results.predicted)
    write_pictures(figure(drawn), folder, "front")
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    return Answer({"study": context.name, "files": files}, "\n".join(files))
