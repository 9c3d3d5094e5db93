"""Why a model's matrices compress or do not."""

from __future__ import annotations

from pathlib import Path

from lmcore.bundle import load
from lmcore.files import check_folder
from lmcore.inspection import inspect
from search.commands.answer import Answer, tell_corpus
from search.config import InspectConfig
from search.show.inspection_plots import figure
from search.show.inspection_tables import inspection_document, inspection_table
from search.show.page import write_page
from search.study.context import StudyContext

Config = InspectConfig


def run(config: InspectConfig) -> Answer:
    title, path = config.title, _path(config)
    folder = Path(config.to) if config.to else config.folder / "plots" / (config.name or path.stem)
    check_folder(folder)
    inspection = inspect(load(path))
    files = write_page(figure(inspection, title), folder, "inspect")
    document = {"bundle": str(path), **inspection_document(inspection), "files": files}
    return Answer(document, "\n".join([f"{path}:", inspection_table(inspection), "", *files]))


def _path(config: InspectConfig) -> Path:
    """The file that is inspected."""
    if config.bundle:
        return Path(config.bundle)
    context = StudyContext(config)
    tell_corpus(context)
    return context.need_checkpoint().path
