"""Progress on standard error while something takes long."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import optuna
from tqdm import tqdm

from lmcore.progress import Observer, TrainingRecord
from search.process import interruptible

LINE_SECONDS = 30.0  # between lines in a log
RISING = 3  # epochs after which a training that only got worse is told of
WORSE = (
    "warning: valid perplexity only rises, epoch after epoch; end this with Ctrl-C, and try a "
    "smaller training.rate or a larger training.dropout.rate"
)


class ProgressBar(Protocol):
    """Shows how far something is."""

    def to(self, done: float, total: float, doing: str = "") -> None:
        """So much is done now, of so much; `doing` is what is at work."""

    def say(self, line: str) -> None:
        """Print a line of its own."""


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[ProgressBar]:
    """A bar in a terminal, elsewhere plain lines, 30 seconds apart."""
    if not sys.stderr.isatty():
        yield _Lines(what, unit)
        return
    with tqdm(
        desc=what,
        bar_format=f"{{desc}} |{{bar:30}}| {{n_fmt}}/{{total_fmt}} {unit} "
        "[{elapsed}<{remaining}{postfix}]",
        mininterval=1,
    ) as bar:
        yield _Bar(bar)


class _Bar:
    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def to(self, done: float, total: float, doing: str = "") -> None:
        if self.bar.total != total:
            self.bar.reset(total)
            self.bar.initial = done
        self.bar.set_postfix_str(doing, refresh=False)
        self.bar.n = _rounded(done)
        self.bar.update(0)

    def say(self, line: str) -> None:
        self.bar.write(line, file=sys.stderr)


class _Lines:
    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self.began = self.told = self.since = time.monotonic()
        self.first = self.total = 0.0  # `first` was done of `total` at the time `since`

    def to(self, done: float, total: float, doing: str = "") -> None:
        now = time.monotonic()
        if self.total != total:
            self.since, self.first, self.total = now, done, total
        if now - self.told < LINE_SECONDS:
            return
        self.told, passed = now, _clock(now - self.began)
        line = f"{self.what}: {_rounded(done):,} of {total:,} {self.unit}, {passed} passed"
        if done > self.first:
            left = (now - self.since) * (total - done) / (done - self.first)
            line += f", {_clock(left)} left"
        self.say(f"{line}, {doing}" if doing else line)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _rounded(done: float) -> float:
    return done if isinstance(done, int) else round(done, 1)


def _clock(seconds: float) -> str:
    text: str = tqdm.format_interval(seconds)
    return text


def _rises(values: Sequence[float]) -> bool:
    return all(later > earlier for earlier, later in pairwise(values))


@contextmanager
def training_bar(what: str) -> Iterator[Observer]:
    """The progress of a training, a line with the perplexity after each epoch, and another where
    the first epochs only made it worse.

    Ctrl-C ends the training after the current update, with KeyboardInterrupt.
    """
    said, stop = 0, threading.Event()
    with progress_bar(what, "updates") as bar, interruptible(stop):

        def observe(record: TrainingRecord, updates: int) -> None:
            nonlocal said
            bar.to(record.updates, updates)
            for epoch in range(said, len(record.valid_perplexities)):
                perplexity = record.valid_perplexities[epoch]
                bar.say(f"epoch {epoch + 1}: valid perplexity {perplexity:.2f}")
                if epoch + 1 == RISING and _rises(record.valid_perplexities[: epoch + 1]):
                    bar.say(WORSE)
            said = len(record.valid_perplexities)
            if stop.is_set():
                raise KeyboardInterrupt

        yield observe


def quiet_optuna() -> None:
    """Silence Optuna's line for every trial, and its warnings about experimental features."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
