"""A search that follows its own prediction: where a recipe of the predicted front is expected below
what was found, it is tried before the sampler proposes others.

The prediction is of untrained files, and what was found was trained. So a prediction is compared
through what was tried. Between two recipes of the predicted front that were trained to their last
rung, another one is expected between the two as well: as far along as its predicted nats are.

A recipe is worth a trial where its expected file would make the hypervolume grow by more than
`LEAST_GAIN` of itself. A recipe that is at work, that was stopped below its last rung or that
failed stands for its expected file too. So no two workers go to the same place, and nothing
near a recipe that was stopped is tried again.

Tried on a recorded grid (`python -m benchmarks.search`) and seven parts of it, as the mean epochs
until 95% and 99% of the hypervolume:

| | 95% | 99% |
|---|---|---|
| as it is: four starts, at most three trials in a row that follow | 13 | 23 |
| twelve starts, none follows | 17 | 38 |
| eight starts | 14 | 34 |
| one sampled trial after each that follows; after three | 13; 13 | 25; 24 |
| a `LEAST_GAIN` of 0.004 | 13 | 29 |
| six starts | 16 | 31 |
| six starts, and the untrained files of stopped recipes count as trained ones | 17 | 42 |
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from search.rules.sensitivity import Predicted

LEAST_GAIN = 0.0005  # of the hypervolume
IN_A_ROW = 3  # trials that follow, after which the sampler proposes one

Coordinates = tuple[float, float]  # ln bytes, ln perplexity
Corners = tuple[Coordinates, Coordinates]  # the lower and the upper one


def next_recipe(
    front: Sequence[Predicted],
    tried: Mapping[int, Coordinates | None],
    found: Iterable[Coordinates],
    corners: Corners,
) -> Predicted | None:
    """The untried recipe of the predicted `front` whose expected file would make the hypervolume
    grow most, None where no growth is worth a trial.

    `tried` has the recipes that trials have, by their index in the front: the coordinates of the
    trial's best file where it was trained to its last rung, else None. `found` has those of all
    files. The hypervolume is that between the `corners`. None where fewer than two were trained
    to their last rung.
    """
    trained = {index: at for index, at in sorted(tried.items()) if at is not None}
    if len(trained) < 2:
        return None
    expected = [_expected(front, trained, index) for index in range(len(front))]
    reached = _stairs([*found, *(expected[index] for index in tried if index not in trained)])
    before = _area(reached, corners)
    best, most = None, before * (1 + LEAST_GAIN)
    for index, recipe in enumerate(front):
        if index not in tried:
            area = _area(_stairs([*reached, expected[index]]), corners)
            if area > most:
                best, most = recipe, area
    return best


def _expected(
    front: Sequence[Predicted], trained: Mapping[int, Coordinates], index: int
) -> Coordinates:
    """Where the file of a recipe is expected. Outside of all that were trained, it differs from the
    nearest of them as the prediction does."""
    order = list(trained)
    at = bisect_right(order, index)
    left, right = order[max(at - 1, 0)], order[min(at, len(order) - 1)]
    mine = front[index]
    if at in (0, len(order)):
        size, perplexity = _grown(front, trained, left)
        return math.log(mine.size_bytes) + size, mine.nats + perplexity
    way = front[left].nats - front[right].nats
    share = (front[left].nats - mine.nats) / way
    (left_size, _), (right_size, _) = (_grown(front, trained, one) for one in (left, right))
    low, high = trained[left][1], trained[right][1]
    size = math.log(mine.size_bytes) + left_size + share * (right_size - left_size)
    return size, low + share * (high - low)


def _grown(
    front: Sequence[Predicted], trained: Mapping[int, Coordinates], index: int
) -> Coordinates:
    """By how much the best file of a trained recipe exceeds its prediction: ln bytes, and ln
    perplexity over nats."""
    size, perplexity = trained[index]
    return size - math.log(front[index].size_bytes), perplexity - front[index].nats


def _stairs(every: Iterable[Coordinates]) -> list[Coordinates]:
    """The non-dominated ones, by size."""
    found: list[Coordinates] = []
    for at in sorted(every):
        if not found or at[1] < found[-1][1]:
            found.append(at)
    return found


def _area(stairs: Sequence[Coordinates], corners: Corners) -> float:
    """What non-dominated coordinates by size dominate between the corners."""
    (left, low), (right, high) = corners
    area, at, height = 0.0, left, high
    for size, perplexity in [*stairs, (right, low)]:
        end = min(max(size, left), right)
        area += (end - at) * (high - height)
        at, height = end, min(max(perplexity, low), high)
    return area
