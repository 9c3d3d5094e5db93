"""Slots and leases: who works on what, so that nothing is lost, done twice or done too often.

Each trial of the N that a study is to have, and each baseline, is a slot. A worker claims one,
fills it with a trial of Optuna's, and renews its lease while it works. When a worker dies its
lease runs out, and the next to look takes over the slot with the very trial that fills it.
Every step is one UPDATE that succeeds for one worker alone, on any database.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import CursorResult, Engine, Select, Update, extract, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search.store.schema import SlotRow

Kind = Literal["baseline", "trial"]
_NOBODY: dict[str, Any] = {"worker": None, "expires_at": None}


def worker_name() -> str:
    """A name that no other worker has, and that says where it runs."""
    return f"{socket.gethostname()[:64]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Slot:
    """A slot as its worker claimed it."""

    kind: Kind
    name: str
    trial: int | None  # of Optuna's, where an earlier worker began one
    attempts: int  # this one included


@dataclass(frozen=True)
class Holding:
    """A slot that somebody works on."""

    kind: Kind
    name: str
    trial: int | None
    worker: str
    fraction: float
    seconds_left: float  # of its lease; below 0 once that has run out


@dataclass(frozen=True)
class Ended:
    """A slot that is done."""

    kind: Kind
    name: str
    trial: int | None
    outcome: str


class Slots:
    """The slots of one study, which is to have so many trials in total; `lease` is in seconds."""

    def __init__(
        self,
        engine: Engine,
        study: str,
        trials: int,
        lease: float,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.engine, self.study, self.trials, self.lease = engine, study, trials, lease
        self.clock = clock

    def provide(self, baselines: Iterable[str], before: Iterable[int]) -> None:
        """Make the slots that do not exist yet, and open those of the baselines again.

        `before` are the trials that ended: those of studies from before there were slots have
        theirs now.
        """
        while True:
            try:
                return self._provide(list(baselines), list(before))
            except IntegrityError:
                continue  # another sweep made some at the same moment

    def _provide(self, baselines: list[str], before: list[int]) -> None:
        with Session(self.engine) as session, session.begin():
            rows = list(session.scalars(select(SlotRow).where(SlotRow.study == self.study)))
            known = {(row.kind, row.name): row for row in rows}
            for name in baselines:
                row = known.get(("baseline", name))
                if row is None:
                    session.add(self._row("baseline", name))
                elif row.done:
                    row.done, row.attempts, row.outcome = False, 0, None
            filled = {row.trial for row in rows}
            numbers = itertools.count(sum(row.kind == "trial" for row in rows))
            for trial in before:
                if trial not in filled:
                    row = self._row("trial", _numbered(next(numbers)))
                    row.trial, row.done, row.fraction, row.outcome = trial, True, 1.0, ""
                    session.add(row)
            for number in range(next(numbers), self.trials):
                session.add(self._row("trial", _numbered(number)))

    def claim(self, worker: str) -> Slot | None:
        """A slot to work on: one that a worker left behind, a baseline, a free one, in this order.
        None where there is none now; `open` says whether there may be one later."""
        while True:
            with Session(self.engine) as session, session.begin():
                now = self._now(session)
                free = or_(SlotRow.expires_at.is_(None), SlotRow.expires_at < now)
                row = session.scalars(
                    self._wanted(select(SlotRow))
                    .where(free)
                    .order_by(
                        SlotRow.trial.is_(None), SlotRow.attempts.desc(), SlotRow.kind, SlotRow.name
                    )
                    .limit(1)
                ).first()
                if row is None:
                    return None
                kind, name, trial, attempts = row.kind, row.name, row.trial, row.attempts
                claimed = _changed(
                    session,
                    update(SlotRow)
                    .where(
                        *self._key(kind, name),
                        SlotRow.done.is_(False),
                        SlotRow.attempts == attempts,
                        SlotRow.trial.is_not_distinct_from(trial),
                        free,
                    )
                    .values(worker=worker, expires_at=now + self.lease, attempts=attempts + 1),
                )
                if claimed:
                    return Slot(_kind(kind), name, trial, attempts + 1)

    def fill(self, slot: Slot, worker: str, trial: int) -> bool:
        """Note the trial that the slot is for; False where the slot is the worker's no more, or
        the trial has another."""
        try:
            return self._change(slot, worker, {"trial": trial})
        except IntegrityError:
            return False

    def vacate(self, slot: Slot, worker: str) -> bool:
        """Keep the slot, but for another trial than the one that filled it."""
        return self._change(slot, worker, {"trial": None})

    def renew(self, slot: Slot, worker: str, fraction: float) -> bool:
        """Hold the slot for another lease; False where it is the worker's no more."""
        with Session(self.engine) as session:
            expires_at = self._now(session) + self.lease
        return self._change(slot, worker, {"expires_at": expires_at, "fraction": fraction})

    def finish(self, slot: Slot, worker: str, outcome: str) -> bool:
        """The job is done; False where it is the worker's no more."""
        ended = {"done": True, "fraction": 1.0, "outcome": outcome}
        return self._change(slot, worker, {**_NOBODY, **ended})

    def leave(self, slot: Slot, worker: str) -> bool:
        """Let another go on with it, at once, as if this attempt had not been."""
        return self._change(slot, worker, {**_NOBODY, "attempts": slot.attempts - 1})

    def free(self, worker: str) -> None:
        """Let others go on with what a worker held that has died."""
        with Session(self.engine) as session, session.begin():
            held = update(SlotRow).where(SlotRow.study == self.study, SlotRow.worker == worker)
            session.execute(held.values(**_NOBODY))

    def ended(self) -> list[Ended]:
        """What is done, in no order."""
        with Session(self.engine) as session:
            columns = (SlotRow.kind, SlotRow.name, SlotRow.trial, SlotRow.outcome)
            rows = session.execute(
                select(*columns).where(SlotRow.study == self.study, SlotRow.done.is_(True))
            )
            return [Ended(_kind(kind), name, trial, said or "") for kind, name, trial, said in rows]

    def total(self) -> int:
        """How many trials the study is to have, by what was asked of it so far."""
        with Session(self.engine) as session:
            trials = select(func.count()).where(
                SlotRow.study == self.study, SlotRow.kind == "trial"
            )
            return session.scalars(trials).one()

    def open(self) -> int:
        """How many slots are not done."""
        with Session(self.engine) as session:
            count = self._wanted(select(func.count()).select_from(SlotRow))
            return int(session.scalars(count).one())

    def orphans(self, running: Iterable[int], worker: str) -> list[int]:
        """Those of the running trials, as they were before this is asked, that have no slot and
        will get none: their worker died between asking for them and filling its slot."""
        running = list(running)
        if not running:
            return []
        with Session(self.engine) as session:
            asking = (
                select(func.count())
                .select_from(SlotRow)
                .where(
                    SlotRow.study == self.study,
                    SlotRow.kind == "trial",
                    SlotRow.trial.is_(None),
                    SlotRow.worker != worker,
                    SlotRow.expires_at >= self._now(session),
                )
            )
            filled = select(SlotRow.trial).where(
                SlotRow.study == self.study, SlotRow.trial.in_(running)
            )
            if session.scalars(asking).one():
                return []
            return sorted(set(running) - set(session.scalars(filled)))

    def held(self) -> list[Holding]:
        """Who works on what now."""
        with Session(self.engine) as session:
            now = self._now(session)
            rows = session.scalars(
                select(SlotRow).where(
                    SlotRow.study == self.study,
                    SlotRow.done.is_(False),
                    SlotRow.worker.is_not(None),
                )
            )
            return [
                Holding(
                    kind=_kind(row.kind),
                    name=row.name,
                    trial=row.trial,
                    worker=row.worker or "",
                    fraction=row.fraction,
                    seconds_left=(row.expires_at or now) - now,
                )
                for row in rows
            ]

    def _change(self, slot: Slot, worker: str, values: dict[str, Any]) -> bool:
        mine = (*self._key(slot.kind, slot.name), SlotRow.worker == worker, SlotRow.done.is_(False))
        with Session(self.engine) as session, session.begin():
            return _changed(session, update(SlotRow).where(*mine).values(**values))

    def _key(self, kind: str, name: str) -> tuple[Any, ...]:
        return (SlotRow.study == self.study, SlotRow.kind == kind, SlotRow.name == name)

    def _wanted(self, query: Select[Any]) -> Select[Any]:
        """Those that are not done, the trials beyond the total left out."""
        within = or_(SlotRow.kind != "trial", SlotRow.name < _numbered(self.trials))
        return query.where(SlotRow.study == self.study, SlotRow.done.is_(False), within)

    def _row(self, kind: Kind, name: str) -> SlotRow:
        return SlotRow(study=self.study, kind=kind, name=name, done=False, attempts=0, fraction=0.0)

    def _now(self, session: Session) -> float:
        """The clock that all workers share, in seconds since 1970: the database's, where none was
        given."""
        if self.clock is not None:
            return self.clock()
        if self.engine.dialect.name == "sqlite":
            return time.time()  # all its workers are on one machine
        clock = select(extract("epoch", func.clock_timestamp()))
        return float(session.scalars(clock).one())


def _changed(session: Session, statement: Update) -> bool:
    """Whether the statement changed its row."""
    done = session.execute(statement.execution_options(synchronize_session=False))
    return cast(CursorResult[Any], done).rowcount == 1


def _numbered(number: int) -> str:
    """The name of a trial's slot: in the order of the numbers."""
    return f"{number:08d}"


def _kind(text: str) -> Kind:
    return "trial" if text == "trial" else "baseline"
