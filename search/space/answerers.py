"""Everyone who answers what a space asks: an Optuna trial, a person, a search for corners or parts.

An answerer is asked for the number of a range (`number`) or for an option of a choice (`option`).
Optuna keeps of an ordered list the place of its entry, 0 for the first, and so do the answerers
whose values are Optuna's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from search.space.nodes import Number, Options


class Suggester(Protocol):
    """The part of an Optuna trial that a space asks."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


class Suggested:
    """Answers as an Optuna trial suggests."""

    def __init__(self, trial: Suggester) -> None:
        self.trial = trial

    def number(self, asked: Number) -> float:
        if asked.step is None:
            return self.trial.suggest_float(asked.name, asked.low, asked.high, log=asked.log)
        low, high = int(asked.low), int(asked.high)
        return self.trial.suggest_int(asked.name, low, high, step=asked.step, log=asked.log)

    def option(self, asked: Options) -> Any:
        if asked.ordered:
            last = len(asked.labels) - 1
            return asked.labels[self.trial.suggest_int(asked.name, 0, last, step=1, log=False)]
        return self.trial.suggest_categorical(asked.name, list(asked.labels))


class Given:
    """Answers with a person's values, checked against their ranges; with the low end, or the first
    option, where none is given. Entries of ordered lists are given as they are."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def number(self, asked: Number) -> float:
        value = self.values.get(asked.name, asked.low)
        asked.check(value, f"start.{asked.name}")
        return float(value) if asked.step is None else int(value)

    def option(self, asked: Options) -> Any:
        value = self.values.get(asked.name, asked.labels[0])
        asked.check(value, f"start.{asked.name}")
        return value


class Explored:
    """Answers with values as Optuna keeps them, and notes what was asked for.

    Where there is no value, a choice gets its first option, and a range or an ordered list what
    lies at its place among `places`: 0, the default, is the low end, 1 the high one. `settled` are
    the answers, `others` what a parameter could be besides (all options, or both ends), `choices`
    the names of choices.
    """

    def __init__(
        self, values: Mapping[str, Any], places: Mapping[str, float] | None = None
    ) -> None:
        self.values, self.places = values, places or {}
        self.settled: dict[str, Any] = {}
        self.others: dict[str, list[Any]] = {}
        self.choices: list[str] = []

    def number(self, asked: Number) -> float:
        if asked.step is None:
            near = _at(asked.low, asked.high, self.places.get(asked.name, 0.0), asked.log)
            return float(self._settle(asked.name, near, list(asked.ends)))
        near = _at(asked.low, asked.high, self.places.get(asked.name, 0.0), asked.log)
        return self._whole(asked.name, near, asked.ends, asked.step)

    def option(self, asked: Options) -> Any:
        if asked.ordered:
            last = len(asked.labels) - 1
            near = _at(0, last, self.places.get(asked.name, 0.0), log=False)
            return asked.labels[self._whole(asked.name, near, (0, last), 1)]
        self.choices.append(asked.name)
        return self._settle(asked.name, asked.labels[0], list(asked.labels))

    def _whole(self, name: str, near: float, ends: tuple[Any, ...], step: int) -> int:
        whole = round((near - ends[0]) / step) * step + ends[0]
        return int(self._settle(name, whole, list(ends)))

    def _settle(self, name: str, value: Any, others: list[Any]) -> Any:
        self.others[name] = others
        return self.settled.setdefault(name, self.values.get(name, value))


class Corner:
    """Answers with one end of every range, and of each choice with the next option, but for the
    values that are fixed; `options` and `shown` are what the corners before it know of choices."""

    def __init__(
        self,
        high: bool,
        options: dict[str, int],
        shown: Counter[str],
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self.high, self.options, self.shown, self.fixed = high, options, shown, fixed or {}

    def number(self, asked: Number) -> float:
        end: float = self.fixed.get(asked.name, asked.ends[self.high])
        return end

    def option(self, asked: Options) -> Any:
        self.options[asked.name] = len(asked.labels)
        place = self.shown[asked.name]
        self.shown[asked.name] += 1
        return self.fixed.get(asked.name, asked.labels[place % len(asked.labels)])


def _at(low: float, high: float, place: float, log: bool) -> float:
    if place in (0.0, 1.0):
        return high if place else low
    if log:
        return math.exp(math.log(low) + (math.log(high) - math.log(low)) * place)
    return low + (high - low) * place
