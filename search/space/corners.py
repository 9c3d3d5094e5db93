"""The corners of a space: recipes where every range is at one of its ends.

Corners are made before a study begins. So an end, an option or a condition that makes no recipe is
found before any training.
"""

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
    Occurrence,
)

Occurrences = Mapping[str, list[Occurrence]]  # parameter -> where it acts
Values = dict[str, tuple[Any, ...]]  # parameter -> values that it may have
R = TypeVar("R")
Run = Callable[[Answerer], tuple[Answers, R]]


def corners(
    run: Run[R],
    occurrences: Occurrences,
    branches: list[Occurrence],
    elsewhere: Collection[str] = (),
) -> list[tuple[Answers, R]]:
    """The answers of each corner, and what `run` makes of them.

    The corners together have both ends of every range, every option of every choice, and every
    condition both held and not held.

    `branches` are the occurrences of conditions. `elsewhere` names the parameters of the study's
    other dense models: a condition on one of those is not checked here. Raises UserError for a
    condition that can never hold.
    """
    for branch in branches:
        _check_branch(branch, occurrences, elsewhere)
    found = []
    for high in (False, True):
        options: dict[str, int] = {}
        shown: Counter[str] = Counter()
        found.append(run(Corner(high, options, shown)))
        while any(shown[name] < count for name, count in options.items()):
            found.append(run(Corner(high, options, shown)))
    for target in sorted(
        _targets(occurrences, branches), key=lambda target: target.site is not None
    ):
        exists = not target.site or any(target.site in answers.sites for answers, _ in found)
        if exists and not any(answers.comes_to(target) for answers, _ in found):
            found += _reach(target, run, occurrences)
    return found


def smallest(
    run: Run[R], occurrences: Occurrences, found: list[tuple[Answers, R]], size: Callable[[R], int]
) -> tuple[Answers, R]:
    """The smallest corner that a descent from the smallest one in `found` comes to.

    Each step sets one parameter to its other end, or to another option, where that makes `size`
    smaller. The descent ends where no such step is left.
    """
    best, improves = min(found, key=lambda one: size(one[1])), True
    while improves:
        improves = False
        for name in list(best[0].known):
            for end, high in product(occurrences[name][0].parameter.ends, (False, True)):
                fixed = {**best[0].known, name: end}
                other = run(Corner(high, {}, Counter(), fixed))
                if size(other[1]) < size(best[1]):
                    best, improves = other, True
    return best


def _targets(occurrences: Occurrences, branches: list[Occurrence]) -> Iterator[Occurrence]:
    """What corners have to come to: every occurrence of a parameter at each of its ends, and every
    condition both held and not held."""
    for occurrence in (one for of_name in occurrences.values() for one in of_name):
        for end in occurrence.parameter.ends:
            yield _under(occurrence, Condition({occurrence.parameter.name: (end,)}))
    for branch in branches:
        assert isinstance(branch.node, Conditional)
        yield _under(branch, branch.node.condition)
        yield _under(branch, branch.node.condition.opposite)


def _under(occurrence: Occurrence, condition: Condition) -> Occurrence:
    return replace(occurrence, conditions=(*occurrence.conditions, condition))


def _reach(target: Occurrence, run: Run[R], occurrences: Occurrences) -> list[tuple[Answers, R]]:
    """The first corner that comes to the occurrence; an empty list where none does."""
    for values in _ways(target.conditions, {}, occurrences):
        fixed = {name: of[0] for name, of in values.items()}
        for high in (False, True):
            answers, made = run(Corner(high, {}, Counter(), fixed))
            if answers.comes_to(target):
                return [(answers, made)]
    return []


def _ways(conditions: Conditions, known: Values, occurrences: Occurrences) -> Iterator[Values]:
    """Sets of parameter values with which the conditions hold.

    To have a value, a parameter must be asked for. So the conditions of its occurrences hold too.
    """
    if not conditions:
        yield known
        return
    first, *rest = conditions
    for values in _alternatives(first, occurrences):
        both = known | {
            name: tuple(one for one in known.get(name, of) if one in of)
            for name, of in values.items()
        }
        if not all(both.values()):
            continue
        cases = (_unique(occurrences.get(name, [])) for name in values if name not in known)
        for more in product(*cases):
            yield from _ways((*rest, *(one for of in more for one in of)), both, occurrences)


def _alternatives(condition: Condition, occurrences: Occurrences) -> list[Values]:
    """What makes the condition hold: its values. A condition with `unless` holds where one of its
    parameters has another value."""
    if not condition.unless:
        return [dict(condition.values)]
    others = {
        name: occurrences[name][0].parameter.ends
        for name in condition.values
        if name in occurrences
    }
    left = {
        name: tuple(end for end in others[name] if end not in values)
        for name, values in condition.values.items()
        if name in others
    }
    return [{name: ends} for name, ends in left.items() if ends] or [{}]


def _unique(occurrences: list[Occurrence]) -> list[Conditions]:
    found: list[Conditions] = []
    for occurrence in occurrences:
        if occurrence.conditions not in found:
            found.append(occurrence.conditions)
    return found


def _check_branch(branch: Occurrence, occurrences: Occurrences, elsewhere: Collection[str]) -> None:
    """Raises UserError for a condition that can never hold: one that names an unknown parameter, a
    value that its parameter cannot have, or values that exclude each other."""
    assert isinstance(branch.node, Conditional)
    where, condition = f"space.{branch.node.path}.when", branch.node.condition
    for name, values in condition.values.items():
        if name not in occurrences and name in elsewhere:
            return
        if name not in occurrences:
            raise UserError(
                f"{where}: there is no parameter {name}; there are {', '.join(sorted(occurrences))}"
            )
        for value in values:
            occurrences[name][0].parameter.check(value, f"{where}.{name}")
    if next(_ways((*branch.conditions, condition), {}, occurrences), None) is None:
        raise UserError(f"{where}: {condition} never holds here")
