"""What is said on standard error while something takes long, and how it is stopped."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol

import optuna
from tqdm import tqdm

from lmcore.training import Observer, TrainingRecord


class Event(Protocol):
    """A flag, of threads or of processes."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...


@contextmanager
def interruptible(stop: Event) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a terminal that hangs up set `stop`; KeyboardInterrupt is raised at the
    end, or at once by the second of a kind (a terminal's Ctrl-C and a parent's SIGTERM come
    together; a shell may say that its terminal hung up, and the terminal, too).

    An exception that a signal raises wherever the program is may be swallowed there (by a
    destructor, by a callback from C), or cut a write short. So it is with submitit's, which hears
    by SIGUSR2 that a job's time is over, and may submit it again: that waits for the end, too.
    """
    asked: set[int] = set()

    def ask(number: int, frame: FrameType | None) -> None:
        if number in asked and number != signal.SIGHUP:
            raise KeyboardInterrupt
        asked.add(number)
        if len(asked) == 1:  # a second signal may come while the first is setting it, which locks
            stop.set()

    handled = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        handled.append(signal.SIGHUP)
    resubmit = signal.getsignal(signal.SIGUSR2)
    if callable(resubmit):
        handled.append(signal.SIGUSR2)
    before = {number: signal.signal(number, ask) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGUSR2 in asked and callable(resubmit):
        with suppress(Exception):  # where it may not be submitted again
            resubmit(signal.SIGUSR2, None)
    if stop.is_set():
        raise KeyboardInterrupt


@contextmanager
def training_bar(what: str) -> Iterator[Observer]:
    """A bar over the updates of a training, and a line with the perplexity after each epoch.

    Ctrl-C ends the training after the update at hand.
    """
    said, stop = 0, threading.Event()
    with (
        tqdm(
            desc=what,
            bar_format="{desc} |{bar:30}| {percentage:.0f}% [{elapsed}<{remaining}]",
            mininterval=1 if sys.stderr.isatty() else 20,
        ) as bar,
        interruptible(stop),
    ):

        def observe(record: TrainingRecord, updates: int) -> None:
            nonlocal said
            if bar.total is None:
                bar.reset(total=updates)
                bar.initial = bar.n = record.updates - 1
            bar.update(1)
            for epoch in range(said, len(record.valid_perplexities)):
                perplexity = record.valid_perplexities[epoch]
                bar.write(f"epoch {epoch + 1}: valid perplexity {perplexity:.2f}", file=sys.stderr)
            said = len(record.valid_perplexities)
            if stop.is_set():
                raise KeyboardInterrupt

        yield observe


def quiet_optuna() -> None:
    """No lines about every trial, nor about the features of Optuna that we chose to use."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
