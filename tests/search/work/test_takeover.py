"""What a worker makes of what others left, lost or took: each race, step by step in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from lmcore import bundle
from lmcore.errors import DiskError, UserError
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from search.bench.workbench import Workbench
from search.config import SweepConfig
from search.measurement import Measurement
from search.space.space import OWN
from search.store import slots as slots_module
from search.store.settings import StorageSettings
from search.store.slots import Slot, Slots, worker_name
from search.store.store import Store
from search.study.beginning import create
from search.study.context import WorkContext
from search.study.note import TrialNote
from search.study.study import ended_trials, progress
from search.work import claiming
from search.work.claiming import waiting
from search.work.sweep import sweep
from search.work.worker import Worker
from studies import Clock, settings, sweep_here

pytestmark = pytest.mark.slow


def few(tmp_path: Path, **more: Any) -> SweepConfig:
    """A study whose space holds three recipes."""
    bits = {"kind": "linear", "bits": {"choice": [3, 4, 5]}}
    return settings(tmp_path, space={"sites": {"*": {"tie": "all", "bits": bits}}}, **more)


class Begun:
    """A study with its slots, before any worker of its own runs."""

    def __init__(self, config: SweepConfig) -> None:
        self.context = WorkContext(config)
        self.study = create(self.context)
        self.checkpoints = {OWN: self.context.checkpoint()}
        self.slots = self.context.slots
        self.slots.provide([], ended_trials(self.study))

    def worker(self, config: SweepConfig | None = None) -> Worker:
        """A worker with the study's settings, or with others."""
        stop = threading.Event()
        context = waiting(config or self.context.config, stop)
        return Worker(context, 0, worker_name(), self.checkpoints, stop)

    def key(self, data: dict[str, Any]) -> str:
        recipe = resolve(
            parse(Recipe, data, "recipe"), self.context.config.model, self.context.words
        )
        return self.context.bench().key(recipe)

    @property
    def notes(self) -> list[TrialNote]:
        """What is noted of each trial."""
        return [TrialNote.of(row) for row in self.study.trials]

    @property
    def done(self) -> tuple[int, int, int]:
        """Complete, failed and running trials; none is left, and each has its slot."""
        found = progress(self.study, self.context.config.trials)
        assert found.left == 0
        counted = [number for number, note in enumerate(self.notes) if note.takes_slot]
        slots = [one.trial for one in self.slots.ended() if one.kind == "trial"]
        assert sorted(trial or 0 for trial in slots) == counted
        return found.complete, sum(found.failed.values()), found.running


def test_an_equal_recipe_whose_worker_died_before_it_looked_for_another(tmp_path: Path) -> None:
    """It was told, but its slot still has it: a trial more is due."""
    begun = Begun(few(tmp_path, trials=3))
    one = sweep_here(begun.context.config, slots=1)
    slot = begun.slots.claim("dead")
    assert slot
    trial = begun.study.ask()
    TrialNote(duplicate=True).write(trial)
    begun.study.tell(trial, one.study.trials[0].values)
    assert begun.slots.fill(slot, "dead", trial.number)
    begun.slots.free("dead")
    begun.worker().run()
    assert begun.done == (3, 0, 0)


def test_a_trial_that_was_asked_for_in_vain_takes_no_slot(tmp_path: Path) -> None:
    begun = Begun(settings(tmp_path, trials=1))
    begun.worker().run()
    begun.study.ask()  # and its worker died; no slot is left
    sweep(WorkContext(begun.context.config))
    assert [row.state for row in begun.study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert begun.done == (1, 0, 0)
    more = Begun(settings(tmp_path, trials=2))
    more.worker().run()
    assert more.done == (2, 0, 0)


def test_of_two_equal_recipes_at_once_one_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker does what else there is, then waits; meanwhile the other dies."""
    begun = Begun(few(tmp_path, trials=3, start=[{"all.bits.bits": 3}]))
    slot = begun.slots.claim("other")
    assert slot
    other = begun.study.ask()
    key = begun.key({"sites": {"*": {"bits": {"kind": "linear", "bits": 3}}}})
    TrialNote(asked=key).write(other)
    assert begun.slots.fill(slot, "other", other.number)
    begun.study.enqueue_trial({"all.bits.bits": 3})
    waits: list[int] = []

    def sleep(_: float) -> None:
        waits.append(begun.slots.open())
        begun.slots.free("other")

    monkeypatch.setattr(claiming, "sleep", sleep)
    begun.worker().run()
    assert waits == [1]
    assert begun.done == (3, 0, 0)
    assert begun.study.trials[1].state == TrialState.FAIL
    asked = [note.asked for note in begun.notes if note.takes_slot]
    assert len(set(asked)) == 3


def test_an_equal_recipe_that_ends_during_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by 100 kills: who looked for complete trials, then for running ones, saw neither."""
    begun = Begun(few(tmp_path, trials=2, start=[{"all.bits.bits": 3}] * 2))
    slot = begun.slots.claim("other")
    assert slot
    other = begun.study.ask()
    assert begun.slots.fill(slot, "other", other.number)
    recipe = begun.context.space.suggest(other).recipe
    TrialNote(asked=begun.context.bench().key(recipe)).write(other)
    look: Callable[..., Any] = optuna.Study.get_trials

    def looks(study: optuna.Study, *arguments: Any, **named: Any) -> Any:
        seen = look(study, *arguments, **named)
        first, *others = look(begun.study)
        if others and TrialNote.of(others[0]).asked and not first.state.is_finished():
            begun.study.tell(other, [1.0, 2.0])
            assert begun.slots.finish(slot, "other", "")
        return seen

    monkeypatch.setattr(optuna.Study, "get_trials", looks)
    begun.worker().run()
    assert begun.done == (2, 0, 0)
    assert begun.study.trials[0].values == [1.0, 2.0]
    assert [note.duplicate for note in begun.notes[:2]] == [False, True]
    asked = [note.asked for note in begun.notes if note.takes_slot]
    assert len(set(asked)) == 2


# --- answers that are lost -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    ["_create_new_trial", "_set_trial_param", "set_trial_user_attr", "set_trial_state_values"],
)
def test_a_database_that_goes_away_before_it_answers(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did what was asked; the worker asks again, and the study is what it would have been."""
    begun = Begun(settings(tmp_path, trials=3))
    does: Callable[..., Any] = getattr(RDBStorage, method)
    calls = 0

    def forgets(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        done, calls = does(*arguments, **named), calls + 1
        if calls % 3 == 1:
            raise StorageInternalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(RDBStorage, method, forgets)
    begun.worker().run()
    monkeypatch.undo()
    assert calls >= 3
    assert begun.done == (3, 0, 0)
    for row, note in zip(begun.study.trials, begun.notes, strict=True):
        if note.takes_slot:
            recipe = note.recipe
            assert recipe
            assert recipe["finetuning"]["rate"] == row.params["finetuning.rate"]
            assert recipe["sites"]["decoder"]["bits"]["step"] == row.params["all.bits.step"]


# --- what another takes --------------------------------------------------------------------------


def test_a_trial_that_another_finished_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the worker that took it over, or by hand, with one of Optuna's tools."""
    begun = Begun(settings(tmp_path, trials=2))
    measure: Callable[..., Any] = Workbench.measure

    def too_late(*arguments: Any) -> Any:
        if begun.study.trials[0].state == TrialState.RUNNING:
            begun.study.tell(0, [1.0, 2.0])
        return measure(*arguments)

    monkeypatch.setattr(Workbench, "measure", too_late)
    begun.worker().run()
    assert begun.done == (2, 0, 0)
    assert begun.study.trials[0].values == [1.0, 2.0]


def test_a_worker_whose_slot_is_gone_asks_for_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was away for longer than its lease, while it asked: another has the slot by now."""
    begun = Begun(settings(tmp_path, trials=1))
    worker, ask = begun.worker(), optuna.Study.ask

    def late(study: optuna.Study, *rest: Any) -> optuna.Trial:
        begun.slots.free(worker.name)
        slot = begun.slots.claim("other")
        assert slot
        trial = ask(study, *rest)
        assert begun.slots.finish(slot, "other", "")
        return trial

    monkeypatch.setattr(optuna.Study, "ask", late)
    worker.run()
    (row,) = begun.study.trials
    assert row.state == TrialState.FAIL  # it is nobody's, and none is to come
    assert begun.notes[0].surplus


@pytest.mark.parametrize("late", ["fills", "finishes"])
def test_a_slot_whose_worker_is_only_late(
    late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so between the other's look at the slot and its claim."""
    engine, clock = Store(StorageSettings(url=f"sqlite:///{tmp_path}/s.db")).engine, Clock()
    slots = Slots(engine, "mine", 1, lease=60.0, clock=clock)
    slots.provide([], [])
    slot = slots.claim("late")
    assert slot
    clock.now += 61.0
    update = sqlalchemy.update

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.undo()
        assert slots.fill(slot, "late", 5)
        if late == "finishes":
            assert slots.finish(slot, "late", "")
        return update(*arguments)

    monkeypatch.setattr(slots_module, "update", meanwhile)
    expected = Slot("trial", slot.name, 5, 2) if late == "fills" else None
    assert slots.claim("other") == expected


# --- what is no fault of a trial's ---------------------------------------------------------------


def test_a_full_disk_ends_the_worker_and_is_no_attempt_at_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Begun(settings(tmp_path, trials=2))

    def full(path: Path, data: bytes) -> None:
        raise DiskError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(bundle, "write_atomic", full)
    for _ in range(begun.context.config.attempts + 1):
        with pytest.raises(UserError, match="No space left"):
            begun.worker().run()
    monkeypatch.undo()
    begun.worker().run()
    assert begun.done == (2, 0, 0)
    assert len(begun.study.trials) == 2


def test_a_trial_whose_process_dies_too_often_fails_with_that_reason(tmp_path: Path) -> None:
    begun = Begun(settings(tmp_path, trials=2))
    trial = begun.study.ask()
    for attempt in range(begun.context.config.attempts):
        slot = begun.slots.claim(f"dead {attempt}")
        assert slot
        begun.slots.fill(slot, f"dead {attempt}", trial.number)
        begun.slots.free(f"dead {attempt}")
    begun.worker().run()
    assert begun.done == (1, 1, 0)
    assert "its process died 2 times" in (begun.notes[0].failure or "")


def test_a_trial_goes_on_above_the_rungs_that_it_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker died there; by now others are better, and it would not get there again."""
    fidelity = {"kind": "front", "rungs": [0.05], "eta": 4.0}
    swept = sweep_here(settings(tmp_path, trials=4, fidelity=fidelity))
    begun = Begun(settings(tmp_path, trials=6, fidelity=fidelity))
    slot = begun.slots.claim("dead")
    assert slot
    passed = begun.study.ask().number
    assert begun.slots.fill(slot, "dead", passed)
    top = max(begun.context.store.looks("mine"), key=lambda look: look.rung)
    assert top.rung == 1
    known = TrialNote.of(swept.study.trials[top.trial]).key
    assert known
    begun.context.store.keep_rung("mine", passed, 1, known)
    begun.slots.free("dead")
    measure: Callable[..., Measurement] = Workbench.measure

    def worst(*arguments: Any) -> Measurement:
        return replace(measure(*arguments), valid_measure=1e9)

    monkeypatch.setattr(Workbench, "measure", worst)
    begun.worker().run()
    assert begun.done == (6, 0, 0)
    looks = begun.context.store.looks("mine")
    rungs = [[look.rung for look in looks if look.trial == trial] for trial in (4, 5)]
    assert (passed, rungs) == (4, [[0, 1], [0]])


def test_workers_of_the_same_number_begin_with_other_suggestions(tmp_path: Path) -> None:
    """Those of two sweeps of one study, at the same moment: here a slot for each."""
    begun = Begun(settings(tmp_path, trials=2))
    workers = [begun.worker(settings(tmp_path, trials=trials)) for trials in (1, 2)]
    for worker in workers:
        worker.run()
    assert begun.done == (2, 0, 0)
    one, two = begun.study.trials
    assert all(one.params[name] != two.params[name] for name in one.params)


def test_a_worker_works_only_on_a_study_with_its_settings(tmp_path: Path) -> None:
    begun = Begun(settings(tmp_path))
    for changed in ({"seed": 2}, {"space": few(tmp_path).space}):
        with pytest.raises(UserError, match="was begun with other settings"):
            begun.worker(settings(tmp_path, **changed))
    assert begun.study.get_trials() == []


def test_a_worker_waits_for_a_sweep_to_let_a_list_grow(tmp_path: Path) -> None:
    def listed(levels: list[float]) -> SweepConfig:
        bits = {"kind": "uniform", "step": {"ordered": levels}}
        return settings(tmp_path, space={"sites": {"*": {"tie": "all", "bits": bits}}})

    begun, grown = Begun(listed([0.5, 1.0])), listed([0.5, 1.0, 2.0])
    with pytest.raises(UserError, match="does not know these settings yet; lmpareto sweep"):
        begun.worker(grown)
    create(WorkContext(grown))
    begun.worker(grown)
