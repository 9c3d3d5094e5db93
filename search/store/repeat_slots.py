"""The slots of trainings with other seeds, which a sweep neither sees nor disturbs."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from sqlalchemy import delete, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search.store.schema import SlotRow
from search.store.slots import Kind, Slots


class RepeatSlots(Slots):
    """The slots of a study's repeats. They are claimed by name."""

    kinds: ClassVar[tuple[Kind, ...]] = ("repeat",)

    def provide_repeats(self, names: Collection[str], done: Collection[str]) -> None:
        """Make the slots of these repeats, those that are `done` already as such, and open those
        that failed again. What is neither among `names` nor done nor held is no job any more."""
        while True:
            try:
                return self._provide_repeats(names, done)
            except IntegrityError:
                continue  # another process made some at the same moment

    def _provide_repeats(self, names: Collection[str], done: Collection[str]) -> None:
        with Session(self.engine) as session, session.begin():
            mine = (SlotRow.study == self.study, SlotRow.kind == "repeat")
            free = or_(SlotRow.expires_at.is_(None), SlotRow.expires_at < self._now(session))
            known = {row.name: row for row in session.scalars(select(SlotRow).where(*mine))}
            gone = [name for name, row in known.items() if not row.done and name not in names]
            session.execute(delete(SlotRow).where(*mine, SlotRow.name.in_(gone), free))
            for name in names:
                row = known.get(name)
                if row is None:
                    row = self._row("repeat", name)
                    session.add(row)
                    if name in done:
                        row.done, row.fraction, row.outcome = True, 1.0, ""
                elif row.done and name not in done:
                    row.done, row.attempts, row.fraction, row.outcome = False, 0, 0.0, None
