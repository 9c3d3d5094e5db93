"""Run a study's trials, or go on with them."""

from __future__ import annotations

import sys

from search.commands.answer import Answer, progress_of, tell_corpus
from search.config import SweepConfig
from search.describe import command_line
from search.show.tables import front_document, front_table, progress_document, progress_text
from search.study.context import WorkContext
from search.study.history import history_of
from search.study.results import published_of
from search.study.sureness import sureness_of
from search.work.machine import Machine, crew_of
from search.work.sweep import sweep

Config = SweepConfig


def run(config: SweepConfig) -> Answer:
    context = WorkContext(config)
    storage = context.store.settings
    print(f"study {context.name} in {storage.shown}", file=sys.stderr)
    if published := published_of(context):
        print(
            f"{published} has a study of this name, too. Commands show the new one from now on; "
            f"{command_line('remove', context.name)} brings the published one back, name=NEW "
            f"keeps both",
            file=sys.stderr,
        )
    tell_corpus(context)
    sweep(context)
    done, history = progress_of(context), history_of(context)
    results, sure = history.results, sureness_of(history)
    crew = crew_of(context, done.left, Machine.here(config.device))
    shown = results.front, results.beside, sure, results.limits
    return Answer(
        {**progress_document(done), **front_document(*shown)},
        f"{progress_text(done, crew.workers)}\n{front_table(*shown)}",
    )
