"""The corners of a space: where every range is at an end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar

from lmcore.errors import UserError
from search.space.answerers import Corner
from search.space.nodes import (
    Answerer,
    Answers,
    Condition,
    Conditional,
    Conditions,
    Place,
)

Places = Mapping[str, list[Place]]  # parameter -> where it is asked for
Values = dict[str, tuple[Any, ...]]  # parameter -> values that it may have
R = TypeVar("R")
Run = Callable[[Answerer], tuple[Answers, R]]


def corners(
    run: Run[R], places: Places, branches: list[Place], elsewhere: Collection[str] = ()
) -> list[tuple[Answers, R]]:
    """What `run` makes of corners that together have both ends of every range, every option, and
    every condition held and not held.

    Raises UserError where a condition can never hold, here or where the parameters are asked for
    that have the names `elsewhere`.
    """
    for branch in branches:
        _check_branch(branch, places, elsewhere)
    found = []
    for high in (False, True):
        options: dict[str, int] = {}
        shown: Counter[str] = Counter()
        found.append(run(Corner(high, options, shown)))
        while any(shown[name] < count for name, count in options.items()):
            found.append(run(Corner(high, options, shown)))
    for target in sorted(_targets(places, branches), key=lambda target: target.site is not None):
        exists = not target.site or any(target.site in answers.sites for answers, _ in found)
        if exists and not any(answers.comes_to(target) for answers, _ in found):
            found += _reach(target, run, places)
    return found


def smallest(
    run: Run[R], places: Places, found: list[tuple[Answers, R]], size: Callable[[R], int]
) -> tuple[Answers, R]:
    """From the smallest of the corners found on to smaller ones, as long as there is one that has
    another end of a single parameter."""
    best, improves = min(found, key=lambda one: size(one[1])), True
    while improves:
        improves = False
        for name in list(best[0].known):
            for end, high in product(places[name][0].parameter.ends, (False, True)):
                fixed = {**best[0].known, name: end}
                other = run(Corner(high, {}, Counter(), fixed))
                if size(other[1]) < size(best[1]):
                    best, improves = other, True
    return best


def _targets(places: Places, branches: list[Place]) -> Iterator[Place]:
    """Each place of a parameter at each end, and each branch with its condition held and not."""
    for place in (place for of_name in places.values() for place in of_name):
        for end in place.parameter.ends:
            yield _under(place, Condition({place.parameter.name: (end,)}))
    for branch in branches:
        assert isinstance(branch.node, Conditional)
        yield _under(branch, branch.node.condition)
        yield _under(branch, branch.node.condition.opposite)


def _under(place: Place, condition: Condition) -> Place:
    return replace(place, conditions=(*place.conditions, condition))


def _reach(target: Place, run: Run[R], places: Places) -> list[tuple[Answers, R]]:
    """A corner that comes to the place, if there is one."""
    for values in _ways(target.conditions, {}, places):
        fixed = {name: of[0] for name, of in values.items()}
        for high in (False, True):
            answers, made = run(Corner(high, {}, Counter(), fixed))
            if answers.comes_to(target):
                return [(answers, made)]
    return []


def _ways(conditions: Conditions, known: Values, places: Places) -> Iterator[Values]:
    """Values of parameters with which the conditions hold, those of being asked for them too."""
    if not conditions:
        yield known
        return
    first, *rest = conditions
    for values in _alternatives(first, places):
        both = known | {
            name: tuple(one for one in known.get(name, of) if one in of)
            for name, of in values.items()
        }
        if not all(both.values()):
            continue
        asked = (_unique(places.get(name, [])) for name in values if name not in known)
        for more in product(*asked):
            yield from _ways((*rest, *(one for of in more for one in of)), both, places)


def _alternatives(condition: Condition, places: Places) -> list[Values]:
    """What makes the condition hold: its values, or for one of its parameters the others."""
    if not condition.unless:
        return [dict(condition.values)]
    others = {name: places[name][0].parameter.ends for name in condition.values if name in places}
    left = {
        name: tuple(end for end in others[name] if end not in values)
        for name, values in condition.values.items()
        if name in others
    }
    return [{name: ends} for name, ends in left.items() if ends] or [{}]


def _unique(places: list[Place]) -> list[Conditions]:
    found: list[Conditions] = []
    for place in places:
        if place.conditions not in found:
            found.append(place.conditions)
    return found


def _check_branch(branch: Place, places: Places, elsewhere: Collection[str]) -> None:
    """Raises UserError for a condition that can never hold, and says why if it is its values."""
    assert isinstance(branch.node, Conditional)
    where, condition = f"space.{branch.node.path}.when", branch.node.condition
    for name, values in condition.values.items():
        if name not in places and name in elsewhere:
            return
        if name not in places:
            raise UserError(
                f"{where}: there is no parameter {name}; there are {', '.join(sorted(places))}"
            )
        for value in values:
            places[name][0].parameter.check(value, f"{where}.{name}")
    if next(_ways((*branch.conditions, condition), {}, places), None) is None:
        raise UserError(f"{where}: {condition} never holds here")
