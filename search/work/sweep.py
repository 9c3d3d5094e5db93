"""Run a study with several worker processes on this machine, and replace those that die."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.process import BaseProcess
from typing import ClassVar

import optuna

from lmcore.errors import UserError
from search.bench.dense import DenseCheckpoints
from search.config import EffortConfig, SweepConfig
from search.process import Importing, interruptible
from search.space.space import OWN
from search.store.outage import Patience
from search.store.slots import Ended, Holding, Kind, worker_name
from search.study.beginning import begin
from search.study.context import WorkContext
from search.study.study import bury
from search.work.alive import WORKERS, forget
from search.work.machine import VISIBLE, Machine, crew_of
from search.work.watching import Moment, Watch, label, watching

POLL_SECONDS = 0.5
TELL_SECONDS = 1.0  # between looks at how the sweep stands


def sweep(context: WorkContext[SweepConfig]) -> optuna.Study:
    """Bring the study to `trials` trials in total, or work on it for `max_hours`.

    All settings are checked before any training. The sweep makes the study and its slots, and then
    starts the workers. When a worker dies, its slot is released at once and another worker is
    started. Ctrl-C ends the workers after their current update. The next sweep, or workers
    elsewhere, go on with the trials that were running. Raises UserError for wrong settings, and
    where workers cannot go on.
    """
    checkpoints, machine = begin(context), Machine.here(context.config.device)
    crew = crew_of(context, context.slots.open(), machine)
    if crew.said:
        print(crew.said, file=sys.stderr)
    if crew.workers:
        Crew(context, checkpoints, crew.workers, machine).run()
    if not context.slots.open():
        bury(context.study, context.slots)
    return context.study


class Crew:
    """The workers of a sweep, and what shows how they stand. Each process runs `work`."""

    work: ClassVar = Importing("search.work.worker", "work")
    counted: ClassVar[tuple[Kind, ...]] = ("trial",)  # the slots whose number is shown

    def __init__(
        self,
        context: WorkContext[EffortConfig],
        checkpoints: DenseCheckpoints,
        workers: int,
        machine: Machine,
    ) -> None:
        config, slots = context.config, context.slots
        self.context, self.config, self.slots = context, config, slots
        self.checkpoints, self.deadline = checkpoints, config.deadline
        self.workers, self.machine = workers, machine
        self.spawning = multiprocessing.get_context("spawn")
        self.processes: dict[str, BaseProcess] = {}
        self.stop = threading.Event()
        self.patiently = Patience(config.storage.lease, config.storage.shown, self.stop.is_set)
        self.left = slots.first_open()
        self.said = {(one.kind, one.name) for one in slots.ended()}
        self.total, self.told = slots.open(self.counted), -math.inf
        self.began: set[str] = set()  # the workers that have held a slot
        self.stillborn = 0  # workers in a row that died without ever holding a slot

    def run(self) -> None:
        with interruptible(self.stop), self._watching() as watch:
            try:
                for index in range(self.workers):
                    self._start(index)
                while self.processes:
                    if self.stop.wait(POLL_SECONDS):
                        self._end()
                    if time.monotonic() - self.told >= TELL_SECONDS:
                        self._tell(watch)
                    self._replace()
            finally:
                self._end()
            self._tell(watch)

    def _watching(self) -> AbstractContextManager[Watch]:
        return watching(self.context, self.checkpoints[OWN])

    def _start(self, index: int) -> None:
        name = worker_name()
        # few enough for the pipe's buffer: `start` would wait for a process that imports first
        arguments = (self.config, index, name, self.checkpoints, self.deadline)
        process = self.spawning.Process(
            target=self.work, args=arguments, name=str(index), daemon=True
        )
        with _inherited(self.machine.gpu(index)):
            process.start()
        self.processes[name] = process

    def _replace(self) -> None:
        """Release the slots of each worker that has died, and start another worker."""
        for name, process in list(self.processes.items()):
            if process.is_alive():
                continue
            del self.processes[name]
            if process.exitcode == 0 or self.stop.is_set():
                continue
            self.began |= {one.worker for one in self.patiently(self.slots.held)}
            self.patiently(self.slots.free, name)
            forget(self.config.folder / WORKERS, name)
            if process.exitcode == 1:
                raise UserError("a worker cannot go on; its message is above")
            self.stillborn = 0 if name in self.began else self.stillborn + 1
            if self.stillborn >= self.config.attempts:
                raise UserError(
                    f"{self.stillborn} workers in a row died at their start "
                    f"(exit code {process.exitcode})"
                )
            self._start(int(process.name))

    def _end(self) -> None:
        """Ask the workers that are left to end, and wait for them."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join()

    def _tell(self, watch: Watch) -> None:
        """Show how the work stands, and say a line for each slot that has just ended."""
        self.told = time.monotonic()
        left = self.patiently(self.slots.first_open)
        held = self.patiently(self.slots.held, self.slots.kinds)
        self.began |= {one.worker for one in held}
        ended = self._just_ended(left)
        for one in ended:
            if one.outcome:
                watch.say(f"{self.label(one)}: {one.outcome}")
        still_open = sum(left.get(kind, (0, ""))[0] for kind in self.counted)
        begun = sum(one.fraction for one in held if one.kind in self.counted)
        ours = {name: f"worker {process.name}" for name, process in self.processes.items()}
        moment = Moment(self.total - still_open + begun, self.total, held, ended, ours)
        self.patiently(watch.show, moment)

    def _just_ended(self, left: dict[Kind, tuple[int, str]]) -> list[Ended]:
        """The slots that have ended since the last call, given those that were `left` before now.

        There may be thousands that are done, so these are only read where others are left than at
        the last call, and from the first one on that was left then.
        """
        if left == self.left:
            return []
        _, first = self.left.get("trial", (0, ""))
        self.left = left
        ended = [
            one
            for one in self.patiently(self.slots.ended, first)
            if (one.kind, one.name) not in self.said
        ]
        self.said |= {(one.kind, one.name) for one in ended}
        return ended

    def label(self, one: Ended | Holding) -> str:
        """What a slot is called on the screen and in the log."""
        return label(one)


@contextmanager
def _inherited(gpu: str | None) -> Iterator[None]:
    """Inside the block, a process that starts sees that GPU alone, where it is one, and ignores
    Ctrl-C until it has its own handler."""
    visible = os.environ.get(VISIBLE)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        os.environ.pop(VISIBLE, None)
        if visible is not None:
            os.environ[VISIBLE] = visible
