"""What is said on standard error while something takes long."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from tqdm import tqdm

from lmcore.training import Observer, TrainingRecord


@contextmanager
def training_bar(what: str) -> Iterator[Observer]:
    """A bar over the updates of a training, and a line with the perplexity after each epoch."""
    said = 0
    with tqdm(
        desc=what,
        bar_format="{desc} |{bar:30}| {percentage:.0f}% [{elapsed}<{remaining}]",
        mininterval=1 if sys.stderr.isatty() else 20,
    ) as bar:

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

        yield observe


def quiet_optuna() -> None:
    """No lines about every trial, nor about the features of Optuna that we chose to use."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
