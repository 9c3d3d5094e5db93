"""The front as pictures."""

from __future__ import annotations

from pathlib import Path

from lmcore.files import check_folder
from search.commands.answer import Answer
from search.config import PlotConfig
from search.show.page import draw
from search.show.plane import record_of
from search.show.plots import figure
from search.study.context import StudyContext
from search.study.results import results_of

Config = PlotConfig


def run(config: PlotConfig) -> Answer:
    context = StudyContext(config)
    results = results_of(context)
    folder = Path(config.to) if config.to else config.folder / "plots" / context.name
    check_folder(folder)
    drawn = record_of(results.front, results.corpus, results.beside, results.predicted)
    files = [str(path) for path in draw(figure(drawn), folder, "front")]
    return Answer({"study": context.name, "files": files}, "\n".join(files))
