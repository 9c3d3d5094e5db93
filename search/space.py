"""A space is a recipe with ranges in place of values.

    {low: 0.6, high: 4.0, log: true}        a number between; whole where both ends are whole
    {choice: [float16, {kind: uniform, step: {low: 1, high: 3}}]}    one of these

A range inside an option is asked for only when the option is chosen: a rank stands inside
`svd` and nowhere else. Under `sites`, a pattern gives each site that it matches values of
its own; `tie: NAME` in a site's settings or in a range shares one value under that name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol

from lmcore.errors import UserError
from lmcore.model import ModelSettings
from lmcore.recipe import LayerSettings, Recipe, resolve
from lmcore.settings import parse

RANGE, CHOICE = {"low", "high", "log", "step", "tie"}, {"choice", "tie"}


class Suggester(Protocol):
    """The part of an Optuna trial that a space asks."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


class Space:
    """What a study samples from, for one model and vocabulary size.

    `corners` are recipes that together have both ends of every range and every option.
    Raises UserError where a range is wrong or where an end of a range or an option is no recipe.
    """

    def __init__(self, template: Mapping[str, Any], model: ModelSettings, words: int) -> None:
        self.model, self.words = model, words
        self.layers, self.patterns = template.get("layers", {}), template.get("sites", {})
        self.rest = {k: value for k, value in template.items() if k not in ("layers", "sites")}
        widths = tuple(units + 1 for units in model.units)  # another, so that there is each site
        every = model.model_copy(update={"projection": widths, "embedding": widths[-1] + 1})
        _check_patterns(self.patterns, {**model.site_shapes(words), **every.site_shapes(words)})
        self.corners = [self.suggest(corner) for corner in _corners()]

    def suggest(self, trial: Suggester) -> Recipe:
        """The resolved recipe that the trial's suggestions make."""
        layers = _fill(self.layers, "layers", trial)
        reshaped = parse(LayerSettings, layers, "space.layers").canonical(self.model, self.words)
        sites = {
            site: _fill(
                {k: v for k, v in value.items() if k != "tie"}, value.get("tie", site), trial
            )
            for site in reshaped.site_shapes(self.model, self.words)
            if (value := _settings_of(self.patterns, site)) is not None
        }
        data = {"layers": layers, "sites": sites, **_fill(self.rest, "", trial)}
        return resolve(parse(Recipe, data, "space"), self.model, self.words)

    def check(self, start: Mapping[str, Any]) -> None:
        """Raises UserError where parameter values to start from lie outside the space."""
        given = _Given(start)
        self.suggest(given)
        if unknown := set(start) - given.known:
            raise UserError(
                f"start: there is no parameter {', '.join(sorted(unknown))} where the others have "
                f"these values; there are {', '.join(sorted(given.known))}"
            )


def _check_patterns(patterns: Any, sites: Iterable[str]) -> None:
    """Raises UserError for what are no settings by site, or names a site that there cannot be."""
    if not isinstance(patterns, Mapping):
        raise UserError(f"space.sites: got {patterns!r}; it takes settings by site")
    for pattern, value in patterns.items():
        if not isinstance(value, Mapping):
            raise UserError(f"space.sites.{pattern}: got {value!r}; it takes a site's settings")
        if not any(fnmatchcase(site, pattern) for site in sites):
            raise UserError(
                f"space.sites.{pattern}: matches no site; the sites are {', '.join(sites)}"
            )


def _settings_of(patterns: Mapping[str, Any], site: str) -> Mapping[str, Any] | None:
    """The site's part of the template, by the precedence of recipes."""
    if site in patterns:
        found: Mapping[str, Any] = patterns[site]
        return found
    return next((value for name, value in patterns.items() if fnmatchcase(site, name)), None)


def _fill(value: Any, path: str, trial: Suggester) -> Any:
    """The template's value with every range and choice below it settled by the trial."""
    if isinstance(value, list):
        return [_fill(inner, f"{path}.{index}", trial) for index, inner in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    keys = set(value)
    if {"low", "high"} <= keys <= RANGE:
        return _suggest_number(value, str(value.get("tie", path)), trial)
    if "choice" in keys and keys <= CHOICE:
        return _suggest_choice(value["choice"], str(value.get("tie", path)), trial)
    return {
        key: _fill(inner, f"{path}.{key}" if path else key, trial) for key, inner in value.items()
    }


def _suggest_number(value: Mapping[str, Any], name: str, trial: Suggester) -> float | int:
    low, high, log = value["low"], value["high"], bool(value.get("log", False))
    for end in (low, high):
        if not isinstance(end, int | float) or isinstance(end, bool):
            raise UserError(f"space.{name}: got {end!r}; low and high are numbers")
    if low > high:
        raise UserError(f"space.{name}: got low {low} above high {high}")
    if log and low <= 0:
        raise UserError(f"space.{name}: got low {low}; with log, low is above 0")
    if isinstance(low, int) and isinstance(high, int):
        step = value.get("step", 1)
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise UserError(f"space.{name}: got step {step!r}; it is a whole number above 0")
        if log and step != 1:
            raise UserError(f"space.{name}: got step {step} with log; they exclude each other")
        return trial.suggest_int(name, low, high, step=step, log=log)
    if "step" in value:
        raise UserError(f"space.{name}: a step goes with whole numbers")
    return trial.suggest_float(name, float(low), float(high), log=log)


def _suggest_choice(options: Any, name: str, trial: Suggester) -> Any:
    if not isinstance(options, list) or not options:
        raise UserError(f"space.{name}: got {options!r}; choice takes a list")
    labels = [_label(option) for option in options]
    if lists := [label for label in labels if isinstance(label, list)]:
        raise UserError(f"space.{name}: got {lists[0]!r}; an option is a value or settings")
    if len(set(labels)) < len(labels):
        raise UserError(f"space.{name}: its options {labels} are not all different")
    label = trial.suggest_categorical(name, labels)
    return _fill(options[labels.index(label)], f"{name}.{label}", trial)


def _label(option: Any) -> Any:
    """How an option is called: itself, or the kind (or the settings) of a mapping."""
    if not isinstance(option, Mapping):
        return option
    return str(option["kind"]) if "kind" in option else str(dict(option))


class _Given:
    """Suggests given values, checked against their ranges; the low end where none is given."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.known: set[str] = set()

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._number(name, low, high))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        value = self._number(name, low, high)
        if (value - low) % step:
            raise UserError(f"start.{name}: got {value!r}; it goes from {low} in steps of {step}")
        return int(value)

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        self.known.add(name)
        value = self.values.get(name, choices[0])
        if value not in choices:
            raise UserError(f"start.{name}: got {value!r}; it is one of {choices}")
        return value

    def _number(self, name: str, low: float, high: float) -> float:
        self.known.add(name)
        value: Any = self.values.get(name, low)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise UserError(f"start.{name}: got {value!r}; it lies between {low} and {high}")
        return float(value)


class _Corner:
    """Suggests one end of every range, and of each choice the next option; `ranges`, `options`
    and `shown` are what the corners of a space know of its parameters, by name."""

    def __init__(
        self, high: bool, ranges: dict[str, Any], options: dict[str, int], shown: Counter[str]
    ) -> None:
        self.high, self.ranges, self.options, self.shown = high, ranges, options, shown
        self.chosen: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self._agree(name, {"low": low, "high": high, "log": log})
        return high if self.high else low

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        self._agree(name, {"low": low, "high": high, "step": step, "log": log})
        return high - (high - low) % step if self.high else low

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        self._agree(name, choices)
        self.options[name] = len(choices)
        if name not in self.chosen:
            self.chosen[name] = choices[self.shown[name] % len(choices)]
            self.shown[name] += 1
        return self.chosen[name]

    def _agree(self, name: str, asked: Any) -> None:
        if (before := self.ranges.setdefault(name, asked)) != asked:
            raise UserError(
                f"space.{name}: stands for {before} and for {asked}; a tie has one range"
            )


def _corners() -> Iterator[_Corner]:
    """Suggesters that together visit both ends of every range and every option."""
    ranges: dict[str, Any] = {}
    for high in (False, True):
        options: dict[str, int] = {}
        shown: Counter[str] = Counter()
        yield _Corner(high, ranges, options, shown)
        while any(shown[name] < count for name, count in options.items()):
            yield _Corner(high, ranges, options, shown)
