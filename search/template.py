"""What a space is made of: values, and what a trial is asked for in their place.

`read` makes nodes of a template once. A node's `fill` is its value in one trial, its `places` are
where a trial may be asked for something, and under which conditions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lmcore.errors import UserError

RANGE = {"low", "high", "log", "step", "tie"}


class Answerer(Protocol):
    """Who says what a parameter is to be: a number between, or an option's label."""

    def number(self, asked: Number) -> float: ...
    def option(self, asked: Options) -> Any: ...


class Answers:
    """What one trial was asked for, each parameter once, and answered."""

    def __init__(self, answerer: Answerer) -> None:
        self.answerer = answerer
        self.known: dict[str, Any] = {}

    def ask(self, parameter: Parameter) -> Any:
        if parameter.name not in self.known:
            self.known[parameter.name] = parameter.put_to(self.answerer)
        return self.known[parameter.name]


@dataclass(frozen=True)
class Condition:
    """Whether a parameter has the value."""

    parameter: str
    value: Any


Conditions = tuple[Condition, ...]


@dataclass(frozen=True)
class Place:
    """Where a trial is asked for the parameter, if all of the conditions hold."""

    parameter: Parameter
    conditions: Conditions


class Node(ABC):
    @abstractmethod
    def fill(self, answers: Answers) -> Any:
        """The node's value in the trial that answers."""

    def places(self, under: Conditions = ()) -> Iterator[Place]:
        """Where it, or what is below it, asks a trial."""
        yield from ()


@dataclass(frozen=True)
class Fixed(Node):
    value: Any

    def fill(self, answers: Answers) -> Any:
        return self.value


@dataclass(frozen=True)
class Mapped(Node):
    nodes: Mapping[str, Node]

    def fill(self, answers: Answers) -> Any:
        return {name: node.fill(answers) for name, node in self.nodes.items()}

    def places(self, under: Conditions = ()) -> Iterator[Place]:
        for node in self.nodes.values():
            yield from node.places(under)


@dataclass(frozen=True)
class Listed(Node):
    nodes: tuple[Node, ...]

    def fill(self, answers: Answers) -> Any:
        return [node.fill(answers) for node in self.nodes]

    def places(self, under: Conditions = ()) -> Iterator[Place]:
        for node in self.nodes:
            yield from node.places(under)


class Parameter(Node):
    """What a trial is asked for: its name, and what it can be told."""

    name: str

    @abstractmethod
    def put_to(self, answerer: Answerer) -> Any:
        """What the answerer says."""

    @property
    @abstractmethod
    def ends(self) -> tuple[Any, ...]:
        """The least and the greatest number, or every option."""

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """What it can be told, as it stands in a template."""


@dataclass(frozen=True)
class Number(Parameter):
    """A number between; whole where it goes in steps."""

    name: str
    low: float
    high: float
    log: bool = False
    step: int | None = None

    def fill(self, answers: Answers) -> Any:
        return answers.ask(self)

    def put_to(self, answerer: Answerer) -> Any:
        return answerer.number(self)

    def places(self, under: Conditions = ()) -> Iterator[Place]:
        yield Place(self, under)

    @property
    def ends(self) -> tuple[Any, ...]:
        high = self.high - (self.high - self.low) % self.step if self.step else self.high
        return self.low, high

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.log:
            plain["log"] = True
        return plain if self.step in (None, 1) else {**plain, "step": self.step}


@dataclass(frozen=True)
class Options(Parameter):
    """One of the nodes, called by its label; of an ordered list by its place for the sampler, so
    that the list may grow at its end."""

    name: str
    labels: tuple[Any, ...]
    nodes: tuple[Node, ...] = field(compare=False)
    ordered: bool = False

    def fill(self, answers: Answers) -> Any:
        return self.nodes[self.labels.index(answers.ask(self))].fill(answers)

    def put_to(self, answerer: Answerer) -> Any:
        return answerer.option(self)

    def places(self, under: Conditions = ()) -> Iterator[Place]:
        yield Place(self, under)
        for label, node in zip(self.labels, self.nodes, strict=True):
            yield from node.places((*under, Condition(self.name, label)))

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.labels

    def plain(self) -> dict[str, Any]:
        return {"ordered" if self.ordered else "choice": list(self.labels)}


def read(value: Any, path: str) -> Node:
    """The nodes of a template; `path` is what its parameters are called where no tie names them.

    Raises UserError for a range or a choice that is none.
    """
    if isinstance(value, list):
        return Listed(tuple(read(inner, f"{path}.{index}") for index, inner in enumerate(value)))
    if not isinstance(value, Mapping):
        return Fixed(value)
    name = str(value.get("tie", path))
    if {"low", "high"} <= set(value) <= RANGE:
        return _number(value, name)
    for kind in ("choice", "ordered"):
        if kind in value and set(value) <= {kind, "tie"}:
            return _options(value[kind], name, kind)
    inner = {key: read(inner, f"{path}.{key}" if path else key) for key, inner in value.items()}
    return Mapped(inner)


def _number(value: Mapping[str, Any], name: str) -> Number:
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
        return Number(name, low, high, log, step)
    if "step" in value:
        raise UserError(f"space.{name}: a step goes with whole numbers")
    return Number(name, float(low), float(high), log)


def _options(options: Any, name: str, kind: str) -> Options:
    if not isinstance(options, list) or not options:
        raise UserError(f"space.{name}: got {options!r}; {kind} takes a list")
    labels = [_label(option) for option in options]
    if lists := [label for label in labels if isinstance(label, list)]:
        raise UserError(f"space.{name}: got {lists[0]!r}; an option is a value or settings")
    if len(set(labels)) < len(labels):
        raise UserError(f"space.{name}: its options {labels} are not all different")
    nodes = (read(one, f"{name}.{label}") for one, label in zip(options, labels, strict=True))
    return Options(name, tuple(labels), tuple(nodes), kind == "ordered")


def _label(option: Any) -> Any:
    """How an option is called: itself, or the kind (or the settings) of a mapping."""
    if not isinstance(option, Mapping):
        return option
    return str(option["kind"]) if "kind" in option else str(dict(option))
