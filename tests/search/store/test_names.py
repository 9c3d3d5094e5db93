"""Removing and renaming a study: Optuna's rows and ours at once, and never under a worker."""

from __future__ import annotations

from uuid import uuid4

import optuna
import pytest
from sqlalchemy import MetaData, func, select

from lmcore.errors import UserError
from search.store.settings import StorageSettings
from search.store.slots import Slots
from search.store.store import MeasuredPart, Store


@pytest.fixture
def store(url: str) -> Store:
    return Store(StorageSettings(url=url))


def filled(store: Store, lease: float = 60.0) -> Slots:
    """A study with a row in every table that has rows of studies."""
    name = uuid4().hex
    study = optuna.create_study(storage=store.optuna, study_name=name)
    study.set_user_attr("a", 1)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    store.keep_baseline(name, "control", "key1")
    store.keep_rung(name, 0, 0, "key2")
    store.keep_effects(name, [MeasuredPart("", {}, "key3", {}, 0.0)])
    slots = Slots(store.engine, name, trials=2, lease=lease)
    slots.provide([], [0, 1])
    return slots


def rows(store: Store) -> dict[str, int]:
    """Table -> how many rows it has."""
    found = MetaData()
    found.reflect(store.engine)
    with store.engine.connect() as connection:
        return {
            one.name: connection.scalar(select(func.count()).select_from(one)) or 0
            for one in found.sorted_tables
        }


def test_a_study_that_is_removed_leaves_no_row(store: Store) -> None:
    other = filled(store)
    before = rows(store)
    slots = filled(store)
    assert all(rows(store)[name] > count for name, count in before.items() if "studies" in name)
    store.remove(slots)
    assert rows(store) == before
    assert store.has_study(other.study)
    assert not store.has_study(slots.study)
    assert slots.claim("worker") is None
    assert slots.open() == 0


def test_a_study_that_is_renamed_keeps_all_that_it_has(store: Store) -> None:
    slots, name = filled(store), uuid4().hex
    before, number = rows(store), store.optuna.get_study_id_from_name(slots.study)
    store.rename(slots, name)
    assert rows(store) == before
    assert store.optuna.get_study_id_from_name(name) == number
    assert store.baselines(name) == {"control": "key1"}
    assert store.keys(name) == {"key1", "key2", "key3"}
    assert Slots(store.engine, name, trials=2, lease=60.0).total() == 2
    assert not store.has_study(slots.study)
    assert store.keys(slots.study) == set()


def test_a_name_that_is_taken_is_refused_and_nothing_changes(store: Store) -> None:
    slots, other, began = filled(store), filled(store), uuid4().hex
    store.keep_baseline(began, "control", "key")  # of a study that Optuna does not know yet
    before = store.keys(slots.study)
    for name in (other.study, began):
        with pytest.raises(UserError) as refused:
            store.rename(slots, name)
        assert str(refused.value) == (
            f"to: {store.settings.shown} has a study {name} already, or what it measured before it "
            f"began; choose another name, or lmpareto remove study={name} first"
        )
    assert store.keys(slots.study) == before
    assert store.has_study(slots.study)


@pytest.mark.parametrize("change", ["remove", "rename"])
def test_a_study_that_is_worked_on_stays_as_it_is(change: str, store: Store) -> None:
    slots = filled(store)
    more = Slots(store.engine, slots.study, trials=3, lease=60.0)
    more.provide([], [])
    slot = more.claim("host:1:abc")
    assert slot

    def act() -> None:
        if change == "remove":
            store.remove(more)
        else:
            store.rename(more, uuid4().hex)

    before = rows(store)
    with pytest.raises(
        UserError,
        match=rf"study {slots.study} is worked on by host:1:abc; stop what works on it, or wait "
        r"\d+ s if that has died",
    ):
        act()
    assert rows(store) == before
    assert more.leave(slot, "host:1:abc")
    act()
    assert not store.has_study(slots.study)


def test_a_worker_whose_lease_has_run_out_does_not_count(store: Store) -> None:
    slots = filled(store)
    more = Slots(store.engine, slots.study, trials=3, lease=-1.0)
    more.provide([], [])
    assert more.claim("host:1:abc")
    store.remove(more)
    assert not store.has_study(slots.study)
