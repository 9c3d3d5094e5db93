"""What a space is made of: nodes. A node is a fixed value, a parameter, or a group of nodes.

`fill` gives a node's value in one trial. `walk` gives the node and all nodes below it, each with
the conditions under which a trial comes to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

from lmcore.errors import UserError

LEFT_OUT = object()  # the value of a setting that a recipe is to have no entry for
NOT_ASKED = object()  # the value of a parameter that a trial is not asked for

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, int]]  # site -> (out, in)


@dataclass(frozen=True)
class Condition:
    """Holds where each parameter in `values` has one of its values there. With `unless`, it holds
    where at least one of them has not.

    A parameter that a trial is not asked for has none of the values.
    """

    values: Mapping[str, tuple[Any, ...]]
    unless: bool = False

    def __str__(self) -> str:
        """ "decoder.structure = svd", "unless biases = float16 or float32"."""
        texts = (f"{name} = {' or '.join(map(str, of))}" for name, of in self.values.items())
        return f"{'unless ' if self.unless else ''}{' and '.join(texts)}"

    @property
    def opposite(self) -> Condition:
        return Condition(self.values, not self.unless)


Conditions = tuple[Condition, ...]


@dataclass(frozen=True)
class Occurrence:
    """One place in a space where a node acts: the conditions under which a trial comes to it, and
    the site whose settings the node is among, None outside of sites."""

    node: Node
    conditions: Conditions
    site: str | None

    @property
    def parameter(self) -> Parameter:
        assert isinstance(self.node, Parameter), "it is a branch"
        return self.node


class Answerer(Protocol):
    """Who chooses a parameter's value: a number between its ends, or the label of an option."""

    def number(self, parameter: Number) -> float: ...
    def option(self, parameter: Options) -> Any: ...


class Answers:
    """What one trial was asked for, and its answers.

    Each parameter is asked for once, when its value is first needed. `occurrences` maps each
    parameter's name to where it acts. `sites` computes the shapes of the model's sites, site ->
    (out, in), once the layers are answered.
    """

    def __init__(
        self,
        answerer: Answerer,
        occurrences: Mapping[str, list[Occurrence]],
        sites: Callable[[Answers], Shapes],
    ) -> None:
        self.answerer, self.occurrences, self._sites = answerer, occurrences, sites
        self.known: dict[str, Any] = {}
        self._open: list[str] = []

    def ask(self, parameter: Parameter) -> Any:
        if parameter.name not in self.known:
            self.known[parameter.name] = parameter.put_to(self.answerer)
        return self.known[parameter.name]

    def holds(self, condition: Condition) -> bool:
        met = all(self.value(name) in values for name, values in condition.values.items())
        return met != condition.unless

    def value(self, name: str) -> Any:
        """The parameter's value, asked for now if it is not known yet. NOT_ASKED where the trial
        comes to none of its occurrences."""
        if name not in self.known:
            self.settle(name, lambda: self._find(name))
        return self.known.get(name, NOT_ASKED)

    def _find(self, name: str) -> None:
        for occurrence in self.occurrences.get(name, ()):
            if self.comes_to(occurrence):
                self.ask(occurrence.parameter)
                return

    def comes_to(self, occurrence: Occurrence) -> bool:
        there = occurrence.site is None or occurrence.site in self.sites
        return there and all(map(self.holds, occurrence.conditions))

    @cached_property
    def sites(self) -> Shapes:
        return self._sites(self)

    def settle(self, name: str, find: Callable[[], T]) -> T:
        """The result of `find`. Raises UserError where finding it needs the same name again."""
        if name in self._open:
            circle = [*self._open[self._open.index(name) :], name]
            raise UserError(
                f"space: {' waits for '.join(circle)}; conditions cannot go in a circle"
            )
        self._open.append(name)
        try:
            return find()
        finally:
            self._open.pop()


class Node(ABC):
    @abstractmethod
    def fill(self, answers: Answers) -> Any:
        """The node's value in one trial; LEFT_OUT where it has none."""

    @abstractmethod
    def recall(self, value: Any, found: dict[str, Any]) -> bool:
        """Add to `found` the parameter values with which the node is nearest to `value`, which
        comes from a recipe. Values that are in `found` already stay. Returns False where the node
        has no option of that kind."""

    def below(self) -> Iterator[tuple[Node, Conditions]]:
        """The nodes directly below this one, each with the conditions that this node adds."""
        yield from ()

    def walk(self, under: Conditions = ()) -> Iterator[tuple[Node, Conditions]]:
        """This node and all below it, each with all of its conditions."""
        yield self, under
        for node, conditions in self.below():
            yield from node.walk((*under, *conditions))


@dataclass(frozen=True)
class Fixed(Node):
    value: Any

    def fill(self, answers: Answers) -> Any:
        return self.value

    def recall(self, value: Any, found: dict[str, Any]) -> bool:
        return True


@dataclass(frozen=True)
class Mapped(Node):
    nodes: Mapping[str, Node]

    def fill(self, answers: Answers) -> Any:
        filled = ((name, node.fill(answers)) for name, node in self.nodes.items())
        return {name: value for name, value in filled if value is not LEFT_OUT}

    def recall(self, value: Any, found: dict[str, Any]) -> bool:
        if not isinstance(value, Mapping):
            return value is not None and "kind" in self.nodes
        inner = [(node, value[name]) for name, node in self.nodes.items() if name in value]
        return all(node.recall(one, found) for node, one in inner)

    def below(self) -> Iterator[tuple[Node, Conditions]]:
        yield from ((node, ()) for node in self.nodes.values())


@dataclass(frozen=True)
class Listed(Node):
    nodes: tuple[Node, ...]

    def fill(self, answers: Answers) -> Any:
        return [node.fill(answers) for node in self.nodes]

    def recall(self, value: Any, found: dict[str, Any]) -> bool:
        if not isinstance(value, list | tuple) or len(value) != len(self.nodes):
            return False
        return all(node.recall(v, found) for node, v in zip(self.nodes, value, strict=True))

    def below(self) -> Iterator[tuple[Node, Conditions]]:
        yield from ((node, ()) for node in self.nodes)


@dataclass(frozen=True)
class Conditional(Node):
    """`node` where the condition holds, `otherwise` elsewhere. `path` is where this stands in the
    template."""

    path: str
    condition: Condition
    node: Node
    otherwise: Node

    def fill(self, answers: Answers) -> Any:
        return (self.node if answers.holds(self.condition) else self.otherwise).fill(answers)

    def recall(self, value: Any, found: dict[str, Any]) -> bool:
        for node in (self.node, self.otherwise):
            tried = dict(found)
            if node.recall(value, tried):
                found |= tried
                return True
        return False

    def below(self) -> Iterator[tuple[Node, Conditions]]:
        yield self.node, (self.condition,)
        yield self.otherwise, (self.condition.opposite,)


@dataclass(frozen=True)
class Share(Node):
    """A share of a size, rounded to a whole number of at least 1."""

    share: Number
    size: Callable[[Answers], int]

    def fill(self, answers: Answers) -> Any:
        return max(1, round(answers.ask(self.share) * self.size(answers)))

    def recall(self, value: Any, found: dict[str, Any]) -> bool:
        return True  # the size is known only within a trial, so no share can be computed here

    def below(self) -> Iterator[tuple[Node, Conditions]]:
        yield self.share, ()


class Parameter(Node):
    """What a trial is asked for: a name, and the values that it can have."""

    name: str

    def fill(self, answers: Answers) -> Any:
        return answers.ask(self)

    @abstractmethod
    def put_to(self, answerer: Answerer) -> Any:
        """The answerer's choice."""

    @abstractmethod
    def check(self, value: Any, where: str) -> None:
        """Raises UserError for a value that it cannot have; the message begins with `where`."""

    @property
    @abstractmethod
    def ends(self) -> tuple[Any, ...]:
        """The least and the greatest number, or every option's label."""

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """The values that it can have, as a template writes them."""


@dataclass(frozen=True)
class Number(Parameter):
    """A number from `low` to `high`. With a `step` it is whole. `of` names the size that it is a
    share of."""

    name: str
    low: float
    high: float
    log: bool = False
    step: int | None = None
    of: str | None = None

    def put_to(self, answerer: Answerer) -> Any:
        return answerer.number(self)

    def recall(self, value: Any, found: dict[str, Any]) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        low, high = self.ends
        near = min(max(value, low), high)
        if self.step is not None:
            near = int(low + round((near - low) / self.step) * self.step)
        found.setdefault(self.name, near)
        return True

    def check(self, value: Any, where: str) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            raise UserError(f"{where}: got {value!r}; it lies between {self.low} and {self.high}")
        if self.step is not None and (value - self.low) % self.step:
            raise UserError(
                f"{where}: got {value!r}; it goes from {self.low} in steps of {self.step}"
            )

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high - (self.high - self.low) % self.step if self.step else self.high

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.log:
            plain["log"] = True
        if self.step not in (None, 1):
            plain["step"] = self.step
        return plain if self.of is None else {**plain, "of": self.of}


@dataclass(frozen=True)
class Options(Parameter):
    """One of several nodes. People and recipes name an option by its label. An ordered list's
    sampler sees the index instead, so that the list may grow at its end."""

    name: str
    labels: tuple[Any, ...]
    nodes: tuple[Node, ...] = field(compare=False)
    ordered: bool = False

    def fill(self, answers: Answers) -> Any:
        return self.nodes[self.labels.index(answers.ask(self))].fill(answers)

    def put_to(self, answerer: Answerer) -> Any:
        return answerer.option(self)

    def recall(self, value: Any, found: dict[str, Any]) -> bool:
        kind = value.get("kind") if isinstance(value, Mapping) else value
        if kind not in self.labels:
            return False
        found.setdefault(self.name, kind)
        return self.nodes[self.labels.index(kind)].recall(value, found)

    def check(self, value: Any, where: str) -> None:
        if value not in self.labels:
            raise UserError(f"{where}: got {value!r}; it is one of {list(self.labels)}")

    def below(self) -> Iterator[tuple[Node, Conditions]]:
        for label, node in zip(self.labels, self.nodes, strict=True):
            yield node, (Condition({self.name: (label,)}),)

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.labels

    def plain(self) -> dict[str, Any]:
        return {"ordered" if self.ordered else "choice": list(self.labels)}
