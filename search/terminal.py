"""Progress on standard error while something takes long."""

from __future__ import annotations

import math
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import optuna

from lmcore.progress import Observer, TrainingRecord
from lmcore.task import PERPLEXITY, Measure
from search.process import interruptible
from search.screen import Screen, Size, can_draw, gauge, screen

if TYPE_CHECKING:
    from rich.text import Text

LINE_SECONDS = 30.0  # between lines in a log
DRAW_SECONDS = 0.5  # between drawings of a bar
BAR, LEAST_BAR = 30, 8  # characters of a bar
RISING = 3  # epochs after which a training that only got worse is told of
WORSE = (
    "warning: valid {} only rises, epoch after epoch; end this with Ctrl-C, and try a "
    "smaller training.rate or a larger training.dropout.rate"
)


class ProgressBar(Protocol):
    """Shows how far something is."""

    def to(self, done: float, total: float, doing: str = "") -> None:
        """So much is done now, of so much; `doing` is what is at work."""

    def say(self, line: str) -> None:
        """Print a line of its own."""


@contextmanager
def progress_bar(what: str, unit: str, of_processes: bool = False) -> Iterator[ProgressBar]:
    """A bar in a terminal, elsewhere plain lines, 30 seconds apart. With `of_processes`, what
    processes started meanwhile write to standard error goes by above the bar."""
    if not can_draw(sys.stderr):
        yield Lines(what, unit)
        return
    with screen(of_processes) as shown:
        bar = _Bar(shown, what, unit)
        try:
            yield bar
        finally:
            bar.draw()


class Pace:
    """How far something is, since when, and how long the rest will take."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.began = self.since = time.monotonic()
        self.done = self.first = self.total = 0.0  # `first` was done of `total` at the time `since`

    def to(self, done: float, total: float) -> None:
        """So much is done now, of so much."""
        if self.total != total:
            self.since, self.first, self.total = time.monotonic(), done, total
        self.done = done

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0

    def __str__(self) -> str:
        """ "3.4 of 30 trials, 01:02 passed, 08:01 left"; of nothing, "01:02 passed"."""
        now = time.monotonic()
        done = f"{_rounded(self.done):,} of {self.total:,} {self.unit}, " if self.total else ""
        text = f"{done}{clock(now - self.began)} passed"
        if self.first < self.done < self.total:
            left = (now - self.since) * (self.total - self.done) / (self.done - self.first)
            text += f", {clock(left)} left"
        return text


class _Bar:
    def __init__(self, shown: Screen, what: str, unit: str) -> None:
        self.shown, self.what, self.pace = shown, what, Pace(unit)
        self.doing, self.drawn = "", -math.inf

    def to(self, done: float, total: float, doing: str = "") -> None:
        self.doing = doing
        self.pace.to(done, total)
        if time.monotonic() - self.drawn >= DRAW_SECONDS:
            self.draw()

    def say(self, line: str) -> None:
        self.shown.say(line)

    def draw(self) -> None:
        self.drawn = time.monotonic()
        self.shown.draw([progress_line(self.what, self.pace, self.shown.size, self.doing)])


def progress_line(what: str, pace: Pace, size: Size, doing: str = "") -> Text:
    """A name, a bar, and what the pace says. The bar is as long as the rest of the line allows; a
    name that is too long is cut."""
    from rich.text import Text

    said = f"{pace}, {doing}" if doing else str(pace)
    what = shortened(what, size.columns - len(said) - 1, size)
    width = min(BAR, max(0, size.columns - len(what) - len(said) - 2))
    done, left = gauge(pace.share, width, size.ascii)
    bar = ((f" {done}", "green"), (left, "dim")) if width >= LEAST_BAR else ()
    return Text.assemble((what, "bold"), *bar, f" {said}")


def shortened(text: str, most: int, size: Size) -> str:
    """The text in at most so many characters, but no fewer than four."""
    end = "..." if size.ascii else "…"
    return text if len(text) <= max(most, 4) else text[: max(most, 4) - len(end)] + end


class Lines:
    """Progress as plain lines, 30 seconds apart."""

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.pace = what, Pace(unit)
        self.told = self.pace.began

    def to(self, done: float, total: float, doing: str = "") -> None:
        self.pace.to(done, total)
        now = time.monotonic()
        if now - self.told < LINE_SECONDS:
            return
        self.told = now
        line = f"{self.what}: {self.pace}"
        self.say(f"{line}, {doing}" if doing else line)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _rounded(done: float) -> float:
    return done if isinstance(done, int) else round(done, 1)


def clock(seconds: float) -> str:
    """ "08:01", "1:08:01"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"


def _rises(values: Sequence[float]) -> bool:
    return all(later > earlier for earlier, later in pairwise(values))


@contextmanager
def training_bar(what: str, measure: Measure = PERPLEXITY) -> Iterator[Observer]:
    """The progress of a training, a line with the measure after each epoch, and another where
    the first epochs only made it worse.

    Ctrl-C ends the training after the current update, with KeyboardInterrupt.
    """
    said, stop = 0, threading.Event()
    with progress_bar(what, "updates") as bar, interruptible(stop):

        def observe(record: TrainingRecord, updates: int) -> None:
            nonlocal said
            bar.to(record.updates, updates)
            for epoch in range(said, len(record.valid_measures)):
                said_now = measure.said(record.valid_measures[epoch])
                bar.say(f"epoch {epoch + 1}: valid {said_now}")
                if epoch + 1 == RISING and _rises(record.valid_measures[: epoch + 1]):
                    bar.say(WORSE.format(measure.name))
            said = len(record.valid_measures)
            if stop.is_set():
                raise KeyboardInterrupt

        yield observe


def quiet_optuna() -> None:
    """Silence Optuna's line for every trial, and its warnings about experimental features."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
