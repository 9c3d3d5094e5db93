"""Slots: each for one worker at a time, taken over when its worker is gone."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic import op
from sqlalchemy import create_engine, inspect

from search.store.migrations import TABLE, upgrade
from search.store.schema import Base
from search.store.settings import StorageSettings
from search.store.slots import Ended, Slot, Slots, worker_name
from search.store.store import Store
from studies import Clock, new_database


@pytest.fixture
def slots(url: str) -> Slots:
    """A study's of its own: the PostgreSQL server is shared."""
    return Slots(Store(StorageSettings(url=url)).engine, uuid4().hex, trials=100, lease=60.0)


def of(slots: Slots, trials: int = 2, clock: Clock | None = None) -> Slots:
    """The same study's, wanting so many trials; their leases are of a minute."""
    return Slots(slots.engine, slots.study, trials, 60.0, clock)


def test_a_slot_is_claimed_once_filled_and_finished(slots: Slots) -> None:
    slots = of(slots, trials=3)
    slots.provide(["control"], [])
    slots.provide([], [])
    assert slots.open() == 4
    assert slots.claim("a") == Slot("baseline", "control", None, 1)  # before any trial
    first, slot, third, none = (slots.claim(worker) for worker in "abcd")
    assert first
    assert slot
    assert third
    assert none is None
    assert len({first.name, slot.name, third.name}) == 3
    assert slots.fill(slot, "b", 17)
    assert not slots.fill(slot, "a", 18)
    assert not slots.fill(third, "c", 17)  # it has a slot
    assert slots.renew(slot, "b", 0.5)
    (holding,) = [one for one in slots.held() if one.name == slot.name]
    assert (holding.worker, holding.trial, holding.fraction) == ("b", 17, 0.5)
    assert 55 < holding.seconds_left <= 60
    assert slots.finish(slot, "b", "1.2 MB")
    assert slots.ended() == [Ended("trial", slot.name, 17, "1.2 MB")]
    assert not slots.finish(slot, "b", "1.2 MB")
    assert not slots.renew(slot, "b", 1.0)
    assert slots.open() == 3
    slots.provide([], [17])
    assert slots.open() == 3  # what is done stays so


def test_a_total_that_changes(slots: Slots) -> None:
    of(slots, trials=2).provide([], [])
    of(slots, trials=4).provide([], [])
    assert of(slots, trials=4).open() == 4
    assert of(slots, trials=1).open() == 1
    few = of(slots, trials=1)
    assert few.claim("a")
    assert few.claim("b") is None


def test_trials_from_before_there_were_slots_have_theirs(slots: Slots) -> None:
    slots = of(slots, trials=5)
    slots.provide([], [0, 1, 4])
    assert slots.open() == 2
    assert {one.trial for one in slots.ended()} == {0, 1, 4}
    of(slots, trials=6).provide([], [0, 1, 4])
    assert of(slots, trials=6).open() == 3


def test_a_baseline_that_has_no_measurement_is_open_again(slots: Slots) -> None:
    slots = of(slots, trials=1)
    slots.provide(["control"], [])
    slot = slots.claim("a")
    assert slot
    slots.finish(slot, "a", "failed: diverged")
    slots.provide([], [])
    assert slots.open() == 1
    slots.provide(["control"], [])
    assert slots.open() == 2


def test_what_a_worker_leaves_is_gone_on_with_at_once(slots: Slots) -> None:
    slots = of(slots, trials=3)
    slots.provide([], [])
    slot = slots.claim("a")
    assert slot
    slots.fill(slot, "a", 4)
    assert slots.leave(slot, "a")
    assert slots.held() == []
    again = Slot("trial", slot.name, 4, 1)  # leaving is no failed attempt
    assert slots.claim("b") == again
    slots.free("b")  # as a worker's parent does that saw it die
    died = Slot("trial", slot.name, 4, 2)
    assert slots.claim("c") == died
    assert slots.vacate(died, "c")
    assert slots.orphans([4], "x") == []  # c may be asking for one just now
    assert slots.orphans([4], "c") == [4]


def test_a_lease_that_ran_out_is_anothers(slots: Slots) -> None:
    clock = Clock()
    slots = of(slots, trials=1, clock=clock)
    slots.provide([], [])
    slot = slots.claim("dead")
    assert slot
    slots.fill(slot, "dead", 9)
    clock.now += 60.0
    assert slots.claim("alive") is None  # it may come back to the last
    clock.now += 1.0
    taken = slots.claim("alive")
    assert taken == Slot("trial", slot.name, 9, 2)
    for late in (
        slots.renew(slot, "dead", 0.9),
        slots.fill(slot, "dead", 10),
        slots.finish(slot, "dead", ""),
        slots.leave(slot, "dead"),
    ):
        assert not late
    assert slots.finish(taken, "alive", "")


def test_a_lease_that_is_renewed_lasts(slots: Slots) -> None:
    clock = Clock()
    slots = of(slots, trials=1, clock=clock)
    slots.provide([], [])
    slot = slots.claim("a")
    assert slot
    for minute in range(1, 4):
        clock.now += 59.0
        assert slots.renew(slot, "a", minute / 4)
        assert slots.claim("b") is None
        (holding,) = slots.held()
        assert (holding.worker, holding.fraction, holding.seconds_left) == ("a", minute / 4, 60.0)
    clock.now += 61.0
    (holding,) = slots.held()
    assert holding.seconds_left == -1.0
    assert slots.renew(slot, "a", 1.0)  # late, but nobody took it
    assert slots.claim("b") is None


def test_who_may_be_asking_is_asked_again_once_its_lease_is_over(slots: Slots) -> None:
    """A trial without a slot may be that of a worker which has a slot without a trial."""
    clock = Clock()
    slots = of(slots, trials=1, clock=clock)
    slots.provide([], [])
    assert slots.claim("asking")
    assert slots.orphans([4], "other") == []
    clock.now += 61.0
    assert slots.orphans([4], "other") == [4]


def test_workers_at_once_share_the_slots_out(slots: Slots) -> None:
    slots = of(slots, trials=60)
    slots.provide([], [])
    start = threading.Barrier(8)

    def work(_: int) -> list[str]:
        worker, done = worker_name(), []
        start.wait()
        while slot := slots.claim(worker):
            done.append(slot.name)
            assert slots.fill(slot, worker, int(slot.name))
            assert slots.finish(slot, worker, "")
        return done

    with ThreadPoolExecutor(8) as pool:
        found = Counter(name for names in pool.map(work, range(8)) for name in names)
    assert len(found) == 60
    assert set(found.values()) == {1}
    assert slots.open() == 0


# --- migrations --------------------------------------------------------------------------------


def test_migrations_make_the_tables_of_the_schema(url: str) -> None:
    engine = Store(StorageSettings(url=url)).engine
    found = inspect(engine)
    assert found.has_table(TABLE)
    for table in Base.metadata.tables.values():
        columns = {column["name"]: column for column in found.get_columns(table.name)}
        assert set(columns) == set(table.columns.keys())
        for column in table.columns:
            assert columns[column.name]["nullable"] == column.nullable, column
            made, wanted = columns[column.name]["type"], column.type
            assert made._type_affinity == wanted._type_affinity, column
        keys = found.get_pk_constraint(table.name)["constrained_columns"]
        assert keys == [column.name for column in table.primary_key]


def test_a_database_of_the_first_version_is_kept(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/old.db")
    old = ("lmpareto_measurement", "lmpareto_baseline")
    Base.metadata.create_all(engine, [Base.metadata.tables[name] for name in old])
    with engine.begin() as connection:
        connection.exec_driver_sql("alter table lmpareto_measurement drop column relative_speed")
        connection.exec_driver_sql("insert into lmpareto_baseline values ('s', 'control', 'k')")
    upgrade(engine)
    upgrade(engine)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("select * from lmpareto_baseline").all()
    assert rows == [("s", "control", "k")]
    assert inspect(engine).has_table("lmpareto_slot")


def test_tables_are_made_all_or_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies among them leaves nothing that the next would stumble over."""
    engine = create_engine(new_database(url))
    make = op.create_table

    def dies(name: str, *columns: Any, **named: Any) -> Any:
        if name == "lmpareto_slot":
            raise ZeroDivisionError
        return make(name, *columns, **named)

    monkeypatch.setattr(op, "create_table", dies)
    with pytest.raises(ZeroDivisionError):
        upgrade(engine)
    monkeypatch.undo()
    assert not inspect(engine).has_table("lmpareto_rung")
    upgrade(engine)
    assert set(inspect(engine).get_table_names()) >= set(Base.metadata.tables)


def _open(url: str, start: Any, said: Any) -> None:
    start.wait()
    try:
        Store(StorageSettings(url=url))
    except Exception as error:
        said.put(repr(error))
    else:
        said.put("")


@pytest.mark.slow
def test_processes_open_a_new_database_at_once(url: str) -> None:
    url = new_database(url)
    context = multiprocessing.get_context("spawn")
    start, said = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_open, args=(url, start, said)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [said.get(timeout=300) for _ in processes] == [""] * 3
    for process in processes:
        process.join(timeout=60)
