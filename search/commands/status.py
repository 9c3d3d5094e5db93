"""How far a study is; without a study, the list of all."""

from __future__ import annotations

from dataclasses import replace

from lmcore.errors import UserError
from search.commands.answer import Answer, progress_of
from search.config import ReadingConfig
from search.show.tables import progress_document, progress_line, progress_text
from search.store.outage import AwayError
from search.study.context import StudyContext
from search.study.history import history_of
from search.study.results import published_of

Config = ReadingConfig


def run(config: ReadingConfig) -> Answer:
    context = StudyContext(config)
    if config.name is not None:
        if published_of(context) is not None:
            done = history_of(context).progress
            wanted, _ = context.slots.repeats()
            done = replace(done, repeats=max(wanted, done.repeats))
            return Answer(progress_document(done), progress_text(done, workers=0))
        done = progress_of(context)
        at_work = len(context.slots.held(context.slots.kinds))
        return Answer(progress_document(done), progress_text(done, max(1, at_work)))
    listed = [_listed(context, name) for name in context.store.studies()]
    return Answer(
        {"studies": [one.document for one in listed]},
        "\n".join(one.text for one in listed) or f"no studies in {context.store.settings.shown}",
    )


def _listed(context: StudyContext[ReadingConfig], name: str) -> Answer:
    """The line of a study in the list of all; of a damaged one, what is wrong with it."""
    try:
        done = progress_of(context.but(name=name))
    except AwayError:
        raise
    except UserError as error:
        return Answer({"study": name, "error": str(error)}, f"{name}: {error}")
    return Answer(progress_document(done), progress_line(done))
