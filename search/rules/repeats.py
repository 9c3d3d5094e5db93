"""How sure a front is, when its points were trained again with other seeds.

A point is then several measurements, its seeds. One seed of each point is drawn, uniformly and
independently of the others; a draw is a front that a search could have found. What follows from all
draws is computed exactly, without drawing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple


class Seed(NamedTuple):
    """A measurement of a point: bytes and perplexity."""

    size_bytes: float
    perplexity: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.size_bytes) and math.isfinite(self.perplexity)


Points = Mapping[str, Sequence[Seed]]  # name -> its seeds, at least one
Stairs = list[tuple[float, float]]  # bytes and perplexity; bytes ascend, perplexity descends


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the standard deviation (of n - 1) of at least one value; 0 of a single one, NaN
    where a value is not finite or too large to be squared."""
    try:
        if all(map(math.isfinite, values)):
            return fmean(values), stdev(values) if len(values) > 1 else 0.0
    except OverflowError:
        pass
    return math.nan, math.nan


def shares_on_front(points: Points, names: Iterable[str]) -> dict[str, float]:
    """Name -> the share of draws in which no other point dominates it, for these names.

    A point is dominated where another has at most its size and at most its perplexity, and is
    smaller or better; equal points stay together. A seed that is not finite is never on the front
    and dominates nothing. Points of one seed take part as they are.

    A seed of a point stays with the probability prod_j (1 - d_j), over the other points j, of whose
    seeds the share d_j dominates it: the draws are independent.
    """
    alone = [seeds[0] for seeds in points.values() if len(seeds) == 1 and seeds[0].is_finite]
    stairs = _stairs(alone)
    repeated = {name: seeds for name, seeds in points.items() if len(seeds) > 1}
    found = {}
    for name in names:
        seeds = points[name]
        found[name] = fmean(_stays(name, seed, repeated, stairs) for seed in seeds)
    return found


def _stays(name: str, seed: Seed, repeated: Points, stairs: Stairs) -> float:
    """The probability that no other point dominates the seed. `stairs` are those of the points of
    one seed; the seed itself may be one of them, since equal points do not dominate."""
    if not seed.is_finite or _dominated(seed, stairs):
        return 0.0
    return math.prod(
        1 - sum(_dominates(other, seed) for other in seeds) / len(seeds)
        for one, seeds in repeated.items()
        if one != name
    )


def attainment(points: Points) -> dict[str, Stairs]:
    """The bands of the draws' fronts: "best", "median" and "worst" staircase.

    The empirical attainment function (Grunert da Fonseca, Fonseca and Hall 2001) at a size and a
    perplexity is the share of draws with a point of at most both: 1 - prod_j (1 - a_j), where the
    share a_j of the seeds of point j is at most both. The staircases are the corners of where it is
    above 0, at least 1/2, and 1. All are empty without points. A seed that is not finite attains
    nothing.
    """
    seeds = [seed for each in points.values() for seed in each if seed.is_finite]
    worst = [
        Seed(max(one.size_bytes for one in each), max(one.perplexity for one in each))
        for each in points.values()
        if all(one.is_finite for one in each)
    ]
    return {"best": _stairs(seeds), "median": _median(points), "worst": _stairs(worst)}


def _median(points: Points) -> Stairs:
    """The corners of where at least half of the draws attain."""
    sizes = sorted({seed.size_bytes for each in points.values() for seed in each})
    by_perplexity = sorted(
        (seed.perplexity, seed.size_bytes, name, len(each))
        for name, each in points.items()
        for seed in each
        if seed.is_finite
    )
    corners = []
    for size in sizes:
        attained: dict[str, float] = {}  # name -> the share of its seeds that is at most both
        for perplexity, size_bytes, name, seeds in by_perplexity:
            if size_bytes <= size:
                attained[name] = attained.get(name, 0.0) + 1 / seeds
                missed = math.prod(max(0.0, 1 - share) for share in attained.values())
                if missed <= 0.5 + 1e-9:
                    corners.append(Seed(size, perplexity))
                    break
    return _stairs(corners)


def _stairs(seeds: Iterable[Seed]) -> Stairs:
    """The non-dominated ones by size, without duplicates."""
    found: Stairs = []
    for size_bytes, perplexity in sorted(seeds):
        if not found or perplexity < found[-1][1]:
            found.append((size_bytes, perplexity))
    return found


def _dominated(seed: Seed, stairs: Stairs) -> bool:
    """Whether a corner of the staircase dominates the seed."""
    below = bisect_right(stairs, (seed.size_bytes, math.inf))
    return below > 0 and _dominates(Seed(*stairs[below - 1]), seed)


def _dominates(one: Seed, other: Seed) -> bool:
    at_most = one.size_bytes <= other.size_bytes and one.perplexity <= other.perplexity
    return at_most and one.is_finite and one != other
