"""How a search went: its hypervolume over what was spent, its rungs, its failures, its time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from search.config import DENSE_BASELINE
from search.describe import failure_line
from search.measurement import Measurement
from search.show.report.columns import epochs_of, number
from search.show.report.record import Course
from search.study.history import History
from search.study.results import Results

MOST_RUNGS = 12  # that are told apart by their epochs; more are told apart by number
MOST_REASONS = 20  # of failures; of more, the rarest stand together
NO_MODEL = (1.0, 1.0)  # the reference of a study without any model
STAGES = {  # a step of a trial -> as people say it
    "ask": "asking the sampler",
    "fit": "making it fit",
    "build": "building the model",
    "finetune": "fine-tuning",
    "write": "writing the file",
    "load": "reloading the file",
    "score": "measuring",
}


class Growing:
    """The hypervolume of a set of points to which points are added, in O(log n) each.

    It is that of `search.front.hypervolume`, up to the `reference` (bytes, perplexity): an area in
    (ln size, ln perplexity). A file smaller than `min_size_bytes` counts as one of that
    size. `_x` ascends and `_y` descends along the front.
    """

    def __init__(self, reference: tuple[float, float], min_size_bytes: float = 0.0) -> None:
        self._min_size_bytes = min_size_bytes
        self._end, self._top = map(math.log, reference)
        self._x: list[float] = []
        self._y: list[float] = []
        self.area = 0.0

    def add(self, size_bytes: float, perplexity: float) -> bool:
        """Add a point. Whether the area grew by it: not by a dominated one, nor by one outside the
        reference, nor by one that is not finite and above zero."""
        if not all(math.isfinite(one) and one > 0 for one in (size_bytes, perplexity)):
            return False
        x, y = math.log(max(size_bytes, self._min_size_bytes)), math.log(perplexity)
        if x >= self._end or y >= self._top:
            return False
        first = bisect_right(self._x, x)  # the first point to the right
        if first and self._y[first - 1] <= y:
            return False
        if first and self._x[first - 1] == x:
            first -= 1
        last = first  # those from first to last - 1 are dominated
        while last < len(self._x) and self._y[last] >= y:
            last += 1
        below = self._y[first - 1] if first else self._top
        edges = [x, *self._x[first:last], self._x[last] if last < len(self._x) else self._end]
        heights = [below, *self._y[first:last]]
        for (left, right), height in zip(pairwise(edges), heights, strict=True):
            self.area += (right - left) * (height - y)
        self._x[first:last], self._y[first:last] = [x], [y]
        return True


def reference_of(results: Results) -> tuple[float, float]:
    """The reference point of a study's hypervolume: the corner of its box; without one, the size
    of the dense model's file, and twice its perplexity.

    Without a dense baseline, or where that is not finite and above zero: the largest size, and
    twice the lowest perplexity of all points.
    """
    if results.box:
        return results.box.reference
    beside = {point.name: point for point in results.beside}
    if DENSE_BASELINE in beside and beside[DENSE_BASELINE].measured:
        dense = beside[DENSE_BASELINE]
        return float(dense.size_bytes), 2 * dense.valid_measure
    front = results.front
    points = [p for p in (*front.points, *front.dominated, *front.infeasible) if p.measured]
    if not points:
        return NO_MODEL
    lowest = min(point.valid_measure for point in points)
    return 1.01 * max(point.size_bytes for point in points), 2 * lowest


def course_of(history: History) -> Course:
    """The course of a study."""
    reference = reference_of(history.results)
    epochs, hours, grown = _growth(history, reference)
    return Course(
        epochs=epochs,
        hours=hours,
        hypervolume=grown,
        reference=reference,
        rungs=_rungs(history),
        failures=_failures(history),
        stages=_stages(history),
    )


@dataclass(frozen=True)
class _Step:
    """A measured file: when it was there, and the epochs that were paid for it beyond those of the
    rung below."""

    at: float  # infinite where that is not known
    trial: int
    rung: int
    epochs: float
    measured: Measurement
    feasible: bool


def _growth(
    history: History, reference: tuple[float, float]
) -> tuple[list[float], list[float], list[float]]:
    """Epochs spent, hours since the first trial, and the hypervolume then, as `Course` has them."""
    began = min((one.started for one in history.trials if one.started is not None), default=None)
    box = history.results.box
    area = Growing(reference, box.min_size_bytes if box else 0.0)
    spent, found = 0.0, list[tuple[float, float, float]]()
    steps = _steps(history)
    for step in steps:
        spent += step.epochs
        one = step.measured
        grew = step.feasible and area.add(one.size_bytes, one.valid_measure)
        if grew or step is steps[-1]:
            found.append((spent, step.at, area.area))
    if not area.area:
        return [], [], []
    epochs = [number(one) for one, _, _ in found]
    shares = [number(one / area.area) for _, _, one in found]
    if began is None or not all(math.isfinite(at) for _, at, _ in found):
        return epochs, [], shares
    return epochs, [number(max(0.0, at - began) / 3600) for _, at, _ in found], shares


def _steps(history: History) -> list[_Step]:
    """All files in the order in which they were measured. Where that is not known of some, all are
    by trial. A file that two trials share was paid for once."""
    results, times = history.results, {one.number: one for one in history.trials}
    steps, paid, below = [], set[str](), dict[int, float]()
    for name, trial, rung, one in results.named():
        epochs = epochs_of(one.recipe)
        record = times.get(trial)
        steps.append(
            _Step(
                at=record.measured_at.get(rung, math.inf) if record else math.inf,
                trial=trial,
                rung=rung,
                epochs=0.0 if one.key in paid else max(0.0, epochs - below.get(trial, 0.0)),
                measured=one,
                feasible=name not in results.infeasible,
            )
        )
        paid.add(one.key)
        below[trial] = max(epochs, below.get(trial, 0.0))
    if all(math.isfinite(step.at) for step in steps):
        steps.sort(key=lambda step: (step.at, step.trial, step.rung))
    return steps


def _rungs(history: History) -> dict[str, int]:
    """Rung -> how many trials came to it."""
    by_epochs, by_number = Counter[float](), Counter[int]()
    for rungs in history.results.files.values():
        by_epochs.update({epochs_of(one.recipe) for one in rungs.values()})
        by_number.update(rungs.keys())
    if len(by_epochs) <= MOST_RUNGS:
        return {_epochs(epochs): count for epochs, count in sorted(by_epochs.items())}
    return {f"rung {rung}": count for rung, count in sorted(by_number.items())}


def _epochs(epochs: float) -> str:
    return f"{epochs:.3g} epoch{'' if epochs == 1 else 's'}"


def _failures(history: History) -> dict[str, int]:
    """Reason -> how many trials, the most frequent first, of at most `MOST_REASONS`: numbers in the
    reasons may make each of thousands another one."""
    reasons = [
        failure_line(one.failure)
        for one in history.trials
        if not one.duplicate and (one.failure is not None or one.state == "failed")
    ]
    first, others = Counter(reasons).most_common(), 0
    if len(first) > MOST_REASONS:
        others = sum(count for _, count in first[MOST_REASONS - 1 :])
        first = first[: MOST_REASONS - 1]
    return dict(first) | ({"other reasons": others} if others else {})


def _stages(history: History) -> dict[str, float]:
    """Step -> seconds of all trials. Earlier versions noted those of the fine-tuning alone."""
    known = history.seconds_by_stage()
    if not known:
        files = history.results.files.values()
        known = {"finetune": sum(max(one.seconds for one in rungs.values()) for rungs in files)}
    return {
        STAGES.get(name, name): number(float(seconds))
        for name, seconds in known.items()
        if math.isfinite(seconds) and seconds > 0
    }
