"""What works on a study's slots, whatever their kind: claim one, do its job, until none is left.

A worker may lose its slot: it was suspended or cut off for longer than its lease, and another
worker took the slot over. It then drops its job and claims another slot.
"""

from __future__ import annotations

import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from time import sleep, time
from typing import Generic, TypeVar

from lmcore.errors import DiskError, UserError, is_out_of_memory
from lmcore.progress import DivergedError, TrainingRecord
from lmcore.recipe import Recipe
from lmcore.runtime import prepare
from lmcore.task import PERPLEXITY, Measure
from search.bench.workbench import Workbench
from search.config import EffortConfig
from search.describe import failure_line
from search.measurement import Measurement
from search.process import imported, interruptible, orphaned
from search.store.outage import AWAY, GoneError, Patience
from search.store.slots import Slot
from search.study.context import WorkContext
from search.terminal import quiet_optuna
from search.units import format_size
from search.work.alive import WORKERS, alive, free_the_dead
from search.work.lease import FAILED, Lease

IDLE_SECONDS = 0.5  # between looks for slots that others release
C = TypeVar("C", bound=EffortConfig)


class StoppedError(Exception):
    """The worker was asked to end. Its job stays as it is, and another worker goes on with it."""


class LostError(Exception):
    """The slot is another worker's now, because this one did not renew its lease in time."""


def run_process(config: C, made: Callable[[WorkContext[C], threading.Event], Claimant[C]]) -> None:
    """Run a worker as the main function of its process. Exits with 1 for a person's error, with 130
    when interrupted."""
    imported()
    quiet_optuna()
    prepare(config.threads)
    stop = threading.Event()
    try:
        with interruptible(stop):
            made(waiting(config, stop), stop).run()
    except KeyboardInterrupt:
        sys.exit(130)
    except GoneError:
        sys.exit(1)  # whoever started the worker looks more often, and says so once for all
    except UserError as error:
        print(f"lmpareto: {error}", file=sys.stderr)
        sys.exit(1)


def waiting(config: C, stop: threading.Event) -> WorkContext[C]:
    """A worker's context. It waits for a database that is away, until the worker is to end."""
    storage = config.storage
    patience = Patience(storage.lease, storage.shown, lambda: stop.is_set() or orphaned())
    return WorkContext(config, patience)


class Claimant(ABC, Generic[C]):
    """Does the jobs of a study's slots.

    `name` is unique. Setting `stop` ends the worker after the current update. `deadline`, in
    seconds since 1970, is when it claims no more slots.
    """

    bench: Workbench

    def __init__(
        self,
        context: WorkContext[C],
        name: str,
        stop: threading.Event,
        deadline: float | None = None,
    ) -> None:
        self.context, self.patiently, self.config = context, context.patiently, context.config
        self.name, self.stop, self.deadline = name, stop, deadline
        self.store, self.slots = context.store, context.slots
        self.folder = context.config.folder / WORKERS

    @abstractmethod
    def do(self, slot: Slot) -> str | None:
        """Do the job of the slot. Returns the outcome for people, None where the slot is to be left
        to others. May raise StoppedError and LostError."""

    @property
    def exhausted(self) -> bool:
        """Whether the worker has no job for any slot."""
        return False

    def end(self) -> None:
        """Called when no slot is left."""

    def run(self) -> None:
        """Work until no slot is left, the deadline is over, or `stop` is set."""
        with alive(self.folder, self.name):
            self.patiently(free_the_dead, self.folder, self.slots)
            while not self._stopping() and not self.exhausted:
                if self.deadline is not None and time() > self.deadline:
                    return
                slot = self.patiently(self.slots.claim, self.name)
                if slot is not None:
                    self._take(slot)
                elif self.patiently(self.slots.open):
                    sleep(IDLE_SECONDS)  # others work on the last slots and may still die
                    self.patiently(free_the_dead, self.folder, self.slots)
                else:
                    self.end()
                    return

    def _take(self, slot: Slot) -> None:
        self.lease = Lease(self.slots, slot, self.name)
        try:
            with self.lease.held():
                outcome = self.do(slot)
            if outcome is None:
                self.patiently(self.slots.leave, slot, self.name)
            else:
                self.patiently(self.slots.finish, slot, self.name, outcome)
        except LostError:
            pass
        except StoppedError:
            self.patiently(self.slots.leave, slot, self.name)
        except UserError:  # as for a full disk: the job is not to blame
            with suppress(*AWAY):
                self.slots.leave(slot, self.name)
            raise

    def measured(
        self, recipe: Recipe, goes_on: bool = False
    ) -> tuple[Measurement | None, str | None]:
        """The recipe's measurement, stored or made now; or None, and why there is none."""
        known = self.patiently(self.store.measurement, self.bench.key(recipe))
        if known:
            return known, None
        measured, failure = self.attempted(
            lambda: self.bench.measure(recipe, self.observe, goes_on)
        )
        if measured:
            self.patiently(self.store.keep, measured)
        return measured, failure

    def attempted(self, make: Callable[[], Measurement]) -> tuple[Measurement | None, str | None]:
        """What `make` makes in at most `attempts` attempts; or None, and why it makes nothing."""
        failure = None
        for _ in range(self.config.attempts):
            try:
                return make(), None
            except (StoppedError, LostError, DiskError):
                raise
            except DivergedError as error:
                return None, f"diverged: {error}"  # no use to try again
            except UserError as error:
                return None, str(error)
            except Exception as error:
                # one broken recipe must not end a long search; its traceback is stored with it
                failure = _reason(error)
        return None, failure

    def observe(self, record: TrainingRecord, updates: int) -> None:
        """Called after each update. Raises where the worker is to end, or has lost its slot."""
        if self._stopping():
            raise StoppedError
        if self.lease.lost:
            raise LostError
        self.lease.fraction = record.updates / updates

    def _stopping(self) -> bool:
        return self.stop.is_set() or orphaned()


def outcome_of(
    measured: Measurement | None, failure: str | None, measure: Measure = PERPLEXITY
) -> str:
    """What is said of a slot that is done."""
    if measured is None:
        return f"{FAILED}{failure_line(failure)}"
    return f"{format_size(measured.size_bytes)}, {measure.said(measured.valid_measure)}"


def died(slot: Slot) -> str:
    """What is said of a slot whose workers died too often."""
    return f"its process died {slot.attempts - 1} times: out of memory?"


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return "out of memory"
    return "".join(traceback.format_exception(error))
