"""Progress on standard error while something takes long."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from tqdm import tqdm

from lmcore.progress import Observer, TrainingRecord
from search.process import interruptible


@contextmanager
def training_bar(what: str) -> Iterator[Observer]:
    """A bar over the updates of a training, and a line with the perplexity after each epoch.

    Ctrl-C ends the training after the current update, with KeyboardInterrupt.
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
    """Silence Optuna's line for every trial, and its warnings about experimental features."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
