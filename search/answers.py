"""Who answers what a space asks: an Optuna trial, the values that a person gives, a corner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from lmcore.errors import UserError
from search.template import Number, Options


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
        value: Any = self.values.get(asked.name, asked.low)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not asked.low <= value <= asked.high:
            raise UserError(
                f"start.{asked.name}: got {value!r}; it lies between {asked.low} and {asked.high}"
            )
        if asked.step is None:
            return float(value)
        if (value - asked.low) % asked.step:
            raise UserError(
                f"start.{asked.name}: got {value!r}; it goes from {asked.low} "
                f"in steps of {asked.step}"
            )
        return int(value)

    def option(self, asked: Options) -> Any:
        value = self.values.get(asked.name, asked.labels[0])
        if value not in asked.labels:
            raise UserError(f"start.{asked.name}: got {value!r}; it is one of {list(asked.labels)}")
        return value


class Corner:
    """Answers with one end of every range, and of each choice with the next option; `shown` and
    `options` are what the corners of a space know of its choices, by name."""

    def __init__(self, high: bool, options: dict[str, int], shown: Counter[str]) -> None:
        self.high, self.options, self.shown = high, options, shown

    def number(self, asked: Number) -> float:
        end: float = asked.ends[self.high]
        return end

    def option(self, asked: Options) -> Any:
        self.options[asked.name] = len(asked.labels)
        label = asked.labels[self.shown[asked.name] % len(asked.labels)]
        self.shown[asked.name] += 1
        return label


def corners() -> Iterator[Corner]:
    """Who together answer with both ends of every range and with every option."""
    for high in (False, True):
        options: dict[str, int] = {}
        shown: Counter[str] = Counter()
        yield Corner(high, options, shown)
        while any(shown[name] < count for name, count in options.items()):
            yield Corner(high, options, shown)
