"""The size-perplexity front: its points, its hypervolume, and which point to take.

A study may have speed as its third objective. Its front then has more points; what is chosen is
chosen by size and perplexity all the same, since these are what a limit is about.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from lmcore.errors import UserError
from lmcore.task import PERPLEXITY, Measure
from search.units import format_size


@dataclass(frozen=True)
class Point:
    """One measured model in the plane; size and perplexity are minimised, and so is `slowness`.

    `name` is "17" for the best file of trial 17, "17 rung 0" for another file of that trial, and
    the name of a baseline otherwise: "dense", "control". `recipe` is plain data, as it was stored.
    """

    name: str
    trial: int | None
    size_bytes: int
    valid_measure: float
    tokens_per_second: float | None
    recipe: dict[str, Any] | None
    method: str = ""  # the methods of the recipe: "svd+bits"
    feasible: bool = True  # within the limits that its study was last swept with
    rung: int | None = None  # of the trial, at which it was measured
    bits_per_byte: float | None = None  # where the tokens spell the text
    relative_speed: float | None = None  # where it is an objective; see `lmcore.onnx.speed`

    @property
    def label(self) -> str:
        """The name for people: "trial 17", "trial 17 rung 0", "dense"."""
        return self.name if self.trial is None else f"trial {self.name}"

    @property
    def of_best(self) -> bool:
        """Whether the point is a baseline or the best file of its trial."""
        return self.trial is None or self.name == str(self.trial)

    @property
    def slowness(self) -> float:
        """The inverse of the relative speed; infinite where that is no objective."""
        speed = self.relative_speed
        return 1 / speed if speed is not None and speed > 0 else math.inf

    @property
    def measured(self) -> bool:
        """Whether size and perplexity are finite and above zero, so that the point can be drawn."""
        return _positive(self.size_bytes, self.valid_measure)


@dataclass(frozen=True)
class Front:
    """The points of a study: the non-dominated ones by size, the dominated ones by trial, and those
    over a limit of the last sweep (`infeasible`).

    Along `points`, size ascends, and of equal sizes perplexity. Without speed as an objective, size
    strictly ascends and perplexity strictly descends; along `plane`, they always do.
    """

    study: str
    points: tuple[Point, ...]
    dominated: tuple[Point, ...]
    infeasible: tuple[Point, ...] = ()
    measure: Measure = PERPLEXITY

    @cached_property
    def plane(self) -> tuple[Point, ...]:
        """The points that are non-dominated in size and perplexity alone, by size."""
        found: list[Point] = []
        for point in self.points:
            if not found or point.valid_measure < found[-1].valid_measure:
                found.append(point)
        return tuple(found)

    def smallest(self) -> Point:
        """The point of the plane with the smallest file. Raises UserError where it is empty."""
        return self._some()[0]

    def best(self) -> Point:
        """The point of the plane with the lowest perplexity. Raises UserError where it is empty."""
        return self._some()[-1]

    def knee(self) -> Point:
        """The point farthest below the chord between the two ends, in (log size, log perplexity).

        Only the `useful` points count. A collapsed model at the small end would otherwise move the
        chord, and the knee with it, to sizes that nobody wants.

        Both logs are normalised to [0, 1] between the ends, so the chord is x + y = 1 and the
        distance below it is (1 - x - y) / sqrt 2 (Das 1999, "On characterizing the 'knee' of the
        Pareto curve", the two-objective case). Of equal distances, the lower perplexity wins. So a
        front of two points, or one that is nowhere below its chord, has its knee at the lowest
        perplexity. A single point is its own knee. Raises UserError where the front is empty.
        """
        points = useful(self._some())
        smallest, best = points[0], points[-1]
        if smallest == best:
            return best

        def below(point: Point) -> float:
            x = _share(point.size_bytes, smallest.size_bytes, best.size_bytes)
            y = _share(point.valid_measure, best.valid_measure, smallest.valid_measure)
            return 1 - x - y

        return max(reversed(points), key=below)

    def best_within(self, max_size_bytes: int) -> Point:
        """The point of the lowest perplexity among those of at most `max_size_bytes`.

        Raises UserError where none is that small; the message names the smallest point.
        """
        smallest = self.smallest()
        fitting = [point for point in self.plane if point.size_bytes <= max_size_bytes]
        if fitting:
            return fitting[-1]
        limit, size = _apart(max_size_bytes, smallest.size_bytes, format_size, "{} B".format)
        raise UserError(
            f"no point of {self.study} has at most {limit}: its smallest is {smallest.label} "
            f"with {size} at {self.measure.said(smallest.valid_measure)}"
        )

    def smallest_within(self, max_perplexity: float) -> Point:
        """The point of the smallest file with a validation perplexity of at most `max_perplexity`.

        Raises UserError where none is that good; the message names the best point.
        """
        best = self.best()
        for point in self.plane:
            if point.valid_measure <= max_perplexity:
                return point
        limit, value = _apart(max_perplexity, best.valid_measure, self.measure.number, repr)
        raise UserError(
            f"no point of {self.study} has {self.measure.name} {limit} or less: its best is "
            f"{best.label} with {value} at {format_size(best.size_bytes)}"
        )

    def _some(self) -> tuple[Point, ...]:
        if self.infeasible and not self.points:
            raise UserError(
                f"all {len(self.infeasible)} models of {self.study} are over the max_size or "
                f"max_perplexity that it was last swept with; trial=NUMBER takes one of them"
            )
        if not self.points:
            raise UserError(f"{self.study} has no measured model yet, so there is nothing to take")
        return self.plane


PICKS: dict[str, Callable[[Front], Point]] = {
    "knee": Front.knee,
    "smallest": Front.smallest,
    "best": Front.best,
}


def useful(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """The points with at most twice the lowest perplexity, of a front in the plane by size."""
    return tuple(p for p in points if p.valid_measure <= 2 * points[-1].valid_measure)


def front_of(study: str, points: Iterable[Point], measure: Measure = PERPLEXITY) -> Front:
    """The front of `points` in O(n log n), the same whatever their order.

    A point is dominated where another has at most its size, its perplexity and its slowness, and
    less of one of them. Special cases:

    - Of points equal in all, the first by trial stays, and the others count as dominated. Other
      files of trials come after all best files, and points without a trial come last, by name.
    - A point whose size or perplexity is NaN, infinite or not above zero dominates nothing and goes
      to `dominated`.
    - An infeasible point dominates nothing and goes to `infeasible`.
    - Without points, the front is empty.
    """
    front: list[Point] = []
    dominated: list[Point] = []
    measured: list[Point] = []
    ordered = sorted(points, key=_by_trial)
    for point in (one for one in ordered if one.feasible):
        (measured if point.measured else dominated).append(point)
    stairs = _Stairs()
    for point in sorted(measured, key=_by_value):
        better = stairs.add(point.valid_measure, point.slowness)
        (front if better else dominated).append(point)
    return Front(
        study,
        tuple(front),
        tuple(sorted(dominated, key=_by_trial)),
        tuple(one for one in ordered if not one.feasible),
        measure,
    )


class _Stairs:
    """The non-dominated pairs of perplexity and slowness so far: the first ascend, the second
    descend."""

    def __init__(self) -> None:
        self._perplexities: list[float] = []
        self._slownesses: list[float] = []

    def add(self, perplexity: float, slowness: float) -> bool:
        """Add a pair. False where a pair before it has at most both."""
        at = bisect_right(self._perplexities, perplexity)
        if at and self._slownesses[at - 1] <= slowness:
            return False
        if at and self._perplexities[at - 1] == perplexity:
            at -= 1
        end = at  # those from `at` to `end` have at least both
        while end < len(self._slownesses) and self._slownesses[end] >= slowness:
            end += 1
        self._perplexities[at:end], self._slownesses[at:end] = [perplexity], [slowness]
        return True


def hypervolume(
    points: Iterable[Point], reference: tuple[float, float], min_size_bytes: float = 0.0
) -> float:
    """The area in (ln size, ln perplexity) that `points` dominate, up to `reference`. Speed plays
    no part.

    `reference` is (bytes, perplexity). Keep it fixed for a study, so that values can be compared
    over time. Points on or outside the box of the reference add nothing, nor do points without a
    measurement. Without points, the area is 0. A file smaller than `min_size_bytes` counts as one
    of that size.

    Raises UserError for a reference that is not finite and above zero.
    """
    max_size_bytes, max_perplexity = reference
    if not _positive(*reference):
        raise UserError(f"the reference point {reference} must be two finite numbers above zero")
    inside = [
        point
        for point in points
        if point.size_bytes < max_size_bytes and point.valid_measure < max_perplexity
    ]
    front = front_of("", inside).plane
    edges = [math.log(max(point.size_bytes, min_size_bytes)) for point in front] + [
        math.log(max_size_bytes)
    ]
    return sum(
        (right - left) * (math.log(max_perplexity) - math.log(point.valid_measure))
        for point, (left, right) in zip(front, pairwise(edges), strict=True)
    )


def choose(
    front: Front,
    max_size_bytes: int | None = None,
    max_perplexity: float | None = None,
    pick: str | None = None,
) -> Point:
    """The point that a person asks for, by at most one of the arguments; by default the knee.

    `max_size_bytes` takes the lowest perplexity that fits, `max_perplexity` the smallest file that
    is good enough, and `pick` a name of `PICKS`. Raises UserError where more than one argument is
    given, where no point qualifies, and where the front is empty.
    """
    arguments = {"max_size": max_size_bytes, "max_perplexity": max_perplexity, "pick": pick}
    given = [name for name, value in arguments.items() if value is not None]
    if len(given) > 1:
        raise UserError(
            f"{' and '.join(given)} exclude each other: give one of {', '.join(arguments)}"
        )
    if max_size_bytes is not None:
        return front.best_within(max_size_bytes)
    if max_perplexity is not None:
        return front.smallest_within(max_perplexity)
    if pick is not None and pick not in PICKS:
        raise UserError(f"there is no pick {pick!r}; there are {', '.join(PICKS)}")
    return PICKS[pick or "knee"](front)


def _by_trial(point: Point) -> tuple[bool, bool, int, int, str]:
    return (point.trial is None, not point.of_best, point.trial or 0, point.rung or 0, point.name)


def _by_value(point: Point) -> tuple[float, float, float]:
    return point.size_bytes, point.valid_measure, point.slowness


def _positive(*numbers: float) -> bool:
    return all(math.isfinite(number) and number > 0 for number in numbers)


def _share(value: float, low: float, high: float) -> float:
    """How far `value` lies from `low` (0) to `high` (1) in logs; 0 where `low` equals `high`."""
    width = math.log(high) - math.log(low)
    return (math.log(value) - math.log(low)) / width if width else 0.0


def _apart(
    limit: float, value: float, short: Callable[[Any], str], exact: Callable[[Any], str]
) -> tuple[str, str]:
    """Both numbers in short form, or in exact form where the short forms would be equal."""
    form = exact if short(limit) == short(value) else short
    return form(limit), form(value)
