"""How sure a front is: what follows from its points trained again with other seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from search.config import SPEED
from search.measurement import Measurement
from search.rules.repeats import Seed, Stairs, attainment, mean_and_sd, shares_on_front
from search.study.history import History
from search.study.results import Results


@dataclass(frozen=True)
class Sure:
    """A file whose recipe was trained again with other seeds; its own measurement is one of them.

    `on_front` is the share of the draws of one seed of each file of the study in which the file is
    non-dominated.
    """

    seeds: int
    perplexity: tuple[float, float]  # mean and standard deviation
    size_bytes: tuple[float, float]
    on_front: float


def sureness_of(history: History) -> dict[str, Sure]:
    """How sure each file within the limits is that has repeats, by its name. Files without repeats
    take part as they are."""
    results = history.results
    every: dict[str, Sequence[Measurement]] = {}
    for name, _, _, measured in results.named():
        if name not in results.infeasible:  # files of one key are one and the same
            every.setdefault(measured.key, [measured, *history.repeats.get(name, ())])
    keys = {
        name: results.measured(name).key
        for name in history.repeats
        if name not in results.infeasible
    }
    points = {key: [_seed(one) for one in seeds] for key, seeds in every.items()}
    shares = _shares(results, points, set(keys.values()))
    return {
        name: Sure(
            seeds=len(every[key]),
            perplexity=mean_and_sd([one.perplexity for one in points[key]]),
            size_bytes=mean_and_sd([one.size_bytes for one in points[key]]),
            on_front=shares[key],
        )
        for name, key in keys.items()
    }


def _shares(
    results: Results, points: Mapping[str, Sequence[Seed]], wanted: Iterable[str]
) -> dict[str, float]:
    """Key -> the share of draws in which the file stays on the front. With speed as an objective,
    only files that are no slower can dominate it; a seed has the speed of its file."""
    if SPEED not in results.objectives:
        return shares_on_front(points, wanted)
    speeds = {one.key: one.relative_speed or 0.0 for _, _, _, one in results.named()}
    found = dict[str, float]()
    for key in wanted:
        rivals = {other: of for other, of in points.items() if speeds[other] >= speeds[key]}
        found |= shares_on_front(rivals, [key])
    return found


def bands_of(history: History) -> dict[str, Stairs]:
    """The attainment bands of the points of the front that have repeats: "best", "median", "worst";
    empty where none has."""
    results = history.results
    points = {
        point.name: [_seed(results.measured(point.name)), *map(_seed, history.repeats[point.name])]
        for point in results.front.points
        if point.name in history.repeats
    }
    return attainment(points) if points else {}


def _seed(measured: Measurement) -> Seed:
    return Seed(measured.size_bytes, measured.valid_measure)
