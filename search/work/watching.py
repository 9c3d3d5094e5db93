"""What a sweep shows while it runs: one screen in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from search.bench.dense import DenseCheckpoint
from search.config import DENSE_BASELINE, EffortConfig
from search.front import Point, hypervolume
from search.rules.fidelity import Look
from search.rules.limits import Limits
from search.screen import Screen, can_draw, screen
from search.show.live import AtWork, Live, frame
from search.store.slots import Ended, Holding
from search.study.context import WorkContext
from search.study.study import limits_of
from search.terminal import Pace, ProgressBar, progress_bar
from search.work.lease import FAILED


@dataclass(frozen=True)
class Moment:
    """How a sweep stands: so many trials are done, of so many. `held` is what workers hold, `ended`
    what has ended since the moment before. `ours` has this sweep's workers: name -> "worker 0"."""

    done: float
    total: int
    held: Sequence[Holding]
    ended: Sequence[Ended]
    ours: Mapping[str, str]


class Watch(Protocol):
    """Shows how a sweep goes."""

    def say(self, line: str) -> None:
        """Print a line of its own."""

    def show(self, now: Moment) -> None:
        """Show how the sweep stands."""


@contextmanager
def watching(context: WorkContext[EffortConfig], dense: DenseCheckpoint) -> Iterator[Watch]:
    """What shows a sweep: a screen in a terminal, elsewhere plain lines, 30 seconds apart. `dense`
    is the study's own dense model."""
    if not can_draw(sys.stderr):
        with watching_bar(context.name, "trials", label) as watch:
            yield watch
        return
    growing = _growing(context, dense)
    with screen(of_processes=True) as shown:
        drawing = _ScreenWatch(shown, context, growing)
        try:
            yield drawing
        finally:
            drawing.draw()


def _growing(context: WorkContext[EffortConfig], dense: DenseCheckpoint) -> Growing:
    limits = limits_of(context.study)
    if box := context.box(dense):
        return Growing(limits, box.reference, box.min_size_bytes)
    return Growing(limits, (dense.size_bytes, context.corpus.naive))


@contextmanager
def watching_bar(what: str, unit: str, named: Callable[[Ended | Holding], str]) -> Iterator[Watch]:
    """A bar alone. `named` says what a slot is called."""
    with progress_bar(what, unit, of_processes=True) as bar:
        yield _BarWatch(bar, named)


class _BarWatch:
    def __init__(self, bar: ProgressBar, named: Callable[[Ended | Holding], str]) -> None:
        self.bar, self.named, self.say = bar, named, bar.say

    def show(self, now: Moment) -> None:
        self.bar.to(now.done, now.total, ", ".join(map(self.named, now.held)))


class _ScreenWatch:
    """Reads all files of the study once, and then those of trials that are or were at work."""

    def __init__(self, shown: Screen, context: WorkContext[EffortConfig], growing: Growing) -> None:
        self.shown, self.growing = shown, growing
        self.study, self.store = context.name, context.store
        self.measure = context.config.corpus.task.measure
        self.say = shown.say
        self.pace = Pace("trials")
        self.at_work: list[AtWork] = []
        self.before: int | None = None  # files of earlier sweeps
        self.failed = 0

    def show(self, now: Moment) -> None:
        trials = [*(one.trial for one in now.held), *(one.trial for one in now.ended)]
        touched = {trial for trial in trials if trial is not None}
        self.growing.add(self.store.looks(self.study, None if self.before is None else touched))
        if self.before is None:
            self.before = len(self.growing.hypervolume)
        self.failed += sum(one.outcome.startswith(FAILED) for one in now.ended)
        self.pace.to(now.done, now.total)
        busy = {one.worker for one in now.held}
        at_work = [self._at_work(one, now.ours) for one in now.held if one.seconds_left > 0]
        at_work += [AtWork(shown, "-") for name, shown in now.ours.items() if name not in busy]
        self.at_work = sorted(
            at_work, key=lambda one: (one.worker not in now.ours.values(), one.worker)
        )
        self.draw()

    def draw(self) -> None:
        live = Live(
            self.study,
            self.pace,
            self.at_work,
            self.growing.front,
            self.growing.hypervolume,
            self.before or 0,
            self.failed,
            self.measure,
        )
        self.shown.draw(frame(live, self.shown.size))

    def _at_work(self, one: Holding, ours: Mapping[str, str]) -> AtWork:
        worker = ours.get(one.worker) or ":".join(one.worker.split(":")[:2])
        rung = None if one.trial is None else self.growing.rungs(one.trial)
        return AtWork(worker, label(one), rung, one.fraction)


class Growing:
    """The front and the hypervolume of files that come one after another.

    Files over the limits and files without a measurement count as measured, but they change
    neither. `reference` is (bytes, perplexity), the corner up to which the hypervolume is measured;
    see `search.front.hypervolume` for `min_size_bytes`.
    """

    def __init__(
        self, limits: Limits, reference: tuple[float, float], min_size_bytes: float = 0.0
    ) -> None:
        self.limits, self.reference, self.min_size_bytes = limits, reference, min_size_bytes
        self.front: list[Look] = []  # by size; perplexity strictly descends
        self.hypervolume: list[float] = []  # after each file
        self._rungs: dict[int, int] = {}  # trial -> how many rungs it was measured at

    def add(self, looks: Collection[Look]) -> None:
        """Take in what is new of the looks. Those of a trial come in the order of its rungs."""
        for look in looks:
            if look.rung < self.rungs(look.trial):
                continue
            self._rungs[look.trial] = look.rung + 1
            volume = self.hypervolume[-1] if self.hypervolume else 0.0
            self.hypervolume.append(self._volume() if self._moves_front(look) else volume)

    def rungs(self, trial: int) -> int:
        """At how many rungs the trial was measured."""
        return self._rungs.get(trial, 0)

    def _moves_front(self, look: Look) -> bool:
        """Put the look on the front, if no other dominates or equals it, and take off those that it
        dominates. Whether it was put there."""
        measured = look.size_bytes > 0 and math.isfinite(look.perplexity) and look.perplexity > 0
        if not measured or self.limits.broken(look.size_bytes, look.perplexity):
            return False
        sizes = [one.size_bytes for one in self.front]
        no_larger = bisect_right(sizes, look.size_bytes)
        if no_larger and self.front[no_larger - 1].perplexity <= look.perplexity:
            return False
        begin = end = bisect_left(sizes, look.size_bytes)
        while end < len(self.front) and self.front[end].perplexity >= look.perplexity:
            end += 1
        self.front[begin:end] = [look]
        return True

    def _volume(self) -> float:
        points = [Point("", 0, one.size_bytes, one.perplexity, None, None) for one in self.front]
        return hypervolume(points, self.reference, self.min_size_bytes)


def label(one: Ended | Holding) -> str:
    """ "trial 17", "dense model", "baseline control"."""
    if one.kind == "baseline":
        return "dense model" if one.name == DENSE_BASELINE else f"baseline {one.name}"
    return "a new trial" if one.trial is None else f"trial {one.trial}"
