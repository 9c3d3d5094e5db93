"""A worker: claims slots of a study and measures their trials and baselines, until none is left."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from search.bench.dense import DENSE, DenseCheckpoints
from search.bench.fitting import Fitted, Fitter
from search.bench.workbench import Laps, Workbench
from search.config import WorkConfig
from search.measurement import Measurement, best_of
from search.rules.fidelity import best_so_far
from search.space.space import OWN
from search.store.slots import Slot
from search.study.beginning import join
from search.study.context import WorkContext
from search.study.note import TrialNote
from search.study.prediction import Prediction
from search.study.study import bury, live_trial, orphans, sampler, values_of
from search.work.claiming import Claimant, LostError, died, outcome_of, run_process

MOST_REPEATS = 20  # known recipes proposed in a row, after which a worker gives up


def work(
    config: WorkConfig,
    index: int,
    name: str,
    checkpoints: DenseCheckpoints,
    deadline: float | None,
) -> None:
    """The main function of a worker's process."""
    run_process(config, lambda ctx, stop: Worker(ctx, index, name, checkpoints, stop, deadline))


class Worker(Claimant[WorkConfig]):
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
        super().__init__(context, name, stop, deadline)
        self.index, self.seeded = index, False
        self.space, self.limits = context.space, context.config.limits
        self.checkpoints, self.benches = checkpoints, dict[str, Workbench]()
        self.fitters: dict[str, Fitter] = {}
        self._start_from(OWN)
        self.box = context.box(checkpoints[OWN])
        self.fidelity = context.config.fidelity.within(context.config.box)
        self.study = self.patiently(join, context)
        self.prediction = self.patiently(Prediction.of, context, checkpoints[OWN], self.limits)
        self.started = len(self.patiently(self.study.get_trials, deepcopy=False))
        self.repeats = 0

    @property
    def exhausted(self) -> bool:
        """Whether the sampler proposes what is known, again and again."""
        return self.repeats >= MOST_REPEATS

    def run(self) -> None:
        super().run()
        if self.exhausted:
            print(
                f"{self.config.study}: the last {MOST_REPEATS} recipes proposed were known; "
                f"the space may have no other",
                file=sys.stderr,
            )

    def end(self) -> None:
        self.patiently(bury, self.study, self.slots)

    def _start_from(self, dense: str) -> None:
        """Set `bench` to that of a dense model. Each model is loaded when it is first needed."""
        if dense not in self.benches:
            self.benches[dense] = self.context.bench(self.checkpoints[dense])
            most, space = self.limits.max_size_bytes, self.space.models.get(dense)
            if most is not None and space:
                self.fitters[dense] = Fitter(space, self.benches[dense], most)
        self.bench = self.benches[dense]

    def do(self, slot: Slot) -> str | None:
        try:
            return self._baseline(slot) if slot.kind == "baseline" else self._trial(slot)
        except UpdateFinishedTrialError:  # another finished the trial
            return None

    # --- a baseline ----------------------------------------------------------------------------

    def _baseline(self, slot: Slot) -> str:
        dense = slot.name if slot.name in self.config.models else OWN
        recipe = DENSE
        if slot.name in self.config.baselines:
            recipe = parse(Recipe, self.config.baselines[slot.name], f"baselines.{slot.name}")
        self._start_from(dense)
        model = self.context.shape_of(dense)
        measured, failure = self.measured(resolve(recipe, model, self.context.words))
        if measured:
            self.patiently(self.store.keep_baseline, self.config.study, slot.name, measured.key)
        return outcome_of(measured, failure, self.config.corpus.task.measure)

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
            laps = Laps()
            current = trial or self._asked(slot)
            laps.end("ask")
            fitted = self.patiently(self._fitted, current)
            laps.end("fit")
            ladder = self.config.fidelity.ladder(fitted.recipe)
            if not fitted.fits:
                ladder = [fitted.recipe.model_copy(update={"finetuning": None})]
            if not self.patiently(self._repeats, current, ladder[-1]):
                self.repeats = 0
                return self._climb(current, slot, ladder, fitted.moved, laps.seconds)
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
            self.patiently(self._follow)
            trial = self.patiently(self.study.ask)
            if self.patiently(self.slots.fill, slot, self.name, trial.number):
                return trial
            if not self.patiently(self.slots.renew, slot, self.name, 0.0):
                raise LostError

    def _follow(self) -> None:
        looks = self.store.looks(self.config.study) if self.prediction.front else []
        self.prediction.follow(self.study, looks)

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
            return fitter.fit(row, self.observe)
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
                    self._constrain(trial, row.values)
                self._tell(trial.number, row.values)
                return True
        return False

    def _climb(
        self,
        trial: optuna.trial.Trial,
        slot: Slot,
        ladder: list[Recipe],
        moved: Mapping[str, Any],
        seconds: Mapping[str, float],
    ) -> str:
        """Measure the trial rung by rung, and tell Optuna the values of its best file."""
        files, failure = list[Measurement](), None
        if slot.attempts > self.config.attempts:
            failure = died(slot)
        else:
            files, failure = self._measured_rungs(trial.number, ladder)
        best = best_of(files) if files else None
        wanted = ladder[-1]
        ours = TrialNote(
            self.bench.key(wanted),
            wanted.plain(),
            moved=dict(moved),
            failure=failure,
            last_rung=len(ladder) - 1,
            seconds=dict(seconds),
        )
        if best:
            ours = replace(ours, key=best.key, recipe=best.recipe)
        if self.lease.lost:
            raise LostError
        self.patiently(ours.write, trial)
        values = values_of(best, self.config.objectives) if best else None
        if values:
            self.patiently(self._constrain, trial, values)
        self.patiently(self._tell, trial.number, values)
        return outcome_of(best, failure, self.config.corpus.task.measure)

    def _constrain(self, trial: optuna.trial.Trial, values: Sequence[float]) -> None:
        size_bytes, perplexity, *_ = values
        for limit in (self.limits, *([self.box] if self.box else [])):
            for name, broken in limit.constraints(size_bytes, perplexity).items():
                trial.set_constraint(name, broken)

    def _measured_rungs(
        self, trial: int, ladder: list[Recipe]
    ) -> tuple[list[Measurement], str | None]:
        """The measurements of the trial's files, rung by rung, and why the next rung failed, None
        where none did."""
        files: list[Measurement] = []
        for rung, recipe in enumerate(ladder):
            goes_on = rung + 1 < len(ladder)
            measured, failure = self.measured(recipe, goes_on)
            if measured is None:
                return files, failure
            files.append(measured)
            self.patiently(self.store.keep_rung, self.config.study, trial, rung, measured.key)
            if goes_on and not self.patiently(self._goes_on, trial, rung, measured):
                break
        return files, None

    def measured(
        self, recipe: Recipe, goes_on: bool = False
    ) -> tuple[Measurement | None, str | None]:
        """As for every claimant, with its relative speed where the study asks for it: another study
        may have measured the recipe without."""
        measured, failure = super().measured(recipe, goes_on)
        if measured is None or measured.relative_speed or not self.config.has_speed:
            return measured, failure
        file = measured
        timed, failure = self.attempted(lambda: self.bench.timed(file, self.observe, goes_on))
        if timed is None or timed.relative_speed is None:
            return None, failure
        self.patiently(self.store.keep_speed, timed.key, timed.relative_speed)
        # another worker may have timed it at the same moment, and the first one counts
        return self.patiently(self.store.measurement, timed.key), None

    def _goes_on(self, trial: int, rung: int, measured: Measurement) -> bool:
        if self.limits.too_large(measured.size_bytes):
            return False
        if self.box and not self.box.holds_size(measured.size_bytes):
            return False
        looks = best_so_far(self.store.looks(self.config.study, speed=self.config.has_speed))
        if any(look.trial == trial and look.rung > rung for look in looks):
            return True  # an earlier worker of this trial decided so
        (mine,) = (look for look in looks if (look.trial, look.rung) == (trial, rung))
        if self.box:
            looks = [look for look in looks if self.box.holds_size(look.size_bytes)]
        own = self.checkpoints[OWN]
        return self.fidelity.goes_on(mine, looks, (own.size_bytes, own.valid_measure))

    def _tell(self, number: int, values: list[float] | None) -> None:
        state = None if values else TrialState.FAIL
        # an earlier attempt may have told it and lost the answer
        self.study.tell(number, values, state=state, skip_if_finished=True)

    def _row(self, number: int) -> optuna.trial.FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]
