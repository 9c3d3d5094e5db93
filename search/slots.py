"""Slots and leases: who works on what, so that nothing is lost, done twice or done too often.

Each trial of the N that a study is to have, and each baseline, is a slot. A worker claims one,
fills it with a trial of Optuna's, and renews its lease while it works. When a worker dies its
lease runs out, and the next to look takes over the slot with the very trial that fills it.
Every step is one UPDATE that succeeds for one worker alone, on any database.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import CursorResult, Engine, Select, Update, func, or_, select, update
from sqlalchemy.orm import Session

from search.schema import SlotRow

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


class Slots:
    """The slots of one study; `lease` is in seconds."""

    def __init__(self, engine: Engine, study: str, lease: float) -> None:
        self.engine, self.study, self.lease = engine, study, lease

    def provide(self, kind: Kind, names: Iterable[str]) -> None:
        """Make the slots that do not exist yet."""
        with Session(self.engine) as session, session.begin():
            known = set(session.scalars(self._mine(select(SlotRow.name), kind)))
            session.add_all(
                SlotRow(
                    study=self.study,
                    kind=kind,
                    name=name,
                    done=False,
                    trial=None,
                    worker=None,
                    expires_at=None,
                    attempts=0,
                    fraction=0.0,
                )
                for name in names
                if name not in known
            )

    def claim(self, worker: str) -> Slot | None:
        """A slot to work on: one that a worker left behind, a baseline, a free one, in this order.
        None where there is none now; `open` says whether there may be one later."""
        while True:
            with Session(self.engine) as session, session.begin():
                now = self._now(session)
                free = or_(SlotRow.expires_at.is_(None), SlotRow.expires_at < now)
                row = session.scalars(
                    select(SlotRow)
                    .where(SlotRow.study == self.study, SlotRow.done.is_(False), free)
                    .order_by(SlotRow.attempts.desc(), SlotRow.kind, SlotRow.name)
                    .limit(1)
                ).first()
                if row is None:
                    return None
                kind, name, attempts = row.kind, row.name, row.attempts
                claimed = _changed(
                    session,
                    update(SlotRow)
                    .where(*self._key(kind, name), SlotRow.attempts == attempts, free)
                    .values(worker=worker, expires_at=now + self.lease, attempts=attempts + 1),
                )
                if claimed:
                    return Slot(_kind(kind), name, row.trial, attempts + 1)

    def fill(self, slot: Slot, worker: str, trial: int) -> bool:
        """Note the trial that the slot is for; False where the slot is the worker's no more."""
        return self._change(slot, worker, {"trial": trial})

    def renew(self, slot: Slot, worker: str, fraction: float) -> bool:
        """Hold the slot for another lease; False where it is the worker's no more."""
        with Session(self.engine) as session:
            expires_at = self._now(session) + self.lease
        return self._change(slot, worker, {"expires_at": expires_at, "fraction": fraction})

    def finish(self, slot: Slot, worker: str) -> bool:
        """The job is done; False where it is the worker's no more."""
        return self._change(slot, worker, {**_NOBODY, "done": True, "fraction": 1.0})

    def leave(self, slot: Slot, worker: str) -> bool:
        """Let another go on with it, at once."""
        return self._change(slot, worker, _NOBODY)

    def vacate(self, slot: Slot, worker: str) -> bool:
        """Keep the slot, but for another trial than the one that filled it."""
        return self._change(slot, worker, {"trial": None})

    @property
    def open(self) -> int:
        """How many slots are not done."""
        with Session(self.engine) as session:
            count = select(func.count()).select_from(SlotRow)
            where = (SlotRow.study == self.study, SlotRow.done.is_(False))
            return session.scalars(count.where(*where)).one()

    @property
    def filled(self) -> set[int]:
        """The trials that have a slot."""
        with Session(self.engine) as session:
            found = self._mine(select(SlotRow.trial), "trial").where(SlotRow.trial.is_not(None))
            return {trial for trial in session.scalars(found) if trial is not None}

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

    def _mine(self, query: Select[Any], kind: Kind) -> Select[Any]:
        return query.where(SlotRow.study == self.study, SlotRow.kind == kind)

    def _now(self, session: Session) -> float:
        """The database's clock, which all workers share."""
        if self.engine.dialect.name == "sqlite":
            return time.time()  # all its workers are on one machine
        clock = select(func.extract("epoch", func.clock_timestamp()))
        return float(session.scalars(clock).one())


def _changed(session: Session, statement: Update) -> bool:
    """Whether the statement changed its row."""
    done = session.execute(statement.execution_options(synchronize_session=False))
    return cast(CursorResult[Any], done).rowcount == 1


def _kind(text: str) -> Kind:
    return "trial" if text == "trial" else "baseline"
