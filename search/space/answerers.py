"""Who answers what a space asks: an Optuna trial, or the values that a person gives."""

from __future__ import annotations

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
    """Answers with given values, checked against their ranges; the low end, or the first option,
    where none is given."""

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
