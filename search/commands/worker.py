"""One worker of a study that was begun, on any machine."""

from __future__ import annotations

import threading

from search.commands.answer import Answer, progress_of, tell_corpus
from search.config import WorkerConfig
from search.process import interruptible
from search.show.tables import progress_document, progress_text
from search.store.slots import worker_name
from search.study.context import WorkContext
from search.work.claiming import waiting
from search.work.worker import Worker

Config = WorkerConfig


def run(config: WorkerConfig) -> Answer:
    context = WorkContext(config)
    tell_corpus(context)
    checkpoints = {name: context.need_checkpoint(name) for name in config.dense_names}
    with interruptible(stop := threading.Event()):
        patient = waiting(config, stop)
        patient.corpus = context.corpus
        asked = patient.but(trials=patient.patiently(lambda: patient.slots.total()))
        Worker(asked, config.worker, worker_name(), checkpoints, stop, config.deadline).run()
    done = progress_of(asked)
    return Answer(progress_document(done), progress_text(done, workers=1))
