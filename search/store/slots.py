"""Slots and leases: who works on what, so that no trial is lost, done twice or done too often.

Each trial that a study is to have, each baseline and each repeat is a slot. A worker claims a slot,
asks Optuna for a trial, fills the slot with that trial, and renews its lease while it works. When a
worker dies, its lease runs out. The next worker that looks for a slot takes this one over, together
with the trial that fills it. Each step is one UPDATE that succeeds for one worker only, on any
database.

A worker may die after asking Optuna for a trial and before filling its slot. That trial is an
orphan: Optuna says that it is running, but no slot has it. See `Slots.orphans`.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from sqlalchemy import (
    CursorResult,
    Engine,
    Select,
    Update,
    extract,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search.store.schema import SlotRow

Kind = Literal["baseline", "trial", "repeat"]
KINDS: tuple[Kind, ...] = ("baseline", "trial", "repeat")
_NOBODY: dict[str, Any] = {"worker": None, "expires_at": None}


def worker_name() -> str:
    """A name for a worker, unlike any other: HOST:PROCESS:RANDOM."""
    return f"{socket.gethostname()[:64]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Slot:
    """A slot that a worker has claimed, as it was at that moment."""

    kind: Kind
    name: str
    trial: int | None  # Optuna's number of the trial that an earlier worker began
    attempts: int  # this one included


@dataclass(frozen=True)
class Holding:
    """A slot that a worker works on."""

    kind: Kind
    name: str
    trial: int | None
    worker: str
    fraction: float
    seconds_left: float  # of the lease; below 0 once it has run out


@dataclass(frozen=True)
class Ended:
    """A slot that is done."""

    kind: Kind
    name: str
    trial: int | None
    outcome: str


class Slots:
    """The slots of one study, which is to have `trials` trials in total. `lease` is in seconds.

    Of the study's slots, those of `kinds` are claimed, counted and listed. Whoever works on others
    does not see these and is not seen, but in `held` and `unfinished`.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("baseline", "trial")

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
        """Make the slots that do not exist yet, and open the slots of these baselines again.

        `before` are the trials that have ended. A trial among them without a slot gets one that is
        done: it was made before lmpareto had slots.
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
        """Claim a slot for the worker: first one that another worker left behind, then a baseline,
        then a new trial; of repeats, by name. None where no slot is free now; `open` says how many
        may become free."""
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
        """Note the trial that fills the slot. False where the slot is no longer the worker's, and
        where the trial fills another slot."""
        try:
            return self._change(slot, worker, {"trial": trial})
        except IntegrityError:
            return False

    def vacate(self, slot: Slot, worker: str) -> bool:
        """Empty the slot for another trial. False where the slot is no longer the worker's."""
        return self._change(slot, worker, {"trial": None})

    def renew(self, slot: Slot, worker: str, fraction: float) -> bool:
        """Hold the slot for another lease. False where it is no longer the worker's."""
        with Session(self.engine) as session:
            expires_at = self._now(session) + self.lease
        return self._change(slot, worker, {"expires_at": expires_at, "fraction": fraction})

    def finish(self, slot: Slot, worker: str, outcome: str) -> bool:
        """Mark the slot as done. False where it is no longer the worker's."""
        ended = {"done": True, "fraction": 1.0, "outcome": outcome}
        return self._change(slot, worker, {**_NOBODY, **ended})

    def leave(self, slot: Slot, worker: str) -> bool:
        """Release the slot for any other worker. This attempt does not count."""
        return self._change(slot, worker, {**_NOBODY, "attempts": slot.attempts - 1})

    def free(self, worker: str) -> None:
        """Release every slot of a worker that has died."""
        with Session(self.engine) as session, session.begin():
            held = update(SlotRow).where(SlotRow.study == self.study, SlotRow.worker == worker)
            session.execute(held.values(**_NOBODY))

    def ended(self, first: str = "") -> list[Ended]:
        """The slots that are done, in no order: baselines, and trials' from the name `first` on."""
        with Session(self.engine) as session:
            columns = (SlotRow.kind, SlotRow.name, SlotRow.trial, SlotRow.outcome)
            rows = session.execute(
                select(*columns).where(
                    SlotRow.study == self.study,
                    SlotRow.done.is_(True),
                    SlotRow.kind.in_(self.kinds),
                    or_(SlotRow.kind != "trial", SlotRow.name >= first),
                )
            )
            return [Ended(_kind(kind), name, trial, said or "") for kind, name, trial, said in rows]

    def total(self) -> int:
        """How many trials the study is to have in total, by the sweeps so far."""
        with Session(self.engine) as session:
            return session.scalars(self._count("trial")).one()

    def repeats(self) -> tuple[int, int]:
        """How many repeats there are to be, and how many of them are done."""
        with Session(self.engine) as session:
            every = self._count("repeat")
            done = every.where(SlotRow.done.is_(True))
            return session.scalars(every).one(), session.scalars(done).one()

    def unfinished(self) -> bool:
        """Whether any slot is not done, however many trials the settings say."""
        with Session(self.engine) as session:
            left = select(func.count()).where(SlotRow.study == self.study, SlotRow.done.is_(False))
            return session.scalars(left).one() > 0

    def open(self, kinds: Collection[Kind] = KINDS) -> int:
        """How many slots are not done, of the trials within the total and of the other kinds."""
        with Session(self.engine) as session:
            count = self._wanted(select(func.count()).select_from(SlotRow))
            return int(session.scalars(count.where(SlotRow.kind.in_(kinds))).one())

    def first_open(self) -> dict[Kind, tuple[int, str]]:
        """Kind -> how many of its slots are not done, as `open` counts, and the first name of them.
        A kind without such a slot is left out."""
        counts = select(SlotRow.kind, func.count(), func.min(SlotRow.name))
        counted = self._wanted(cast(Select[Any], counts))
        with Session(self.engine) as session:
            rows = session.execute(counted.group_by(SlotRow.kind))
            return {_kind(kind): (count, name) for kind, count, name in rows}

    def orphans(self, running: Iterable[int], worker: str) -> list[int]:
        """The trials among `running` that have no slot and will get none, because the worker that
        asked Optuna for them died before it filled its slot.

        `running` must be read before this call: a worker that fills its slot in between is then
        seen here. The answer is empty while any other worker holds a slot that it has not filled,
        since an orphan may yet turn out to be that worker's trial. `worker` is the caller.
        """
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

    def held(self, kinds: Collection[Kind] = KINDS) -> list[Holding]:
        """The slots of these kinds that are claimed and not done."""
        with Session(self.engine) as session:
            now = self._now(session)
            rows = session.scalars(
                select(SlotRow).where(
                    SlotRow.study == self.study,
                    SlotRow.done.is_(False),
                    SlotRow.worker.is_not(None),
                    SlotRow.kind.in_(kinds),
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

    def _count(self, kind: Kind) -> Select[int]:
        return select(func.count()).where(SlotRow.study == self.study, SlotRow.kind == kind)

    def _wanted(self, query: Select[Any]) -> Select[Any]:
        """The query for slots of `kinds` that are not done, without trials beyond the total."""
        within = or_(SlotRow.kind != "trial", SlotRow.name < _numbered(self.trials))
        mine = (SlotRow.study == self.study, SlotRow.kind.in_(self.kinds))
        return query.where(*mine, SlotRow.done.is_(False), within)

    def _row(self, kind: Kind, name: str) -> SlotRow:
        return SlotRow(study=self.study, kind=kind, name=name, done=False, attempts=0, fraction=0.0)

    def _now(self, session: Session) -> float:
        """The time in seconds since 1970, by the clock that all workers share: the database's, or
        the one that was given."""
        if self.clock is not None:
            return self.clock()
        if self.engine.dialect.name == "sqlite":
            return time.time()  # all its workers are on one machine
        clock = select(extract("epoch", func.clock_timestamp()))
        return float(session.scalars(clock).one())


def _changed(session: Session, statement: Update) -> bool:
    """Run the statement. Whether it changed exactly one row."""
    done = session.execute(statement.execution_options(synchronize_session=False))
    return cast(CursorResult[Any], done).rowcount == 1


def _numbered(number: int) -> str:
    """The name of a trial's slot. Names sort as their numbers do."""
    return f"{number:08d}"


def _kind(text: str) -> Kind:
    return next(kind for kind in KINDS if kind == text)
