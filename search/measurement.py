"""The measurement of a recipe's file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

from lmcore.errors import UserError
from lmcore.spelling import Spelling
from lmcore.task import Measure

_NUMBERS = ("size_bytes", "valid_measure", "tokens_per_second", "updates", "seconds")


@dataclass(frozen=True)
class Measurement:
    """What was measured of a recipe's file, and what it was made and measured with.

    `key` is the hash of everything that the measurement depends on; `recipe` is plain data.
    """

    key: str
    recipe: dict[str, Any]
    size_bytes: int
    valid_measure: float  # the task's, on the validation text; the lower, the better
    tokens_per_second: float  # scoring the validation text at batch 1
    updates: int  # of fine-tuning
    seconds: float  # of fine-tuning
    sha256: str  # of the file
    provenance: dict[str, Any]
    relative_speed: float | None = None  # see `lmcore.onnx.speed`; where a study asked for it

    @classmethod
    def stored(cls, row: Iterable[Any]) -> Self:
        """The measurement of a database's row, its values in the order of the fields. Raises
        UserError where another program has changed it to what is none."""
        found = cls(*row)
        sites = found.recipe.get("sites", {}) if type(found.recipe) is dict else None
        numbers = (getattr(found, name) for name in _NUMBERS)
        if (
            type(sites) is type(found.provenance) is dict
            and all(type(site) is dict for site in sites.values())
            and all(isinstance(one, float | int) for one in numbers)
        ):
            return found
        raise UserError(
            f"the measurement {found.key} is damaged in the database; restore it from a copy"
        )

    @property
    def bits_per_byte(self) -> float | None:
        """On the validation text. None where the tokens are words, which do not spell it."""
        spelling = Spelling.of(self.provenance.get("text"))
        return spelling.bits_per_byte(self.valid_measure) if spelling else None

    def plain(self, measure: Measure) -> dict[str, Any]:
        """The fields as documents have them: the measure by its name, and no speed that was not
        measured."""
        names = {"valid_measure": measure.key("valid")}
        told = {names.get(name, name): value for name, value in asdict(self).items()}
        if self.relative_speed is None:
            del told["relative_speed"]
        return told


def best_of(files: Iterable[Measurement]) -> Measurement:
    """The measurement that is best. Of equal ones, the smaller file, then the first. NaN
    counts as infinite."""

    def order(one: Measurement) -> tuple[float, int]:
        known = not math.isnan(one.valid_measure)
        return one.valid_measure if known else math.inf, one.size_bytes

    return min(files, key=order)
