"""What is noted of a trial beside what Optuna keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import optuna
from optuna.trial import FrozenTrial

ATTRIBUTE = "lmpareto"  # one JSON attribute a trial: each write is a transaction


@dataclass(frozen=True)
class TrialNote:
    """The note of a trial; stored as JSON, without the fields that are at their default.

    `recipe` is plain data: what was asked for, then what was measured at the rung that was reached.
    """

    asked: str | None = None  # key of the recipe that was asked for, at its last rung
    recipe: Mapping[str, Any] | None = None
    key: str | None = None  # of the measurement that the trial's values are
    moved: Mapping[str, Any] = field(default_factory=dict)  # parameters, to fit max_size
    failure: str | None = None  # why the trial has no values, or did not come to its last rung
    duplicate: bool = False  # another trial has the same recipe
    surplus: bool = False  # asked for in vain, by a worker that died or lost the answer

    @classmethod
    def of(cls, row: FrozenTrial) -> TrialNote:
        """The note of a stored trial, an empty one where it has none."""
        stored = row.user_attrs.get(ATTRIBUTE, {})
        return cls(**{one.name: stored[one.name] for one in fields(cls) if one.name in stored})

    def write(self, trial: optuna.trial.Trial) -> None:
        """Store the note with the trial, in place of the one before."""
        blank = asdict(TrialNote())
        told = {name: value for name, value in asdict(self).items() if value != blank[name]}
        trial.set_user_attr(ATTRIBUTE, told)

    @property
    def takes_slot(self) -> bool:
        """Whether the trial is one of those that the study is to have: a duplicate is not, nor is
        one that was asked for in vain."""
        return not (self.duplicate or self.surplus)
