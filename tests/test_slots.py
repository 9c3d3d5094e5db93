"""Slots: each for one worker at a time, taken over when its worker is gone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, inspect

from search.config import StorageSettings
from search.migrations import TABLE, upgrade
from search.schema import Base
from search.slots import Slot, Slots, worker_name
from search.store import Store


@pytest.fixture
def slots(url: str) -> Slots:
    """A study's of its own: the PostgreSQL server is shared."""
    return Slots(Store(StorageSettings(url=url)).engine, uuid4().hex, lease=60.0)


def names(count: int) -> list[str]:
    return [f"{number:06d}" for number in range(count)]


def test_a_slot_is_claimed_once_filled_and_finished(slots: Slots) -> None:
    slots.provide("trial", names(2))
    slots.provide("trial", names(3))
    slots.provide("baseline", ["control"])
    assert slots.open == 4
    first = slots.claim("a")
    assert first == Slot("baseline", "control", None, 1)  # before any trial
    claimed = [slots.claim(worker) for worker in "abcd"]
    assert [slot.name for slot in claimed if slot] == names(3)
    assert claimed[3] is None
    slot = claimed[1]
    assert slot
    assert slots.fill(slot, "b", 17)
    assert slots.filled == {17}
    assert not slots.fill(slot, "a", 18)
    assert slots.renew(slot, "b", 0.5)
    (holding,) = [one for one in slots.held() if one.name == slot.name]
    assert (holding.worker, holding.trial, holding.fraction) == ("b", 17, 0.5)
    assert 55 < holding.seconds_left <= 60
    assert slots.finish(slot, "b")
    assert not slots.finish(slot, "b")
    assert not slots.renew(slot, "b", 1.0)
    assert slots.open == 3
    slots.provide("trial", names(3))  # what is done stays so
    assert slots.open == 3


def test_what_a_worker_leaves_is_gone_on_with_at_once(slots: Slots) -> None:
    slots.provide("trial", names(3))
    slot = slots.claim("a")
    assert slot
    slots.fill(slot, "a", 4)
    assert slots.leave(slot, "a")
    assert slots.held() == []
    assert slots.claim("b") == Slot("trial", slot.name, 4, 2)
    again = Slot("trial", slot.name, 4, 2)
    assert slots.vacate(again, "b")
    assert slots.filled == set()
    assert slots.leave(again, "b")
    assert slots.claim("c") == Slot("trial", slot.name, None, 3)


def test_a_lease_that_ran_out_is_anothers(slots: Slots) -> None:
    slots.provide("trial", names(2))
    short = Slots(slots.engine, slots.study, lease=0.2)
    slot = short.claim("dead")
    assert slot
    short.fill(slot, "dead", 9)
    time.sleep(0.3)
    taken = slots.claim("alive")
    assert taken == Slot("trial", slot.name, 9, 2)
    for late in (
        short.renew(slot, "dead", 0.9),
        short.fill(slot, "dead", 10),
        short.finish(slot, "dead"),
        short.leave(slot, "dead"),
    ):
        assert not late
    assert slots.finish(taken, "alive")


def test_workers_at_once_share_the_slots_out(slots: Slots) -> None:
    slots.provide("trial", names(60))
    start = threading.Barrier(8)

    def work(_: int) -> list[str]:
        worker, done = worker_name(), []
        start.wait()
        while slot := slots.claim(worker):
            done.append(slot.name)
            assert slots.fill(slot, worker, int(slot.name))
            assert slots.finish(slot, worker)
        return done

    with ThreadPoolExecutor(8) as pool:
        found = Counter(name for names_ in pool.map(work, range(8)) for name in names_)
    assert found == Counter(names(60))
    assert slots.open == 0
    assert slots.filled == set(range(60))


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
        connection.exec_driver_sql("insert into lmpareto_baseline values ('s', 'control', 'k')")
    upgrade(engine)
    upgrade(engine)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("select * from lmpareto_baseline").all()
    assert rows == [("s", "control", "k")]
    assert inspect(engine).has_table("lmpareto_slot")
