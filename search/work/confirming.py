"""Train the points of a front again with other seeds, by several processes and machines."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from lmcore.errors import UserError
from search.bench.dense import DenseCheckpoints
from search.bench.workbench import Workbench, stored_recipe
from search.config import ConfirmConfig
from search.measurement import Measurement
from search.process import Importing
from search.store.repeat_slots import RepeatSlots
from search.store.slots import Ended, Holding, Kind, Slot
from search.study.confirming import Confirmed, Repeat, checkpoints_of, confirmation, seed_of
from search.study.context import WorkContext
from search.study.history import history_of
from search.work.claiming import Claimant, died, outcome_of, run_process
from search.work.machine import Machine, crew_of
from search.work.sweep import Crew
from search.work.watching import Watch, watching_bar


def confirm(context: WorkContext[ConfirmConfig]) -> Confirmed:
    """Train points with `repeats` other seeds each, or work on it for `max_hours`.

    The points are those that the settings name, or those of the front now. What was trained before
    stays and counts. Several of these at once share the work; where they ask for other points or
    repeats, the last one decides. When a worker dies, another goes on with its training. Raises
    UserError for the name of no point, and where a dense model that a point was made from is not at
    hand.
    """
    history = history_of(context)
    wanted = confirmation(history.results, context.config.repeats, context.config.points)
    checkpoints = checkpoints_of(context, wanted.repeats)
    _keep(context, [one.file for one in wanted.repeats])
    _keep(context, [one for every in history.repeats.values() for one in every])
    known = {
        f"{file} {number:04d}"
        for file, numbers in context.store.repeats(context.name).items()
        for number in numbers
    }
    names = [one.slot for one in wanted.repeats]
    done = [name for name in names if name.partition(" ")[2] in known]
    slots = context.slots
    assert isinstance(slots, RepeatSlots)
    context.patiently(slots.provide_repeats, names, done)
    machine = Machine.here(context.config.device)
    crew = crew_of(context, slots.open(), machine)
    if crew.said:
        print(crew.said, file=sys.stderr)
    if crew.workers:
        _ConfirmCrew(context, checkpoints, crew.workers, machine, wanted.repeats).run()
    repeated = context.store.repeats(context.name)
    return Confirmed(
        context.name,
        len(wanted.repeats),
        sum(one.number in repeated.get(one.file.key, {}) for one in wanted.repeats),
        tuple(point.label for point in wanted.untrained),
    )


def _keep(context: WorkContext[ConfirmConfig], measured: Iterable[Measurement]) -> None:
    """Store the measurements that the database lacks: of a published study, it lacks them all.
    Workers look them up by their keys."""
    by_key = {one.key: one for one in measured}
    for key in by_key.keys() - context.store.measurements(list(by_key)).keys():
        context.store.keep(by_key[key])


class _ConfirmCrew(Crew):
    """The workers of a confirmation, and what shows how they stand."""

    work = Importing("search.work.confirming", "work")
    counted: ClassVar[tuple[Kind, ...]] = ("repeat",)

    def __init__(
        self,
        context: WorkContext[ConfirmConfig],
        checkpoints: DenseCheckpoints,
        workers: int,
        machine: Machine,
        repeats: Sequence[Repeat],
    ) -> None:
        super().__init__(context, checkpoints, workers, machine)
        self.labels = {
            one.slot: f"{one.label} with seed {seed_of(one.number, self.config.seed)}"
            for one in repeats
        }

    def _watching(self) -> AbstractContextManager[Watch]:
        title = f"front of {self.config.study} with other seeds"
        return watching_bar(title, "trainings", self.label)

    def label(self, one: Ended | Holding) -> str:
        """ "trial 17 rung 0 with seed 2"."""
        return self.labels.get(one.name, "a point of an earlier front")


def work(
    config: ConfirmConfig,
    index: int,
    name: str,
    checkpoints: DenseCheckpoints,
    deadline: float | None,
) -> None:
    """The main function of a process that confirms. `index` is its number."""
    run_process(config, lambda context, stop: Confirmer(context, name, checkpoints, stop, deadline))


class Confirmer(Claimant[ConfirmConfig]):
    """Trains the recipes of files with other seeds. `checkpoints` are dense models by SHA-256."""

    def __init__(
        self,
        context: WorkContext[ConfirmConfig],
        name: str,
        checkpoints: DenseCheckpoints,
        stop: threading.Event,
        deadline: float | None = None,
    ) -> None:
        super().__init__(context, name, stop, deadline)
        self.checkpoints, self.benches = checkpoints, dict[str, Workbench]()

    def do(self, slot: Slot) -> str | None:
        """Train and measure the recipe of the slot's file with the seed of its number."""
        file, number = Repeat.of_slot(slot.name)
        if slot.attempts > self.config.attempts:
            return outcome_of(None, died(slot))
        measured = self.patiently(self.store.measurement, file)
        dense = str(measured.provenance.get("dense")) if measured else ""
        if measured is None or dense not in self.checkpoints:
            raise UserError(f"the dense model of the file {file} is not at hand here")
        if dense not in self.benches:
            self.benches[dense] = self.context.bench(self.checkpoints[dense])
        recipe = stored_recipe(self.benches[dense], file, measured)
        self.bench = self.benches[dense].reseeded(seed_of(number, self.config.seed))
        again, failure = self.measured(recipe)
        if again:
            self.patiently(self.store.keep_repeat, self.config.study, file, number, again.key)
        return outcome_of(again, failure, self.config.corpus.task.measure)
