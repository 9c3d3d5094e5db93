"""What lmpareto stores with a trial, beside what Optuna stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter, ValidationError

from lmcore.errors import UserError
from search.store.trials import StoredTrial

ATTRIBUTE = "lmpareto"  # one JSON attribute for the whole note, since each write is a transaction


@dataclass(frozen=True)
class TrialNote:
    """The note of a trial. It is stored as JSON, without the fields that are at their default.

    `recipe` is plain data: at first the recipe that was asked for, at the end the recipe of the
    trial's best file.
    """

    asked: str | None = None  # key of the whole recipe, at its last rung
    recipe: Mapping[str, Any] | None = None
    key: str | None = None  # of the measurement of its best file, which gives the trial's values
    moved: Mapping[str, Any] = field(default_factory=dict)  # parameters that moved to fit max_size
    failure: str | None = None  # why it has no values or missed its last rung
    duplicate: bool = False  # another trial has the same recipe
    surplus: bool = False  # an orphan: its worker died or lost the answer
    last_rung: int | None = None  # of its ladder; earlier versions did not store it
    seconds: Mapping[str, float] = field(default_factory=dict)  # "ask", "fit": before its files

    @classmethod
    def of(cls, row: FrozenTrial | StoredTrial) -> TrialNote:
        """The note of a stored trial; an empty note where it has none. Raises UserError for a note
        that lmpareto did not write."""
        stored = row.user_attrs.get(ATTRIBUTE, {})
        try:
            return _NOTE.validate_python(stored)
        except ValidationError as error:
            (wrong,) = error.errors()[:1]
            name = ".".join(map(str, (ATTRIBUTE, *wrong["loc"])))
            raise UserError(
                f"trial {row.number}: its attribute {name} is damaged, {wrong['msg'].lower()}; "
                f"restore the database, or begin another study"
            ) from None

    def write(self, trial: optuna.trial.Trial) -> None:
        """Store the note with the trial, instead of the one before."""
        blank = asdict(TrialNote())
        told = {name: value for name, value in asdict(self).items() if value != blank[name]}
        trial.set_user_attr(ATTRIBUTE, told)

    @property
    def takes_slot(self) -> bool:
        """Whether the trial counts among those that the study is to have. Duplicates and orphans do
        not."""
        return not (self.duplicate or self.surplus)


_NOTE = TypeAdapter(TrialNote)
