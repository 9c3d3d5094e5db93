"""A worker: claims slots of a study and measures their trials and baselines, until none is left.

A worker may lose its slot: it was suspended or cut off for longer than its lease, and another
worker took the slot over. It then drops its trial and claims another slot.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from time import sleep, time
from typing import Any, TypeVar

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from lmcore.errors import DiskError, UserError, is_out_of_memory
from lmcore.progress import DivergedError, TrainingRecord
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import prepare
from lmcore.settings import parse
from search.bench.dense import DENSE, DenseCheckpoints
from search.bench.fitting import Fitted, Fitter
from search.bench.workbench import Workbench
from search.config import WorkConfig
from search.measurement import Measurement, best_of
from search.process import imported, interruptible, orphaned
from search.rules.fidelity import best_so_far
from search.space.space import OWN
from search.store.outage import AWAY, GoneError, Patience
from search.store.slots import Slot
from search.study.beginning import join
from search.study.context import WorkContext
from search.study.note import TrialNote
from search.study.study import bury, live_trial, orphans, sampler
from search.terminal import quiet_optuna
from search.units import format_size
from search.work.alive import WORKERS, alive, free_the_dead
from search.work.lease import FAILED, Lease

MOST_REPEATS = 20  # known recipes proposed in a row, after which a worker gives up
IDLE_SECONDS = 0.5  # between looks for slots that others release


W = TypeVar("W", bound=WorkConfig)


class StoppedError(Exception):
    """The worker was asked to end. Its trial stays as it is, and another worker goes on with it."""


class LostError(Exception):
    """The slot is another worker's now, because this one did not renew its lease in time."""


def work(
    config: WorkConfig,
    index: int,
    name: str,
    checkpoints: DenseCheckpoints,
    deadline: float | None,
) -> None:
    """The main function of a worker's process. Exits with 1 for a person's error, with 130 when
    interrupted."""
    imported()
    quiet_optuna()
    prepare(config.threads)
    stop = threading.Event()
    try:
        with interruptible(stop):
            Worker(waiting(config, stop), index, name, checkpoints, stop, deadline).run()
    except KeyboardInterrupt:
        sys.exit(130)
    except GoneError:
        sys.exit(1)  # the sweep looks more often, and says so once for all workers
    except UserError as error:
        print(f"lmpareto: {error}", file=sys.stderr)
        sys.exit(1)


def waiting(config: W, stop: threading.Event) -> WorkContext[W]:
    """A worker's context. It waits for a database that is away, until the worker is to end."""
    storage = config.storage
    patience = Patience(storage.lease, storage.shown, lambda: stop.is_set() or orphaned())
    return WorkContext(config, patience)


class Worker:
    """Measures trials of a study.

    `index` numbers the workers of one sweep and decides the sampler's seed; `name` is unique.
    Setting `stop` ends the worker after the current update. `deadline`, in seconds since 1970, is
    when the worker claims no more slots.
    """

    def __init__(
        self,
        context: WorkContext[WorkConfig],
        index: int,
        name: str,
        checkpoints: DenseCheckpoints,
        stop: threading.Event,
        deadline: float | None = None,
    ) -> None:
        self.context, self.patiently = context, context.patiently
        self.name, self.stop, self.deadline = name, stop, deadline
        self.index, self.seeded = index, False
        self.config, self.space, self.limits = context.config, context.space, context.config.limits
        self.checkpoints, self.benches = checkpoints, dict[str, Workbench]()
        self.fitters: dict[str, Fitter] = {}
        self._start_from(OWN)
        self.study = self.patiently(join, context)
        self.store, self.slots = context.store, context.slots
        self.started = len(self.patiently(self.study.get_trials, deepcopy=False))
        self.folder = self.config.folder / WORKERS
        self.repeats = 0

    def run(self) -> None:
        """Work until no slot is left, the deadline is over, or `stop` is set."""
        with alive(self.folder, self.name):
            self.patiently(free_the_dead, self.folder, self.slots)
            while not self._stopping() and self.repeats < MOST_REPEATS:
                if self.deadline is not None and time() > self.deadline:
                    return
                slot = self.patiently(self.slots.claim, self.name)
                if slot is not None:
                    self._take(slot)
                elif self.patiently(self.slots.open):
                    sleep(IDLE_SECONDS)  # others work on the last slots and may still die
                    self.patiently(free_the_dead, self.folder, self.slots)
                else:
                    self.patiently(bury, self.study, self.slots)
                    return
            if self.repeats == MOST_REPEATS:
                print(
                    f"{self.config.study}: the last {MOST_REPEATS} recipes proposed were known; "
                    f"the space may have no other",
                    file=sys.stderr,
                )

    def _start_from(self, dense: str) -> None:
        """Set `bench` to that of a dense model. Each model is loaded when it is first needed."""
        if dense not in self.benches:
            self.benches[dense] = self.context.bench(self.checkpoints[dense])
            most, space = self.limits.max_size_bytes, self.space.models.get(dense)
            if most is not None and space:
                self.fitters[dense] = Fitter(space, self.benches[dense], most)
        self.bench = self.benches[dense]

    def _take(self, slot: Slot) -> None:
        self.lease = Lease(self.slots, slot, self.name)
        try:
            with self.lease.held():
                outcome = self._baseline(slot) if slot.kind == "baseline" else self._trial(slot)
            if outcome is None:
                self.patiently(self.slots.leave, slot, self.name)
            else:
                self.patiently(self.slots.finish, slot, self.name, outcome)
        except LostError:
            pass
        except (StoppedError, UpdateFinishedTrialError):  # or another finished the trial
            self.patiently(self.slots.leave, slot, self.name)
        except UserError:  # as for a full disk: the trial is not to blame
            with suppress(*AWAY):
                self.slots.leave(slot, self.name)
            raise

    # --- a baseline ----------------------------------------------------------------------------

    def _baseline(self, slot: Slot) -> str:
        dense = slot.name if slot.name in self.config.models else OWN
        recipe = DENSE
        if slot.name in self.config.baselines:
            recipe = parse(Recipe, self.config.baselines[slot.name], f"baselines.{slot.name}")
        self._start_from(dense)
        model = self.config.of(dense).model
        measured, failure = self._measured(resolve(recipe, model, self.context.words))
        if measured:
            self.patiently(self.store.keep_baseline, self.config.study, slot.name, measured.key)
        return _outcome(measured, failure)

    # --- a trial -------------------------------------------------------------------------------

    def _trial(self, slot: Slot) -> str | None:
        """Measure the slot's trial. The outcome for people, None where no new recipe was found."""
        self._seed(slot)
        trial = self.patiently(self._left_behind, slot)
        if trial is not None:
            row = self.patiently(self._row, trial.number)
            if row.state.is_finished():  # its worker died before it finished the slot
                if TrialNote.of(row).takes_slot:
                    return ""
                self.patiently(self.slots.vacate, slot, self.name)
                trial = None
        while self.repeats < MOST_REPEATS:
            current = trial or self._asked(slot)
            fitted = self.patiently(self._fitted, current)
            ladder = self.config.fidelity.ladder(fitted.recipe)
            if not fitted.fits:
                ladder = [fitted.recipe.model_copy(update={"finetuning": None})]
            if not self.patiently(self._repeats, current, ladder[-1]):
                self.repeats = 0
                return self._climb(current, slot, ladder, fitted.moved)
            self.patiently(self.slots.vacate, slot, self.name)
            self.repeats += 1
            trial = None
        return None

    def _seed(self, slot: Slot) -> None:
        """Seed the sampler by the worker's index and its first slot, once.

        The index alone would not do: two sweeps at once number their workers alike. No two workers
        hold the same slot.
        """
        if not self.seeded:
            first = f"{self.index}/{slot.name}"
            self.study.sampler = sampler(self.config, first, self.started)
            self.seeded = True

    def _left_behind(self, slot: Slot) -> optuna.trial.Trial | None:
        """The trial that another worker left behind: the one that fills the slot, else an orphan,
        whose worker died before it filled a slot. None where there is neither."""
        if slot.trial is not None:
            return live_trial(self.study, slot.trial)
        for number in orphans(self.study, self.slots, self.name):
            if self.slots.fill(slot, self.name, number):
                return live_trial(self.study, number)
        return None

    def _asked(self, slot: Slot) -> optuna.trial.Trial:
        """A new trial, which fills the slot. On SQLite, two workers that ask at once may be given
        the same trial; one of them then asks again."""
        while True:
            trial = self.patiently(self.study.ask)
            if self.patiently(self.slots.fill, slot, self.name, trial.number):
                return trial
            if not self.patiently(self.slots.renew, slot, self.name, 0.0):
                raise LostError

    def _fitted(self, trial: optuna.trial.Trial) -> Fitted:
        """The recipe of the trial's parameters, moved to fit `max_size`.

        The parameters are read back from the database, because they may differ from those just
        drawn: an earlier attempt may have stored them and lost the answer, or another worker may
        have the same trial.
        """
        self.space.suggest(trial)
        row = self._row(trial.number)
        proposal = self.space.suggest(row)
        self._start_from(proposal.dense)
        if fitter := self.fitters.get(proposal.dense):
            return fitter.fit(row, self._observe)
        return Fitted(proposal.recipe, fits=True)

    def _repeats(self, trial: optuna.trial.Trial, recipe: Recipe) -> bool:
        """Whether another trial has the same recipe. If so, this trial ends as its duplicate: with
        the same values if the other is complete, as failed if the other is still running."""
        asked = self.bench.key(recipe)
        ours = TrialNote(asked, recipe.plain())
        ours.write(trial)  # before the search: of two workers at once, one sees the other
        # complete trials first, since they have values
        wanted = (TrialState.COMPLETE, TrialState.RUNNING)
        rows = self.study.get_trials(deepcopy=False, states=wanted)
        for row in sorted(rows, key=lambda row: wanted.index(row.state)):
            other = TrialNote.of(row)
            # earlier versions trained every trial to its end and stored only `key`
            same = (other.asked or other.key) == asked and row.number != trial.number
            running = row.state == TrialState.RUNNING
            if same and not (running and other.duplicate):
                replace(ours, key=other.key, recipe=other.recipe, duplicate=True).write(trial)
                if row.values:
                    self._constrain(trial, *row.values)
                self._tell(trial.number, row.values)
                return True
        return False

    def _climb(
        self,
        trial: optuna.trial.Trial,
        slot: Slot,
        ladder: list[Recipe],
        moved: Mapping[str, Any],
    ) -> str:
        """Measure the trial rung by rung, and tell Optuna the values of its best file."""
        files, failure = list[Measurement](), None
        if slot.attempts > self.config.attempts:
            failure = f"its process died {slot.attempts - 1} times: out of memory?"
        else:
            files, failure = self._measured_rungs(trial.number, ladder)
        best = best_of(files) if files else None
        wanted = ladder[-1]
        ours = TrialNote(self.bench.key(wanted), wanted.plain(), moved=dict(moved), failure=failure)
        if best:
            ours = replace(ours, key=best.key, recipe=best.recipe)
        if self.lease.lost:
            raise LostError
        self.patiently(ours.write, trial)
        values = [float(best.size_bytes), best.valid_perplexity] if best else None
        if values:
            self.patiently(self._constrain, trial, *values)
        self.patiently(self._tell, trial.number, values)
        return _outcome(best, failure)

    def _constrain(self, trial: optuna.trial.Trial, size_bytes: float, perplexity: float) -> None:
        for name, broken in self.limits.constraints(size_bytes, perplexity).items():
            trial.set_constraint(name, broken)

    def _measured_rungs(
        self, trial: int, ladder: list[Recipe]
    ) -> tuple[list[Measurement], str | None]:
        """The measurements of the trial's files, rung by rung, and why the next rung failed, None
        where none did."""
        files: list[Measurement] = []
        for rung, recipe in enumerate(ladder):
            goes_on = rung + 1 < len(ladder)
            measured, failure = self._measured(recipe, goes_on)
            if measured is None:
                return files, failure
            files.append(measured)
            self.patiently(self.store.keep_rung, self.config.study, trial, rung, measured.key)
            if goes_on and not self.patiently(self._goes_on, trial, rung, measured):
                break
        return files, None

    def _goes_on(self, trial: int, rung: int, measured: Measurement) -> bool:
        if self.limits.too_large(measured.size_bytes):
            return False
        looks = best_so_far(self.store.looks(self.config.study))
        if any(look.trial == trial and look.rung > rung for look in looks):
            return True  # an earlier worker of this trial decided so
        (mine,) = (look for look in looks if (look.trial, look.rung) == (trial, rung))
        own = self.checkpoints[OWN]
        return self.config.fidelity.goes_on(mine, looks, (own.size_bytes, own.valid_perplexity))

    def _tell(self, number: int, values: list[float] | None) -> None:
        state = None if values else TrialState.FAIL
        # an earlier attempt may have told it and lost the answer
        self.study.tell(number, values, state=state, skip_if_finished=True)

    def _row(self, number: int) -> optuna.trial.FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    # --- both ----------------------------------------------------------------------------------

    def _measured(
        self, recipe: Recipe, goes_on: bool = False
    ) -> tuple[Measurement | None, str | None]:
        """The recipe's measurement, stored or made now; or None, and why there is none."""
        known = self.patiently(self.store.measurement, self.bench.key(recipe))
        if known:
            return known, None
        failure = None
        for _ in range(self.config.attempts):
            try:
                measured = self.bench.measure(recipe, self._observe, goes_on)
            except (StoppedError, LostError, DiskError):
                raise
            except DivergedError as error:
                return None, f"diverged: {error}"  # no use to try again
            except UserError as error:
                return None, str(error)
            except Exception as error:
                # one broken recipe must not end a long search; its traceback is stored with it
                failure = _reason(error)
            else:
                self.patiently(self.store.keep, measured)
                return measured, None
        return None, failure

    def _observe(self, record: TrainingRecord, updates: int) -> None:
        if self._stopping():
            raise StoppedError
        if self.lease.lost:
            raise LostError
        self.lease.fraction = record.updates / updates

    def _stopping(self) -> bool:
        return self.stop.is_set() or orphaned()


def _outcome(measured: Measurement | None, failure: str | None) -> str:
    if measured is None:
        return f"{FAILED}{(failure or '').strip().splitlines()[-1]}"
    return f"{format_size(measured.size_bytes)}, perplexity {measured.valid_perplexity:.2f}"


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return "out of memory"
    return "".join(traceback.format_exception(error))
