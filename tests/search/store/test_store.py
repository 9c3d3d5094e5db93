"""Measurements in SQL: on SQLite, and on PostgreSQL where one can start."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from lmcore.errors import UserError
from search.measurement import Measurement
from search.rules.sensitivity import Effect
from search.store.outage import GoneError
from search.store.settings import StorageSettings
from search.store.slots import Slots
from search.store.store import MeasuredPart, Store
from search.study.context import StudyContext
from search.study.results import results_of
from search.study.study import progress
from search.work.lease import Lease
from studies import lmpareto, settings, sweep_here, write_configs

MEASUREMENT = Measurement(
    key="0123456789abcdef",
    recipe={"sites": {"decoder": {"bits": {"kind": "uniform", "step": 0.1 + 0.2}}}, "é": None},
    size_bytes=1_234_567,
    valid_measure=112.34567890123456,
    tokens_per_second=98765.4321,
    updates=12,
    seconds=0.1,
    sha256="f" * 64,
    provenance={"code": "abc", "seed": 1},
)


@pytest.fixture
def store(url: str) -> Store:
    return Store(StorageSettings(url=url))


def keyed(name: str, test: str) -> Measurement:
    """A measurement under a key that no other test uses: the PostgreSQL server is shared."""
    return replace(MEASUREMENT, key=f"{name}-{abs(hash(test)) % 10**10}"[:16])


def test_a_measurement_comes_back_as_it_was(store: Store, url: str) -> None:
    store.keep(MEASUREMENT)
    assert store.measurement(MEASUREMENT.key) == MEASUREMENT
    assert Store(StorageSettings(url=url)).measurement(MEASUREMENT.key) == MEASUREMENT


def test_the_first_speed_of_a_file_stays(store: Store) -> None:
    measured = keyed("speed", "first")
    store.keep(measured)
    store.keep_speed(measured.key, 2.5)
    store.keep_speed(measured.key, 9.0)
    assert store.measurement(measured.key) == replace(measured, relative_speed=2.5)


def test_what_was_never_measured_is_none(store: Store) -> None:
    assert store.measurement("0" * 16) is None
    assert store.measurements(["0" * 16]) == {}
    assert store.measurements([]) == {}


def test_the_first_measurement_under_a_key_stays(store: Store) -> None:
    first = keyed("first", "stays")
    store.keep(first)
    store.keep(replace(first, size_bytes=1, valid_measure=1.5))
    assert store.measurement(first.key) == first


def test_several_are_found_at_once(store: Store) -> None:
    one, two = keyed("one", "several"), keyed("two", "several")
    store.keep(one)
    store.keep(two)
    assert store.measurements([one.key, "missing", two.key]) == {one.key: one, two.key: two}


def test_workers_may_keep_the_same_measurement_at_once(url: str) -> None:
    one = keyed("at-once", "workers")
    stores = [Store(StorageSettings(url=url)) for _ in range(4)]
    start = threading.Barrier(len(stores))
    errors: list[Exception] = []

    def keep(store: Store) -> None:
        start.wait()
        try:
            store.keep(one)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=keep, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert stores[0].measurement(one.key) == one


def test_baselines_belong_to_a_study_and_have_one_key_a_name(store: Store) -> None:
    store.keep_baseline("a", "control", "key1")
    store.keep_baseline("a", "dense", "key2")
    store.keep_baseline("b", "control", "key3")
    store.keep_baseline("a", "control", "key4")
    assert store.baselines("a") == {"control": "key4", "dense": "key2"}
    assert store.baselines("b") == {"control": "key3"}
    assert store.baselines("c") == {}


def test_a_study_lives_beside_the_measurements(url: str, tmp_path: Path) -> None:
    """The same sweep on either database: measured, told, found again, opened by plain Optuna."""
    config = settings(tmp_path, storage={"url": url}, trials=2)
    swept = sweep_here(config)
    done = progress(swept.study, config.trials)
    assert (done.complete, done.failed, done.running, done.left) == (2, {}, 0, 0)
    assert len(results_of(StudyContext(config)).trials) == 2
    opened = optuna.load_study(study_name=config.study, storage=url)
    values = sorted(trial.values for trial in opened.trials)
    measured = results_of(swept.context).trials.values()
    assert values == sorted([one.size_bytes, one.valid_measure] for one in measured)


@pytest.mark.slow
def test_two_workers_share_a_postgresql(postgresql: str, tmp_path: Path) -> None:
    configs = str(write_configs(tmp_path / "configs"))
    arguments = ("--config-dir", configs, "study=mine", "name=shared", "storage=url")
    cache = tmp_path / "cache"
    more = ("trials=6", "workers=2", "format=json")
    run = lmpareto("sweep", *arguments, *more, cache=cache, LMPARETO_STORAGE=postgresql).ok()
    assert run.document["complete"] == 6
    opened = optuna.load_study(study_name="shared", storage=postgresql)
    assert {trial.state.name for trial in opened.trials} == {"COMPLETE"}
    assert not list(cache.glob("*.db"))


def test_sqlite_writes_ahead(tmp_path: Path) -> None:
    store = Store(StorageSettings(url=f"sqlite:///{tmp_path}/deep/er/studies.db"))
    store.keep(MEASUREMENT)
    with sqlite3.connect(tmp_path / "deep" / "er" / "studies.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        rows = connection.execute("SELECT recipe FROM lmpareto_measurement").fetchall()
    assert [json.loads(text) for (text,) in rows] == [MEASUREMENT.recipe]


def test_a_database_that_another_process_begins_now_is_read_and_used(tmp_path: Path) -> None:
    """Optuna makes its tables one by one, and then notes their revision."""

    def opened(name: str) -> Store:
        return Store(StorageSettings(url=f"sqlite:///{tmp_path / name}"))

    ours, whole = opened("ours.db"), opened("whole.db")
    assert whole.optuna.get_current_version()

    def made(name: str) -> list[str]:
        with closing(sqlite3.connect(tmp_path / name)) as database:
            found = database.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")
            return [sql for (sql,) in found]

    before = made("ours.db")
    of_optuna = [sql for sql in made("whole.db") if sql not in before]
    assert len(of_optuna) > 10
    assert "alembic_version" in of_optuna[-1]
    for number in range(1, len(of_optuna) + 1):
        begun = f"{number}.db"
        opened(begun)
        with closing(sqlite3.connect(tmp_path / begun)) as database:
            for sql in of_optuna[:number]:
                database.execute(sql)
        assert opened(begun).studies() == []
        assert opened(begun).attributes("mine") is None
        storage = opened(begun).optuna
        optuna.create_study(storage=storage, study_name="mine")
        assert opened(begun).attributes("mine") == {}
    assert ours.studies() == []


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_that_is_gone_is_noticed_and_not_made_again(how: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "studies.db", tmp_path / "elsewhere.db"
    store = Store(StorageSettings(url=f"sqlite:///{path}"))
    study = optuna.create_study(storage=store.optuna, study_name="mine")
    path.rename(elsewhere)
    if how == "replaced":
        shutil.copy(elsewhere, path)
    for use in (lambda: store.keep(MEASUREMENT), study.ask):
        with pytest.raises(GoneError) as gone:
            use()
        assert str(gone.value) == (
            f"the database {path} was deleted, moved or replaced while it was in use; put it back "
            f"and the same command goes on, or a sweep begins its study anew"
        )
    assert path.exists() == (how == "replaced")
    elsewhere.rename(path)
    store.keep(MEASUREMENT)
    assert study.ask().number == 0


def test_a_worker_drops_its_trial_when_the_database_is_gone(tmp_path: Path) -> None:
    store = Store(StorageSettings(url=f"sqlite:///{tmp_path}/studies.db"))
    slots = Slots(store.engine, "mine", trials=1, lease=0.5)
    slots.provide([], [])
    slot = slots.claim("worker")
    assert slot
    lease = Lease(slots, slot, "worker")
    with lease.held():
        assert not lease.lost
        (tmp_path / "studies.db").unlink()
        for _ in range(100):
            if lease.lost:
                break
            time.sleep(0.1)
    assert lease.lost


def test_a_store_in_memory_keeps_too() -> None:
    store = Store(StorageSettings(url="sqlite://"))
    store.keep(MEASUREMENT)
    assert store.measurement(MEASUREMENT.key) == MEASUREMENT


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    path.write_text("not a database, but long enough to have been one\n" * 100)
    with pytest.raises(UserError, match=r"studies\.db.*not a database"):
        Store(StorageSettings(url=f"sqlite:///{path}"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*file/sub"):
        Store(StorageSettings(url=f"sqlite:///{tmp_path}/file/sub/studies.db"))


@pytest.mark.parametrize("url", ["", "studies.db", "sqlite:/x", "postgresql://ada@host:port/db"])
def test_what_is_no_url_is_refused_with_what_is_one(url: str) -> None:
    with pytest.raises(UserError, match=r"storage\.url.*sqlite:////FOLDER/studies\.db"):
        Store(StorageSettings(url=url))


def test_a_database_of_a_later_optuna_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    assert Store(StorageSettings(url=f"sqlite:///{path}")).optuna
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE version_info SET schema_version = 99")
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    with pytest.raises(UserError, match=r"studies\.db"):
        assert Store(StorageSettings(url=f"sqlite:///{path}")).optuna


def test_effects_of_an_earlier_version_are_read(store: Store) -> None:
    """It measured a setting as a trial is measured; the effect is the difference to the base."""
    base, other = keyed("base", "effects"), keyed("other", "effects")
    store.keep(base)
    store.keep(replace(other, valid_measure=2 * base.valid_measure))
    parts = [
        MeasuredPart("", {}, base.key, {"decoder": 100}, 0.0),
        MeasuredPart("decoder", {"step": 1.0}, "none", {"decoder": 60}, 0.25),
        MeasuredPart("decoder", {"step": 2.0}, other.key, {"decoder": 30}, 9.0),
    ]
    study = f"effects-{other.key}"
    store.keep_effects(study, parts)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE lmpareto_effect SET nats = NULL WHERE key = '{other.key}'"
        )
    found = store.effects(study)
    assert found
    assert (found.size_bytes, found.perplexity) == (base.size_bytes, base.valid_measure)
    ours, earlier = found.parts["decoder"]
    assert ours == Effect(0.25, {"decoder": 60}, (("step", 1.0),))
    assert earlier.nats == pytest.approx(math.log(2))
    assert (earlier.site_bytes, earlier.parameters) == ({"decoder": 30}, (("step", 2.0),))
