"""What a worker makes of what others left, lost or took: each race, step by step in one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from lmcore import bundle
from lmcore.corpus import load_corpus
from lmcore.errors import DiskError, UserError
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from search.bench.dense import train_dense
from search.bench.workbench import Workbench
from search.config import SweepConfig
from search.space.space import OWN
from search.store import slots as slots_module
from search.store.slots import Slot, Slots, worker_name
from search.store.store import Store
from search.study.study import ATTRIBUTE, attribute, create, ended_trials, progress, takes_slot
from search.work.sweep import sweep
from search.work.worker import LostError, Worker
from studies import Sweep, settings, sweep_here

pytestmark = pytest.mark.slow


def few(tmp_path: Path, **more: Any) -> SweepConfig:
    """A study whose space holds three recipes."""
    bits = {"kind": "linear", "bits": {"choice": [3, 4, 5]}}
    return settings(tmp_path, space={"sites": {"*": {"tie": "all", "bits": bits}}}, **more)


class Begun:
    """A study with its slots, before any worker of its own runs."""

    def __init__(self, config: SweepConfig) -> None:
        self.config, self.corpus = config, load_corpus(config.corpus, config.folder)
        self.store = Store(config.storage)
        self.study = create(config, self.store, self.corpus)
        self.dense = train_dense(config, self.corpus)
        self.slots = Slots(self.store.engine, config.study, config.trials, config.storage.lease)
        self.slots.provide([], ended_trials(self.study))

    def worker(self) -> Worker:
        dense = {OWN: self.dense}
        return Worker(self.config, 0, worker_name(), dense, threading.Event())

    def key(self, data: dict[str, Any]) -> str:
        bench = Workbench.of(self.config, self.corpus, self.dense.load())
        words = len(self.corpus.vocabulary)
        return bench.key(resolve(parse(Recipe, data, "recipe"), self.config.model, words))

    @property
    def done(self) -> tuple[int, int, int]:
        """Complete, failed and running trials; none is left, and each has its slot."""
        found = progress(self.study, self.config.trials)
        assert found.left == 0
        counted = [row.number for row in self.study.trials if takes_slot(row)]
        slots = [one.trial for one in self.slots.ended() if one.kind == "trial"]
        assert sorted(trial or 0 for trial in slots) == counted
        return found.complete, sum(found.failed.values()), found.running


def test_an_equal_recipe_whose_worker_died_before_it_looked_for_another(tmp_path: Path) -> None:
    """It was told, but its slot still has it: a trial more is due."""
    begun = Begun(few(tmp_path, trials=3))
    one = sweep_here(begun.config, slots=1)
    slot = begun.slots.claim("dead")
    assert slot
    trial = begun.study.ask()
    trial.set_user_attr(ATTRIBUTE, {"duplicate": True})
    begun.study.tell(trial, one.study.trials[0].values)
    assert begun.slots.fill(slot, "dead", trial.number)
    begun.slots.free("dead")
    begun.worker().run()
    assert begun.done == (3, 0, 0)


def test_a_trial_that_was_asked_for_in_vain_takes_no_slot(tmp_path: Path) -> None:
    begun = Begun(settings(tmp_path, trials=1))
    begun.worker().run()
    begun.study.ask()  # and its worker died; no slot is left
    sweep(begun.config, begun.corpus, begun.store)
    assert [row.state for row in begun.study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert begun.done == (1, 0, 0)
    more = Begun(begun.config.model_copy(update={"trials": 2}))
    more.worker().run()
    assert more.done == (2, 0, 0)


def test_of_two_equal_recipes_at_once_one_is_measured(tmp_path: Path) -> None:
    begun = Begun(few(tmp_path, trials=3, start=[{"all.bits.bits": 3}]))
    slot = begun.slots.claim("other")
    assert slot
    other = begun.study.ask()
    key = begun.key({"sites": {"*": {"bits": {"kind": "linear", "bits": 3}}}})
    other.set_user_attr(ATTRIBUTE, {"asked": key})
    assert begun.slots.fill(slot, "other", other.number)
    begun.study.enqueue_trial({"all.bits.bits": 3})
    thread = threading.Timer(3.0, begun.slots.free, ["other"])
    thread.start()
    begun.worker().run()
    thread.join()
    assert begun.done == (3, 0, 0)
    assert begun.study.trials[1].state == TrialState.FAIL
    asked = [attribute(row, "asked") for row in begun.study.trials if takes_slot(row)]
    assert len(set(asked)) == 3


def test_an_equal_recipe_that_ends_during_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by 100 kills: who looked for complete trials, then for running ones, saw neither."""
    begun = Begun(few(tmp_path, trials=2, start=[{"all.bits.bits": 3}] * 2))
    slot = begun.slots.claim("other")
    assert slot
    begun.study.enqueue_trial({"all.bits.bits": 3})
    other, mine = begun.study.ask(), begun.study.ask()
    worker = begun.worker()
    recipe = worker.space.suggest(mine).recipe
    other.set_user_attr(ATTRIBUTE, {"asked": worker.bench.key(recipe)})
    look: Callable[..., Any] = optuna.Study.get_trials

    def looks(study: optuna.Study, *arguments: Any, **named: Any) -> Any:
        seen = look(study, *arguments, **named)
        if look(begun.study)[other.number].state == TrialState.RUNNING:
            begun.study.tell(other, [1.0, 2.0])
        return seen

    monkeypatch.setattr(optuna.Study, "get_trials", looks)
    assert worker._repeats(mine, recipe)


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
    for row in begun.study.trials:
        if takes_slot(row):
            recipe = attribute(row, "recipe")
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


def test_a_worker_whose_slot_is_gone_asks_for_no_more(tmp_path: Path) -> None:
    begun = Begun(settings(tmp_path, trials=1))
    worker = begun.worker()
    slot = begun.slots.claim(worker.name)
    assert slot
    begun.slots.free(worker.name)
    assert begun.slots.claim("other")
    with pytest.raises(LostError):
        worker._asked(slot)
    assert len(begun.study.trials) == 1  # which the other will take, or nobody


@pytest.mark.parametrize("late", ["fills", "finishes"])
def test_a_slot_whose_worker_is_only_late(
    late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so between the other's look at the slot and its claim."""
    begun = Begun(settings(tmp_path, trials=1, storage={"url": f"sqlite:///{tmp_path}/s.db"}))
    short = Slots(begun.store.engine, begun.config.study, 1, lease=0.01)
    slot = short.claim("late")
    assert slot
    time.sleep(0.05)
    update = sqlalchemy.update

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.undo()
        assert short.fill(slot, "late", 5)
        if late == "finishes":
            assert short.finish(slot, "late", "")
        return update(*arguments)

    monkeypatch.setattr(slots_module, "update", meanwhile)
    expected = Slot("trial", slot.name, 5, 2) if late == "fills" else None
    assert begun.slots.claim("other") == expected


# --- what is no fault of a trial's ---------------------------------------------------------------


def test_a_full_disk_ends_the_worker_and_is_no_attempt_at_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Begun(settings(tmp_path, trials=2))

    def full(path: Path, data: bytes) -> None:
        raise DiskError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(bundle, "write_atomic", full)
    for _ in range(begun.config.attempts + 1):
        with pytest.raises(UserError, match="No space left"):
            begun.worker().run()
    monkeypatch.undo()
    begun.worker().run()
    assert begun.done == (2, 0, 0)
    assert len(begun.study.trials) == 2


def test_a_trial_whose_process_dies_too_often_fails_with_that_reason(tmp_path: Path) -> None:
    begun = Begun(settings(tmp_path, trials=2))
    trial = begun.study.ask()
    for attempt in range(begun.config.attempts):
        slot = begun.slots.claim(f"dead {attempt}")
        assert slot
        begun.slots.fill(slot, f"dead {attempt}", trial.number)
        begun.slots.free(f"dead {attempt}")
    begun.worker().run()
    assert begun.done == (1, 1, 0)
    assert "its process died 2 times" in attribute(begun.study.trials[0], "failure")


def test_a_trial_goes_on_above_the_rungs_that_it_passed(tmp_path: Path) -> None:
    """Its worker died there; by now others are better, and it would not get there again."""
    fidelity = {"kind": "front", "rungs": [0.05], "eta": 4.0}
    swept: Sweep = sweep_here(settings(tmp_path, trials=4, fidelity=fidelity))
    worker = Begun(swept.config).worker()
    looks = swept.store.looks(swept.config.study)
    top = max(looks, key=lambda look: look.rung)
    measured = swept.store.measurement(attribute(swept.study.trials[top.trial], "key"))
    assert measured
    assert top.rung == 1
    worst = type(measured)(**{**measured.plain(), "valid_perplexity": 1e9})
    assert worker._goes_on(top.trial, 0, worst)
    assert not worker._goes_on(99, 0, worst)


def test_workers_of_the_same_number_begin_with_other_suggestions(tmp_path: Path) -> None:
    """Those of two sweeps of one study, at the same moment."""
    begun = Begun(settings(tmp_path, trials=2))
    drawn = []
    for worker in (begun.worker(), begun.worker()):
        slot = begun.slots.claim(worker.name)
        assert slot
        worker._seed(slot)
        drawn.append(
            worker.study.sampler.sample_independent(
                worker.study,
                begun.study.ask()._cached_frozen_trial,
                "x",
                optuna.distributions.FloatDistribution(0, 1),
            )
        )
    assert drawn[0] != drawn[1]


def test_a_worker_works_only_on_a_study_with_its_settings(tmp_path: Path) -> None:
    begun = Begun(settings(tmp_path))
    for changed in ({"seed": 2}, {"space": few(tmp_path).space}):
        begun.config = settings(tmp_path, **changed)
        with pytest.raises(UserError, match="was begun with other settings"):
            begun.worker()
    assert begun.study.get_trials() == []


def test_a_worker_waits_for_a_sweep_to_let_a_list_grow(tmp_path: Path) -> None:
    def listed(levels: list[float]) -> SweepConfig:
        bits = {"kind": "uniform", "step": {"ordered": levels}}
        return settings(tmp_path, space={"sites": {"*": {"tie": "all", "bits": bits}}})

    begun = Begun(listed([0.5, 1.0]))
    begun.config = listed([0.5, 1.0, 2.0])
    with pytest.raises(UserError, match="does not know these settings yet; lmpareto sweep"):
        begun.worker()
    create(begun.config, begun.store, begun.corpus)
    begun.worker()
