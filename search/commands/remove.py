"""Delete a study from the database."""

from __future__ import annotations

from search.commands.answer import Answer, agreed, progress_of
from search.config import AgreedConfig
from search.study.context import StudyContext, WorkContext
from search.work.alive import WORKERS, free_the_dead

Config = AgreedConfig


def run(config: AgreedConfig) -> Answer:
    found = progress_of(StudyContext(config))
    context = WorkContext(config)
    of = f"study {context.name} with {found.finished} trials in {context.store.settings.shown}"
    removed = agreed(config.yes, f"Remove {of}?")
    if removed:
        free_the_dead(config.folder / WORKERS, context.slots)
        context.store.remove(context.slots)
    document = {"study": context.name, "trials": found.finished, "removed": removed}
    return Answer(document, f"{'removed' if removed else 'left as it is:'} {of}")
