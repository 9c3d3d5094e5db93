"""Reading a database as it is: no file, no folder and no table is made, none is changed."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import (
    URL,
    Engine,
    String,
    column,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    null,
    or_,
    select,
    table,
    true,
    type_coerce,
)
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from lmcore.errors import UserError
from search.measurement import Measurement
from search.rules.fidelity import Look
from search.rules.sensitivity import Effect, Effects
from search.store.migrations import VersionError, lacking
from search.store.outage import AwayError, reason
from search.store.schema import BaselineRow, EffectRow, MeasurementRow, RepeatRow, RungRow
from search.store.settings import StorageSettings
from search.store.trials import StoredTrial, read_trials

BUSY_SECONDS = 60  # how long SQLite waits for another process that writes

# the columns of Optuna's that are read here
STUDIES = table("studies", column("study_id"), column("study_name"))
_ATTRIBUTES = table(
    "study_user_attributes", column("study_id"), column("key"), column("value_json")
)
_TRIALS = table("trials", column("study_id"), column("state", String))
_OPTUNA = table("version_info", column("library_version"))
_REVISION = table("alembic_version", column("version_num"))  # Optuna makes it last
MOST_KEYS = 10_000  # that one query names
_MEASURED = [getattr(MeasurementRow, name) for name in Measurement.__dataclass_fields__]
_JSON = (MeasurementRow.recipe, MeasurementRow.provenance)


class Reader:
    """The database of a storage URL, as it is when the reader is made.

    A SQLite file that does not exist reads as a database without studies. Tables that an earlier
    version of lmpareto did not have read as empty. The constructor, and `optuna` when it is first
    asked for, raise AwayError where the database cannot be opened now, and UserError where it never
    can: another version of lmpareto or Optuna wrote it, for example.
    """

    def __init__(self, settings: StorageSettings) -> None:
        settings.check()
        self.settings = settings
        self._url, self._options = self._target()
        with self._opening():
            self.engine = create_engine(self._url, **self._options)
            self._prepare()

    def _target(self) -> tuple[URL, dict[str, Any]]:
        """The URL to open and the options of its engine."""
        url, file = self.settings.resolved, self.settings.file
        if file is None:
            return url, {"pool_pre_ping": True}
        if not file.exists():
            return make_url("sqlite://"), {}
        return url, {"creator": lambda: _connect(file)}

    def _prepare(self) -> None:
        """Make the engine fit for use, before it is used."""
        _lend(self.engine)

    @cached_property
    def optuna(self) -> RDBStorage:
        """Optuna's storage in this database, where `has_study` has found one of its studies."""
        with self._opening():
            return self._opened()

    def _opened(self) -> RDBStorage:
        if not self._is_stamped():
            raise VersionError(self._upgrade("a very early Optuna"))
        return self._checked(make_tables=False)

    def _checked(self, make_tables: bool) -> RDBStorage:
        """Optuna's storage. Raises VersionError where its tables are another version's."""
        opened = RDBStorage(
            self._url.render_as_string(hide_password=False),
            engine_kwargs=self._options,
            skip_compatibility_check=True,
            skip_table_creation=not make_tables,
        )
        revision = opened.get_current_version()
        if revision == opened.get_head_version():
            return opened
        with self.engine.connect() as connection:
            writer = connection.scalar(select(_OPTUNA.c.library_version))
        if revision in opened.get_all_versions():
            raise VersionError(self._upgrade(f"Optuna {writer}"))
        raise VersionError(
            f"was written by Optuna {writer}, which is later than this one, {optuna.__version__}: "
            f"pip install 'optuna>={writer}'"
        )

    def _upgrade(self, writer: str) -> str:
        return (
            f"was written by {writer}, and Optuna {optuna.__version__} cannot read it yet: "
            f"optuna storage upgrade --storage '{self.settings.shown}' brings it up to date"
        )

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Says as a UserError what is wrong with a database that is opened."""
        shown = self.settings.shown
        try:
            yield
        except ModuleNotFoundError as error:
            raise UserError(f"storage.url {shown}: install its driver, {error.name}") from None
        except VersionError as error:
            raise UserError(f"the storage {shown} {error}") from None
        except SQLAlchemyError as error:
            kind = AwayError if isinstance(error, OperationalError) else UserError
            raise kind(f"cannot open the storage {shown}: {reason(error)}") from None

    def _has(self, *names: str) -> bool:
        """Whether the database has tables of those names. Optuna makes its tables one by one, so a
        database that another process has just begun has some of them."""
        with self.engine.connect() as connection:
            return all(map(inspect(connection).has_table, names))

    def _is_stamped(self) -> bool:
        """Whether Optuna has made all its tables: it notes their revision last."""
        with self.engine.connect() as connection:
            there = inspect(connection).has_table(_REVISION.name)
            return there and connection.scalar(select(_REVISION.c.version_num)) is not None

    def studies(self) -> list[str]:
        """The names of all studies, in the order in which they were begun."""
        if not self._has(STUDIES.name):
            return []
        with Session(self.engine) as session:
            names = select(STUDIES.c.study_name).order_by(STUDIES.c.study_id)
            return list(session.scalars(names))

    def has_study(self, name: str) -> bool:
        """Whether there is a study of that name."""
        return self.attributes(name) is not None

    def attributes(self, study: str) -> dict[str, Any] | None:
        """The attributes of Optuna's study of that name, None where there is no such study."""
        if not self._has(STUDIES.name, _ATTRIBUTES.name):
            return None
        of_study = (
            select(STUDIES.c.study_id, _ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json)
            .outerjoin_from(STUDIES, _ATTRIBUTES, STUDIES.c.study_id == _ATTRIBUTES.c.study_id)
            .where(STUDIES.c.study_name == study)
        )
        with Session(self.engine) as session:
            rows = session.execute(of_study).all()
        try:
            return {key: json.loads(value) for _, key, value in rows if key} if rows else None
        except ValueError:
            raise UserError(
                f"study {study}: an attribute in {self.settings.shown} is no JSON; restore the "
                f"database from a copy"
            ) from None

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        """A session that reads measurements. Raises UserError where one is no JSON: another program
        has changed it."""
        try:
            with Session(self.engine) as session:
                yield session
        except ValueError:
            with Session(self.engine) as session:
                wrong = [func.json_valid(type_coerce(one, String)) == 0 for one in _JSON]
                key = session.scalar(select(MeasurementRow.key).where(or_(*wrong)))
            raise UserError(
                f"the measurement {key} is damaged in the database; restore it from a copy"
            ) from None

    def measurement(self, key: str) -> Measurement | None:
        """The measurement under the key, None where there is none."""
        with self._reading() as session:
            row = session.execute(select(*_MEASURED).where(MeasurementRow.key == key)).first()
            return Measurement.stored(row) if row else None

    def measurements(self, keys: list[str]) -> dict[str, Measurement]:
        """Key -> measurement, for the keys that have one."""
        found: dict[str, Measurement] = {}
        with self._reading() as session:
            for first in range(0, len(keys), MOST_KEYS):
                some = keys[first : first + MOST_KEYS]
                wanted = select(*_MEASURED).where(MeasurementRow.key.in_(some))
                found |= {row.key: Measurement.stored(row) for row in session.execute(wanted)}
        return found

    def baselines(self, study: str) -> dict[str, str]:
        """Name -> key, of the baselines that were measured."""
        with Session(self.engine) as session:
            rows = session.query(BaselineRow).filter_by(study=study).all()
            return {row.name: row.key for row in rows}

    def looks(
        self, study: str, trials: Collection[int] | None = None, *, speed: bool = False
    ) -> list[Look]:
        """The look of every trial of the study, or of these trials, at every rung where it was
        measured. It has the speed of its file where the study has that objective."""
        among = true() if trials is None else RungRow.trial.in_(trials)
        with Session(self.engine) as session:
            rows = session.execute(
                select(
                    RungRow.trial,
                    RungRow.rung,
                    MeasurementRow.size_bytes,
                    MeasurementRow.valid_measure,
                    MeasurementRow.relative_speed if speed else null(),
                    MeasurementRow.updates,
                )
                .join(MeasurementRow, MeasurementRow.key == RungRow.key)
                .where(RungRow.study == study, among)
                .order_by(RungRow.trial, RungRow.rung)
            )
            return [Look(*row) for row in rows]

    def files(
        self, study: str, trials: Collection[int] | None = None
    ) -> dict[int, dict[int, Measurement]]:
        """Trial -> rung -> the measurement of the file that the trial had there, of all trials or
        of these."""
        among = true() if trials is None else RungRow.trial.in_(trials)
        found: dict[int, dict[int, Measurement]] = {}
        with self._reading() as session:
            rows = session.execute(
                select(RungRow.trial, RungRow.rung, *_MEASURED)
                .join(MeasurementRow, MeasurementRow.key == RungRow.key)
                .where(RungRow.study == study, among)
                .order_by(RungRow.trial, RungRow.rung)
            )
            for trial, rung, *measured in rows:
                found.setdefault(trial, {})[rung] = Measurement.stored(measured)
        return found

    def measured_at(self, study: str) -> dict[int, dict[int, float]]:
        """Trial -> rung -> when its file was measured, in seconds since 1970."""
        found: dict[int, dict[int, float]] = {}
        with Session(self.engine) as session:
            rows = session.execute(
                select(RungRow.trial, RungRow.rung, MeasurementRow.measured_at)
                .join(MeasurementRow, MeasurementRow.key == RungRow.key)
                .where(RungRow.study == study)
            )
            for trial, rung, at in rows:  # SQLite forgets the time zone
                utc = at if at.tzinfo else at.replace(tzinfo=UTC)
                found.setdefault(trial, {})[rung] = utc.timestamp()
        return found

    def trials(self, study: str, attribute: str) -> list[StoredTrial]:
        """All trials of a study that `has_study` has found, by number, with this attribute of
        theirs. Raises UserError where one is damaged."""
        return read_trials(self.optuna.engine, study, attribute)

    def pulse(self, study: str) -> tuple[Any, ...]:
        """What changes when the study does, cheap to read: how many trials are in each state, how
        many files were measured, and the study's attributes."""
        of_study = select(STUDIES.c.study_id).where(STUDIES.c.study_name == study)
        states = (
            select(_TRIALS.c.state, func.count())
            .where(_TRIALS.c.study_id == of_study.scalar_subquery())
            .group_by(_TRIALS.c.state)
            .order_by(_TRIALS.c.state)
        )
        tables = (RungRow, BaselineRow, EffectRow, RepeatRow)
        with Session(self.engine) as session:
            trials = [tuple(row) for row in session.execute(states)]
            files = [
                session.scalar(select(func.count()).where(each.study == study)) for each in tables
            ]
        return trials, files, self.attributes(study)

    def repeats(self, study: str) -> dict[str, dict[int, Measurement]]:
        """Key of a file -> number of the repeat -> the measurement of its recipe with that seed."""
        found: dict[str, dict[int, Measurement]] = {}
        with self._reading() as session:
            rows = session.execute(
                select(RepeatRow.file, RepeatRow.repeat, *_MEASURED)
                .join(MeasurementRow, MeasurementRow.key == RepeatRow.key)
                .where(RepeatRow.study == study)
                .order_by(RepeatRow.file, RepeatRow.repeat)
            )
            for file, repeat, *measured in rows:
                found.setdefault(file, {})[repeat] = Measurement.stored(measured)
        return found

    def repeat_keys(self, study: str) -> set[str]:
        """The keys of the measurements of the study's repeats."""
        with Session(self.engine) as session:
            return set(session.scalars(select(RepeatRow.key).where(RepeatRow.study == study)))

    def keys(self, study: str) -> set[str]:
        """The keys of all that the study measured: rungs, baselines, effects. Repeats are apart."""
        with Session(self.engine) as session:
            found = (
                session.scalars(select(each.key).where(each.study == study))
                for each in (RungRow, BaselineRow, EffectRow)
            )
            return {key for keys in found for key in keys}

    def measured_keys(self) -> set[str]:
        """The keys of all measurements."""
        with Session(self.engine) as session:
            return set(session.scalars(select(MeasurementRow.key)))

    def effects(self, study: str) -> Effects | None:
        """The effects of the parts of the study's space, None where none was measured."""
        with Session(self.engine) as session:
            rows = session.execute(
                select(EffectRow, MeasurementRow.size_bytes, MeasurementRow.valid_measure)
                .outerjoin(MeasurementRow, MeasurementRow.key == EffectRow.key)
                .where(EffectRow.study == study)
                .order_by(EffectRow.number)
            ).all()
        if not rows:
            return None
        (first, size_bytes, perplexity), *others = rows
        parts: dict[str, list[Effect]] = {}
        for row, _, reached in others:
            nats = math.log(reached / perplexity) if row.nats is None else row.nats
            effect = Effect(nats, row.site_bytes, tuple(row.parameters.items()))
            parts.setdefault(row.part, []).append(effect)
        return Effects(Effect(0.0, first.site_bytes), size_bytes, perplexity, parts)

    def effect_keys(self, study: str) -> set[str]:
        """The keys of the recipes of the study's effects."""
        with Session(self.engine) as session:
            return set(session.scalars(select(EffectRow.key).where(EffectRow.study == study)))


def _connect(file: Path) -> sqlite3.Connection:
    """A connection that makes no file of this name. Raises UserError where SQLite cannot read it.

    SQLite reads a file that it may not write. But beside one with a write-ahead log it makes two
    files, the log and its index, which are gone again in the end. Where the folder is read-only and
    has no log, the file is therefore opened as one that nobody changes.
    """
    log, index = (file.with_name(f"{file.name}-{end}") for end in ("wal", "shm"))
    immutable = not os.access(file.parent, os.W_OK) and not index.exists()
    if immutable and log.exists():
        raise UserError(
            f"{file} cannot be read where it is: the process that wrote {log.name} did not end "
            f"well, and the folder is read-only; copy both files to a folder that can be written"
        )
    uri = f"{file.absolute().as_uri()}?{'immutable=1' if immutable else 'mode=rw'}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)


def _lend(engine: Engine) -> None:
    """Give each connection of the engine, empty and temporary, the tables and the columns that its
    database lacks, so that whoever reads need not know which version wrote it. SQLite then refuses
    to write."""
    made, schema = [], inspect(engine).default_schema_name
    for one, columns in lacking(engine).items():
        typed = [(each.name, each.type.compile(engine.dialect)) for each in columns]
        if len(columns) == len(one.columns):
            shape = ", ".join(f"{name} {kind}" for name, kind in typed)
            made.append(f"CREATE TEMPORARY TABLE {one.name} ({shape})")
        else:
            more = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in typed)
            every = f"SELECT *, {more} FROM {schema}.{one.name}"
            made.append(f"CREATE TEMPORARY VIEW {one.name} AS {every}")
    if engine.dialect.name == "sqlite":
        made.append("PRAGMA query_only = ON")

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in made:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    engine.dispose()  # the connections from before
