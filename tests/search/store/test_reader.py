"""Reading a database as it is, whichever version wrote it: nothing is made, nothing is changed."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url

from lmcore.errors import UserError
from search.measurement import Measurement
from search.store import migrations
from search.store.reader import Reader
from search.store.settings import StorageSettings
from search.store.slots import Slots
from search.store.store import MeasuredPart, Store
from search.study.context import StudyContext
from search.study.history import history_of
from search.study.published import folder_of
from search.study.results import results_of
from search.study.study import progress
from studies import lmpareto, new_database, settings, sweep_here

LATER = ("0004_releases", "0003_effects", "0002_slots")  # what the first version did not have
OPENERS = pytest.mark.parametrize("opened", [Reader, Store])


@pytest.fixture
def fresh(url: str) -> StorageSettings:
    return StorageSettings(url=new_database(url))


def execute(storage: StorageSettings, *statements: str) -> None:
    engine = create_engine(storage.resolved)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def schema(storage: StorageSettings) -> dict[str, list[str]]:
    engine = create_engine(storage.resolved)
    found = inspect(engine)
    names = found.get_table_names()
    columns = {name: [each["name"] for each in found.get_columns(name)] for name in names}
    engine.dispose()
    return columns


def as_the_first_version(storage: StorageSettings) -> None:
    named = ("release", "effect", "slot", "rung", "repeat")
    tables = [f"lmpareto_{name}" for name in named]
    drops = [f"DROP TABLE {name}" for name in tables]
    column = "ALTER TABLE lmpareto_measurement DROP COLUMN relative_speed"
    execute(storage, *drops, column, "UPDATE lmpareto_version SET version_num = '0001'")


# --- another version of lmpareto -----------------------------------------------------------------


@OPENERS
def test_a_database_of_a_later_lmpareto_says_what_to_install(
    opened: type[Reader], fresh: StorageSettings
) -> None:
    Store(fresh)
    execute(
        fresh,
        "INSERT INTO lmpareto_release VALUES ('0099', '7.1')",
        "UPDATE lmpareto_version SET version_num = '0099'",
    )
    before = schema(fresh)
    with pytest.raises(UserError) as refused:
        opened(fresh)
    assert str(refused.value) == (
        f"the storage {fresh.shown} was written by lmpareto 7.1, which is later than this one, "
        f"0.1.0: install lmpareto 7.1 or later"
    )
    assert schema(fresh) == before


def test_each_version_of_the_tables_is_noted_with_its_release(fresh: StorageSettings) -> None:
    Store(fresh)
    Store(fresh)
    engine = create_engine(fresh.resolved)
    with engine.connect() as connection:
        noted = connection.exec_driver_sql("SELECT version, release FROM lmpareto_release").all()
    engine.dispose()
    assert [tuple(row) for row in noted] == [(migrations.newest(), "0.1.0")]


def test_an_earlier_database_is_read_as_it_is_and_written_once_it_is_upgraded(
    url: str, tmp_path: Path
) -> None:
    storage = StorageSettings(url=new_database(url))
    config = settings(tmp_path, storage=storage.plain(), trials=2)
    sweep_here(config)
    as_the_first_version(storage)
    before = schema(storage)
    context = StudyContext(config)
    results = results_of(context)
    assert sorted(results.trials) == [0, 1]
    assert (context.store.looks("mine"), context.store.effects("mine")) == ([], None)
    assert context.store.repeats("mine") == {}
    assert [one.state for one in history_of(context).trials] == ["complete"] * 2
    assert (context.slots.total(), context.slots.held()) == (0, [])
    assert schema(storage) == before
    Store(storage)
    assert schema(storage).keys() > before.keys()
    assert results_of(StudyContext(config)).trials == results.trials


def test_an_attribute_that_is_no_json_is_said(fresh: StorageSettings) -> None:
    optuna.create_study(storage=Store(fresh).optuna, study_name="mine").set_user_attr("a", 1)
    assert Reader(fresh).attributes("mine") == {"a": 1}
    execute(fresh, "UPDATE study_user_attributes SET value_json = '{'")
    with pytest.raises(UserError, match=r"study mine: an attribute in .* is no JSON; restore"):
        Reader(fresh).attributes("mine")


def test_a_column_that_an_earlier_table_lacks_reads_as_empty(fresh: StorageSettings) -> None:
    Store(fresh).keep_effects("mine", [MeasuredPart("", {}, "key", {"decoder": 3}, 0.0)])
    execute(
        fresh,
        "ALTER TABLE lmpareto_effect DROP COLUMN nats",
        "DROP TABLE lmpareto_repeat",
        "UPDATE lmpareto_version SET version_num = '0004'",
    )
    before = schema(fresh)
    assert Reader(fresh).effect_keys("mine") == {"key"}
    effects = Reader(fresh).effects("mine")
    assert effects is not None
    assert effects.dense.site_bytes == {"decoder": 3}
    assert schema(fresh) == before


@pytest.mark.parametrize("table", ["lmpareto_slot", "lmpareto_measurement"])
def test_an_earlier_table_that_lacks_a_column_names_the_command_that_upgrades_it(
    table: str, fresh: StorageSettings
) -> None:
    Store(fresh)
    column = {"lmpareto_slot": "attempts", "lmpareto_measurement": "provenance"}[table]
    execute(
        fresh,
        f"ALTER TABLE {table} DROP COLUMN {column}",
        "DROP TABLE lmpareto_repeat",
        "UPDATE lmpareto_version SET version_num = '0003'",
    )
    with pytest.raises(UserError) as refused:
        Reader(fresh)
    assert str(refused.value) == (
        f"the storage {fresh.shown} was written by an earlier lmpareto than this one, 0.1.0: "
        f"lmpareto sweep study=NAME workers=0 brings it up to date"
    )


# --- another version of Optuna -------------------------------------------------------------------


def with_optuna(storage: StorageSettings, revision: str, release: str) -> None:
    optuna.create_study(storage=Store(storage).optuna, study_name="one")
    execute(
        storage,
        f"UPDATE version_info SET library_version = '{release}'",
        f"UPDATE alembic_version SET version_num = '{revision}'",
    )


@OPENERS
def test_a_database_of_a_later_optuna_says_what_to_install(
    opened: type[Reader], fresh: StorageSettings
) -> None:
    with_optuna(fresh, "v99.0.0.a", "99.1.0")
    with pytest.raises(UserError) as refused:
        assert opened(fresh).optuna
    assert str(refused.value) == (
        f"the storage {fresh.shown} was written by Optuna 99.1.0, which is later than this one, "
        f"{optuna.__version__}: pip install 'optuna>=99.1.0'"
    )


@OPENERS
def test_a_database_of_an_earlier_optuna_names_the_command_that_upgrades_it(
    opened: type[Reader], fresh: StorageSettings
) -> None:
    with_optuna(fresh, "v2.6.0.a", "2.7.0")
    before = schema(fresh)
    with pytest.raises(UserError) as refused:
        assert opened(fresh).optuna
    assert str(refused.value) == (
        f"the storage {fresh.shown} was written by Optuna 2.7.0, and Optuna {optuna.__version__} "
        f"cannot read it yet: optuna storage upgrade --storage '{fresh.shown}' brings it up to date"
    )
    assert schema(fresh) == before


def test_optunas_tables_without_a_version_are_not_given_one(fresh: StorageSettings) -> None:
    with_optuna(fresh, "v2.6.0.a", "0.19.0")
    execute(fresh, "DROP TABLE alembic_version")
    with pytest.raises(UserError, match=r"written by a very early Optuna.*optuna storage upgrade"):
        assert Reader(fresh).optuna
    assert "alembic_version" not in schema(fresh)


def test_a_database_of_optuna_alone_lists_its_studies(fresh: StorageSettings) -> None:
    optuna.create_study(storage=fresh.url, study_name="theirs")
    before = schema(fresh)
    reader = Reader(fresh)
    assert reader.studies() == ["theirs"]
    assert reader.has_study("theirs")
    assert not reader.has_study("other")
    assert reader.optuna.get_study_id_from_name("theirs") == 1
    assert reader.baselines("theirs") == {}
    assert schema(fresh) == before


# --- nothing is made -----------------------------------------------------------------------------


def test_a_file_that_is_not_there_reads_as_empty_and_is_not_made(tmp_path: Path) -> None:
    reader = Reader(StorageSettings(url=f"sqlite:///{tmp_path}/deep/er/studies.db"))
    assert reader.studies() == []
    assert reader.measurement("0" * 16) is None
    assert (reader.looks("mine"), reader.baselines("mine"), reader.effects("mine")) == (
        [],
        {},
        None,
    )
    assert Slots(reader.engine, "mine", trials=1, lease=60.0).total() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_is_nowhere_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    config = settings(tmp_path, storage={"url": f"sqlite:///{tmp_path}/deep/studies.db"})
    with pytest.raises(UserError, match=r"there is no study mine in sqlite:///.*deep/studies\.db"):
        results_of(StudyContext(config))
    assert not (tmp_path / "deep").exists()


def test_reading_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    config = settings(tmp_path, trials=1)
    sweep_here(config)
    url = config.storage.resolved
    execute(config.storage, "PRAGMA wal_checkpoint(TRUNCATE)")
    before = Path(str(url.database)).read_bytes()
    results_of(StudyContext(config))
    progress(StudyContext(config).study, 1)
    assert Path(str(url.database)).read_bytes() == before


@pytest.mark.parametrize("name", ["a b", "100%25", "what?", "a#b", "it's", 'say "x"', "été"])
def test_a_folder_of_any_name_is_read(name: str, tmp_path: Path) -> None:
    storage = StorageSettings(
        url=make_url("sqlite://")
        .set(database=str(tmp_path / name / "studies.db"))
        .render_as_string()
    )
    made = Store(storage)
    made.keep_baseline("a", "control", "key")
    assert Reader(storage).baselines("a") == {"control": "key"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_sqlite_refuses_what_a_reader_would_write(tmp_path: Path) -> None:
    storage = StorageSettings(url=f"sqlite:///{tmp_path}/studies.db")
    Store(storage)
    with pytest.raises(Exception, match="readonly database"):
        Slots(Reader(storage).engine, "mine", trials=1, lease=60.0).provide([], [])


def test_a_published_study_needs_no_cache(tmp_path: Path) -> None:
    run = lmpareto("front", "study=ptb_small", cache=tmp_path / "none").ok()
    assert "on the front" in run.out
    assert list(tmp_path.iterdir()) == []


def damaged_in_the_middle(file: Path) -> None:
    """The pages after those of the schema are noise."""
    data = bytearray(file.read_bytes())
    data[2 * 4096 :] = b"\xff" * (len(data) - 2 * 4096)
    file.write_bytes(data)


@pytest.mark.parametrize("command", ["status", "front name=mine", "clean yes=true"])
def test_a_damaged_database_is_said_and_nothing_is_deleted(command: str, tmp_path: Path) -> None:
    storage = StorageSettings(path=str(tmp_path / "studies.db"))
    store = Store(storage)
    optuna.create_study(study_name="mine", storage=store.optuna)
    store.engine.dispose()
    store.optuna.engine.dispose()
    (bundle := tmp_path / "bundles" / "0123456789abcdef.lmb").parent.mkdir()
    bundle.touch()
    damaged_in_the_middle(tmp_path / "studies.db")
    run = lmpareto(*command.split(), cache=tmp_path).refused("studies.db: ", "malformed")
    assert len(run.err.splitlines()) == 1
    assert bundle.exists()


# --- what another program wrote ------------------------------------------------------------------

MEASURED = Measurement("k", {"sites": {"decoder": {}}}, 1000, 90.0, 9000.0, 10, 2.0, "", {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recipe", []),
        ("recipe", {"sites": 1}),
        ("recipe", {"sites": {"decoder": None}}),
        ("provenance", None),
        ("valid_measure", "nan"),
        ("size_bytes", None),
    ],
)
def test_a_measurement_that_was_damaged_in_the_database_is_said(field: str, value: Any) -> None:
    assert Measurement.stored(asdict(MEASURED).values()) == MEASURED
    with pytest.raises(UserError, match="measurement k is damaged in the database; restore"):
        Measurement.stored(asdict(replace(MEASURED, **{field: value})).values())


@pytest.mark.parametrize("name", ["x" * 500, "../studies/ptb_small", "</script>", "a\nb", ""])
def test_a_name_that_is_no_folder_is_no_published_study(name: str) -> None:
    assert folder_of("ptb_small")
    assert folder_of(name) is None
