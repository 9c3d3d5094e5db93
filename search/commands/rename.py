"""Give a study another name."""

from __future__ import annotations

from search.commands.answer import Answer
from search.config import RenameConfig
from search.study.context import StudyContext, WorkContext
from search.work.alive import WORKERS, free_the_dead

Config = RenameConfig


def run(config: RenameConfig) -> Answer:
    name = StudyContext(config).study.study_name  # an error where there is no such study
    context = WorkContext(config)
    free_the_dead(config.folder / WORKERS, context.slots)
    context.store.rename(context.slots, config.to)
    return Answer({"study": config.to, "before": name}, f"study {name} is now {config.to}")
