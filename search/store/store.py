"""SQL: Optuna's tables, and the few of our own beside them.

A measurement is stored under its key, the hash of everything that it depends on: recipe, dense
checkpoint, corpus and seed. Studies refer to measurements by key, so no recipe is trained twice,
not even by different studies.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.distributions import IntDistribution, distribution_to_json
from sqlalchemy import Engine, column, create_engine, delete, event, inspect, select, table, update
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import Session

from lmcore.errors import UserError
from search.measurement import Measurement
from search.rules.fidelity import Look
from search.rules.sensitivity import Effect, Effects
from search.store.migrations import upgrade
from search.store.outage import AwayError, reason
from search.store.schema import Base, BaselineRow, EffectRow, MeasurementRow, RungRow
from search.store.settings import StorageSettings

# the columns of Optuna's that are read or written here
_STUDIES = table("studies", column("study_id"), column("study_name"))
_TRIALS = table("trials", column("trial_id"), column("study_id"))
_PARAMS = table(
    "trial_params", column("trial_id"), column("param_name"), column("distribution_json")
)
T = TypeVar("T")
BUSY_SECONDS = 60  # how long a writer waits for another on SQLite
OPENINGS = 4  # attempts at a database in which another process makes the same tables


@dataclass(frozen=True)
class MeasuredPart:
    """A setting of a part, the key of its recipe, and its effect."""

    part: str
    parameters: dict[str, Any]
    key: str
    site_bytes: dict[str, int]
    nats: float


class Store:
    """The database of a storage URL.

    The constructor makes our tables or brings them up to date; `optuna` does the same for Optuna's
    when it is first asked for. Both raise AwayError where the database cannot be opened now, and
    UserError where it never can.
    """

    def __init__(self, settings: StorageSettings) -> None:
        settings.check()
        self.settings, self._url = settings, settings.resolved
        self._options: dict[str, Any] = {"pool_pre_ping": True}
        if self._is_sqlite:
            self._options["connect_args"] = {"timeout": BUSY_SECONDS}
            if self._url.database and self._url.database != ":memory:":
                _make_folder(Path(self._url.database).parent)
        with self._opening():
            self.engine = create_engine(self._url, **self._options)
            if self._is_sqlite:
                _write_ahead(self.engine)
            _made(lambda: upgrade(self.engine))

    @cached_property
    def optuna(self) -> optuna.storages.RDBStorage:
        """Optuna's storage in this database."""
        url = self._url.render_as_string(hide_password=False)
        with self._opening():
            opened = _made(lambda: optuna.storages.RDBStorage(url, engine_kwargs=self._options))
        if self._is_sqlite:
            _write_ahead(opened.engine)
        return opened

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Says as a UserError what is wrong with a database that is opened."""
        shown = self.settings.shown
        try:
            yield
        except ModuleNotFoundError as error:
            raise UserError(f"storage.url {shown}: install its driver, {error.name}") from None
        except RuntimeError as error:  # the tables of another version of Optuna
            raise UserError(f"cannot use the storage {shown}: {error}") from None
        except SQLAlchemyError as error:
            kind = AwayError if isinstance(error, OperationalError) else UserError
            raise kind(f"cannot open the storage {shown}: {reason(error)}") from None

    def has_study(self, name: str) -> bool:
        """Whether Optuna's tables, if there are any, know a study of that name."""
        with self.engine.connect() as connection:
            if not inspect(connection).has_table(_STUDIES.name):
                return False
            known = select(_STUDIES.c.study_id).where(_STUDIES.c.study_name == name)
            return connection.scalar(known) is not None

    def measurement(self, key: str) -> Measurement | None:
        """The measurement under the key, None where there is none."""
        with Session(self.engine) as session:
            row = session.get(MeasurementRow, key)
            return _measurement(row) if row else None

    def measurements(self, keys: list[str]) -> dict[str, Measurement]:
        """Key -> measurement, for the keys that have one."""
        with Session(self.engine) as session:
            rows = session.query(MeasurementRow).filter(MeasurementRow.key.in_(keys)).all()
            return {row.key: _measurement(row) for row in rows}

    def keep(self, measurement: Measurement) -> None:
        """Store a measurement. The first one under a key stays."""
        row = MeasurementRow(**measurement.plain(), measured_at=datetime.now(UTC))
        with self._writing() as session:
            session.add(row)

    def baselines(self, study: str) -> dict[str, str]:
        """Name -> key, of the baselines that were measured."""
        with Session(self.engine) as session:
            rows = session.query(BaselineRow).filter_by(study=study).all()
            return {row.name: row.key for row in rows}

    def keep_baseline(self, study: str, name: str, key: str) -> None:
        self._merge(BaselineRow(study=study, name=name, key=key))

    def looks(self, study: str) -> list[Look]:
        """The look of every trial of the study at every rung where it was measured."""
        with Session(self.engine) as session:
            rows = session.execute(
                select(
                    RungRow.trial,
                    RungRow.rung,
                    MeasurementRow.size_bytes,
                    MeasurementRow.valid_perplexity,
                )
                .join(MeasurementRow, MeasurementRow.key == RungRow.key)
                .where(RungRow.study == study)
                .order_by(RungRow.trial, RungRow.rung)
            )
            return [Look(*row) for row in rows]

    def keep_rung(self, study: str, trial: int, rung: int, key: str) -> None:
        self._merge(RungRow(study=study, trial=trial, rung=rung, key=key))

    def _merge(self, row: Base) -> None:
        with self._writing() as session:
            session.merge(row)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """Stores all that is done inside, or nothing where another process stores the same at the
        same moment: it took over a slot, or measured the same recipe."""
        with suppress(IntegrityError), Session(self.engine) as session, session.begin():
            yield session

    def effects(self, study: str) -> Effects | None:
        """The effects of the parts of the study's space, None where none was measured."""
        with Session(self.engine) as session:
            rows = session.execute(
                select(EffectRow, MeasurementRow.size_bytes, MeasurementRow.valid_perplexity)
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

    def keep_effects(self, study: str, measured: Iterable[MeasuredPart]) -> None:
        """Replace the study's effects. The first one is the model that the parts act on, whose
        measurement is stored under its key."""
        with self._writing() as session:
            session.execute(delete(EffectRow).where(EffectRow.study == study))
            for number, one in enumerate(measured):
                session.add(EffectRow(study=study, number=number, **asdict(one)))

    def widen(self, study: str, lengths: dict[str, int]) -> None:
        """Widen the ranges of earlier trials after ordered lists have grown to these `lengths`.

        Optuna stores with each value the range that it was drawn from. Its TPE sampler in groups
        draws a parameter from the first range that it finds, so without this it would never come to
        the new entries. Optuna has no call that changes a range, so this writes Optuna's table. The
        values stay, since a longer list leaves the index of every earlier entry as it was.
        """
        known = select(_STUDIES.c.study_id).where(_STUDIES.c.study_name == study)
        trials = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == known.scalar_subquery())
        with self.optuna.engine.begin() as connection:
            for name, length in lengths.items():
                range_ = distribution_to_json(IntDistribution(0, length - 1))
                connection.execute(
                    update(_PARAMS)
                    .where(_PARAMS.c.param_name == name, _PARAMS.c.trial_id.in_(trials))
                    .values(distribution_json=range_)
                )


def _measurement(row: MeasurementRow) -> Measurement:
    return Measurement(**{name: getattr(row, name) for name in Measurement.__dataclass_fields__})


def _made(make: Callable[[], T]) -> T:
    """What `make` makes; tried again where another process makes the same tables just now."""
    for attempt in range(OPENINGS):
        try:
            return make()
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            # another process makes the same tables at the same moment
            raced = any(word in str(error.orig).lower() for word in ("exist", "unique", "lock"))
            if not raced or attempt + 1 == OPENINGS:
                raise
        time.sleep((attempt + 1) / 4)
    raise AssertionError


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None


def _write_ahead(engine: Engine) -> None:
    """Use SQLite's write-ahead log: readers do not wait for a writer, and fewer writes wait for the
    disk. Storing a trial then takes half the time."""

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()
