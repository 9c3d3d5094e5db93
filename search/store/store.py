"""SQL: Optuna's tables, and the few of our own beside them.

A measurement is stored under its key, the hash of everything that it depends on: recipe, dense
checkpoint, corpus and seed. Studies refer to measurements by key, so no recipe is trained twice,
not even by different studies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from optuna import delete_study
from optuna.distributions import IntDistribution, distribution_to_json
from optuna.storages import RDBStorage
from sqlalchemy import URL, Engine, column, delete, event, select, table, update
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from lmcore.errors import UserError
from search.measurement import Measurement
from search.store.migrations import upgrade
from search.store.outage import GoneError
from search.store.reader import BUSY_SECONDS, STUDIES, Reader
from search.store.schema import (
    Base,
    BaselineRow,
    EffectRow,
    MeasurementRow,
    RepeatRow,
    RungRow,
    SlotRow,
)
from search.store.slots import Slots

# the columns of Optuna's that are written here
_TRIALS = table("trials", column("trial_id"), column("study_id"))
_PARAMS = table(
    "trial_params", column("trial_id"), column("param_name"), column("distribution_json")
)
_OF_A_STUDY = [each for each in Base.metadata.sorted_tables if "study" in each.columns]
T = TypeVar("T")
OPENINGS = 4  # attempts at a database in which another process makes the same tables


@dataclass(frozen=True)
class MeasuredPart:
    """A setting of a part, the key of its recipe, and its effect."""

    part: str
    parameters: dict[str, Any]
    key: str
    site_bytes: dict[str, int]
    nats: float


class Store(Reader):
    """The database of a storage URL, for what writes it.

    The constructor makes our tables or brings them up to date; `optuna` makes Optuna's when it is
    first asked for.
    """

    def _target(self) -> tuple[URL, dict[str, Any]]:
        url, file = self.settings.resolved, self.settings.file
        if file is not None:
            _make_folder(file.parent)
        waiting = {"connect_args": {"timeout": BUSY_SECONDS}} if _is_sqlite(url) else {}
        return url, {"pool_pre_ping": True, **waiting}

    def _prepare(self) -> None:
        if _is_sqlite(self._url):
            _write_ahead(self.engine)
        _made(lambda: upgrade(self.engine))
        self._guard(self.engine)

    def _opened(self) -> RDBStorage:
        opened = _made(lambda: self._checked(make_tables=not self._is_stamped()))
        if _is_sqlite(self._url):
            _write_ahead(opened.engine)
        self._guard(opened.engine)
        return opened

    def _guard(self, engine: Engine) -> None:
        """Make the engine raise GoneError once its file is deleted or replaced. SQLite would go on
        writing into the deleted file, or begin a new one."""
        if (file := self.settings.file) is None:
            return
        begun = _identity(file)

        def look(*_: Any) -> None:
            if _identity(file) != begun:
                raise GoneError(
                    f"the database {file} was deleted, moved or replaced while it was in use; put "
                    f"it back and the same command goes on, or a sweep begins its study anew"
                )

        event.listen(engine, "do_connect", look)
        event.listen(engine, "checkout", look)

    def keep(self, measurement: Measurement) -> None:
        """Store a measurement. The first one under a key stays."""
        row = MeasurementRow(**asdict(measurement), measured_at=datetime.now(UTC))
        with self._writing() as session:
            session.add(row)

    def keep_speed(self, key: str, relative_speed: float) -> None:
        """Store the relative speed of a measured file. The first one stays."""
        row = update(MeasurementRow).where(
            MeasurementRow.key == key, MeasurementRow.relative_speed.is_(None)
        )
        with self._writing() as session:
            session.execute(row.values(relative_speed=relative_speed))

    def keep_baseline(self, study: str, name: str, key: str) -> None:
        self._merge(BaselineRow(study=study, name=name, key=key))

    def keep_rung(self, study: str, trial: int, rung: int, key: str) -> None:
        self._merge(RungRow(study=study, trial=trial, rung=rung, key=key))

    def keep_repeat(self, study: str, file: str, repeat: int, key: str) -> None:
        self._merge(RepeatRow(study=study, file=file, repeat=repeat, key=key))

    def _merge(self, row: Base) -> None:
        with self._writing() as session:
            session.merge(row)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """Stores all that is done inside, or nothing where another process stores the same at the
        same moment: it took over a slot, or measured the same recipe."""
        with suppress(IntegrityError), Session(self.engine) as session, session.begin():
            yield session

    def keep_effects(self, study: str, measured: Iterable[MeasuredPart]) -> None:
        """Replace the study's effects. The first one is the model that the parts act on, whose
        measurement is stored under its key."""
        with self._writing() as session:
            session.execute(delete(EffectRow).where(EffectRow.study == study))
            for number, one in enumerate(measured):
                session.add(EffectRow(study=study, number=number, **asdict(one)))

    def remove(self, slots: Slots) -> None:
        """Delete the study of these slots: our rows of it in one transaction, then Optuna's. Where
        the second does not happen, removing the study again does it.

        Measurements stay, since they are no study's own. Raises UserError where a worker holds one
        of the slots.
        """
        with self._at_rest(slots) as session:
            for each in _OF_A_STUDY:
                session.execute(delete(each).where(each.c.study == slots.study))
        delete_study(study_name=slots.study, storage=self.optuna)

    def rename(self, slots: Slots, name: str) -> None:
        """Give the study of these slots another name, in one transaction.

        Raises UserError where the name is taken, and where a worker holds one of the slots.
        """
        try:
            with self._at_rest(slots) as session:
                for each in _OF_A_STUDY:
                    ours = update(each).where(each.c.study == slots.study)
                    session.execute(ours.values(study=name))
                theirs = update(STUDIES).where(STUDIES.c.study_name == slots.study)
                session.execute(theirs.values(study_name=name))
        except IntegrityError:
            raise UserError(
                f"to: {self.settings.shown} has a study {name} already, or what it measured before "
                f"it began; choose another name, or lmpareto remove study={name} first"
            ) from None

    @contextmanager
    def _at_rest(self, slots: Slots) -> Iterator[Session]:
        """A transaction in which no worker can claim a slot of the study.

        Raises UserError where one holds a slot already.
        """
        assert self.optuna, "its tables are of a version that is known"
        with Session(self.engine) as session, session.begin():
            lock = update(SlotRow).where(SlotRow.study == slots.study)
            session.execute(lock.values(attempts=SlotRow.attempts))
            held = [one for one in slots.held() if one.seconds_left > 0]
            if held:
                left = max(one.seconds_left for one in held)
                raise UserError(
                    f"study {slots.study} is worked on by {', '.join(one.worker for one in held)}; "
                    f"stop what works on it, or wait {left:.0f} s if that has died"
                )
            yield session

    def widen(self, study: str, lengths: dict[str, int]) -> None:
        """Widen the ranges of earlier trials after ordered lists have grown to these `lengths`.

        Optuna stores with each value the range that it was drawn from. Its TPE sampler in groups
        draws a parameter from the first range that it finds, so without this it would never come to
        the new entries. Optuna has no call that changes a range, so this writes Optuna's table. The
        values stay, since a longer list leaves the index of every earlier entry as it was.
        """
        known = select(STUDIES.c.study_id).where(STUDIES.c.study_name == study)
        trials = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == known.scalar_subquery())
        with self.optuna.engine.begin() as connection:
            for name, length in lengths.items():
                range_ = distribution_to_json(IntDistribution(0, length - 1))
                connection.execute(
                    update(_PARAMS)
                    .where(_PARAMS.c.param_name == name, _PARAMS.c.trial_id.in_(trials))
                    .values(distribution_json=range_)
                )


def _identity(file: Path) -> tuple[int, int] | None:
    """What tells a file from any other that has its name, None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


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
