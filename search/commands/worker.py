"""One worker of a study that was begun, on any machine."""

from __future__ import annotations

import threading

from search.commands.answer import Answer, progress_of, tell_corpus
from search.config import WorkerConfig
from search.process import interruptible
from search.show.tables import progress_document, progress_text
from search.store.slots import worker_name
from search.work.worker import Worker, waiting

Config = WorkerConfig


def run(config: WorkerConfig) -> Answer:
    with interruptible(stop := threading.Event()):
        context = waiting(config, stop)
        tell_corpus(context)
        checkpoints = {name: context.need_checkpoint(name) for name in config.dense_names}
        assert context.patience
        trials = context.patience(lambda: context.slots.total())
        wanted = context.but(trials=trials)
        Worker(wanted, config.worker, worker_name(), checkpoints, stop, config.deadline).run()
    done = progress_of(wanted)
    return Answer(progress_document(done), progress_text(done, workers=1))
