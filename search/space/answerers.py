"""Everyone who answers what a space asks: an Optuna trial, a person, a search for corners or parts.

An answerer is asked for the number of a range (`number`) or for an option of a choice (`option`).
Optuna stores the index of an ordered list's entry, 0 for the first. `Suggested` and `Explored` take
such indices; `Given` takes the entries themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from search.space.nodes import Number, Options


class Suggester(Protocol):
    """The methods of an Optuna trial that a space calls."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


class Suggested:
    """Answers with an Optuna trial's suggestions."""

    def __init__(self, trial: Suggester) -> None:
        self.trial = trial

    def number(self, parameter: Number) -> float:
        if parameter.step is None:
            return self.trial.suggest_float(
                parameter.name, parameter.low, parameter.high, log=parameter.log
            )
        low, high = int(parameter.low), int(parameter.high)
        return self.trial.suggest_int(
            parameter.name, low, high, step=parameter.step, log=parameter.log
        )

    def option(self, parameter: Options) -> Any:
        if parameter.ordered:
            last = len(parameter.labels) - 1
            return parameter.labels[
                self.trial.suggest_int(parameter.name, 0, last, step=1, log=False)
            ]
        return self.trial.suggest_categorical(parameter.name, list(parameter.labels))


class Given:
    """Answers with a person's values. A range without a value gets its low end, a choice its first
    option. Entries of ordered lists are given as they are, not by their index.

    Raises UserError for a value that its parameter cannot have.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def number(self, parameter: Number) -> float:
        value = self.values.get(parameter.name, parameter.low)
        parameter.check(value, f"start.{parameter.name}")
        return float(value) if parameter.step is None else int(value)

    def option(self, parameter: Options) -> Any:
        value = self.values.get(parameter.name, parameter.labels[0])
        parameter.check(value, f"start.{parameter.name}")
        return value


class Explored:
    """Answers with values as Optuna stores them, and notes what was asked for.

    A choice without a value gets its first option. A range or an ordered list without a value gets
    what lies at its entry in `fractions`: 0, the default, is the low end, 1 the high end.

    After a run, `settled` has the answer to each parameter, `others` the values to compare that
    answer with (all options, or both ends), and `choices` the names of the choices.
    """

    def __init__(
        self, values: Mapping[str, Any], fractions: Mapping[str, float] | None = None
    ) -> None:
        self.values, self.fractions = values, fractions or {}
        self.settled: dict[str, Any] = {}
        self.others: dict[str, list[Any]] = {}
        self.choices: list[str] = []

    def number(self, parameter: Number) -> float:
        fraction = self.fractions.get(parameter.name, 0.0)
        near = _at(parameter.low, parameter.high, fraction, parameter.log)
        if parameter.step is None:
            return float(self._settle(parameter.name, near, list(parameter.ends)))
        return self._whole(parameter.name, near, parameter.ends, parameter.step)

    def option(self, parameter: Options) -> Any:
        if parameter.ordered:
            last = len(parameter.labels) - 1
            near = _at(0, last, self.fractions.get(parameter.name, 0.0), log=False)
            return parameter.labels[self._whole(parameter.name, near, (0, last), 1)]
        self.choices.append(parameter.name)
        return self._settle(parameter.name, parameter.labels[0], list(parameter.labels))

    def _whole(self, name: str, near: float, ends: tuple[Any, ...], step: int) -> int:
        whole = round((near - ends[0]) / step) * step + ends[0]
        return int(self._settle(name, whole, list(ends)))

    def _settle(self, name: str, value: Any, others: list[Any]) -> Any:
        self.others[name] = others
        return self.settled.setdefault(name, self.values.get(name, value))


class Corner:
    """Answers with the same end of every range, and with the next option of each choice.

    A parameter in `fixed` has that value instead. `options` and `shown` are shared by the corners
    of one search: how many options each choice has, and how many of them corners have shown.
    """

    def __init__(
        self,
        high: bool,
        options: dict[str, int],
        shown: Counter[str],
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self.high, self.options, self.shown, self.fixed = high, options, shown, fixed or {}

    def number(self, parameter: Number) -> float:
        end: float = self.fixed.get(parameter.name, parameter.ends[self.high])
        return end

    def option(self, parameter: Options) -> Any:
        self.options[parameter.name] = len(parameter.labels)
        number = self.shown[parameter.name]
        self.shown[parameter.name] += 1
        return self.fixed.get(parameter.name, parameter.labels[number % len(parameter.labels)])


def _at(low: float, high: float, fraction: float, log: bool) -> float:
    if fraction in (0.0, 1.0):
        return high if fraction else low
    if log:
        return math.exp(math.log(low) + (math.log(high) - math.log(low)) * fraction)
    return low + (high - low) * fraction
