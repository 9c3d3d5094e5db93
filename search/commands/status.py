"""How far a study is; without a study, the list of all."""

from __future__ import annotations

from dataclasses import replace

from search.commands.answer import Answer, progress_of
from search.config import ReadingConfig
from search.show.tables import progress_document, progress_table, progress_text
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
    counts = [progress_of(context.but(name=name)) for name in context.store.studies()]
    return Answer(
        {"studies": [progress_document(one) for one in counts]},
        progress_table(counts) or f"no studies in {context.store.settings.shown}",
    )
