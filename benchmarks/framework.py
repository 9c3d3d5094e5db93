"""What a trial costs beside its training and measuring, in studies of 1,000 and 10,000 trials.

    python -m benchmarks.framework          the framework's own time, on SQLite
    python -m benchmarks.framework workers  two workers against one, on the same recipes

The first command fills a study with sampled recipes. Then a worker goes on with the study, but its
measurements take no time. Everything else is as in a search: claim a slot, ask, suggest, look for
the recipe among the earlier ones, store the rungs and decide who climbs, tell, finish. Look at the
processor time; the wall time depends on what else the machine does.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import torch
from hydra import compose, initialize_config_module
from optuna.trial import FrozenTrial
from sqlalchemy import Engine, event, insert
from sqlalchemy.orm import Session

from lmcore.network import random_network
from lmcore.progress import Observer, ignore
from lmcore.recipe import Recipe
from lmcore.runtime import prepare
from search.bench.dense import DenseCheckpoint, keep_dense
from search.bench.workbench import Workbench
from search.commands import settings_of
from search.config import DENSE_BASELINE, SweepConfig
from search.measurement import Measurement
from search.space.space import OWN
from search.store.outage import Patience
from search.store.schema import MeasurementRow, RungRow
from search.store.slots import Slot, Slots, worker_name
from search.study.beginning import create
from search.study.context import WorkContext
from search.study.note import ATTRIBUTE
from search.study.study import ended_trials
from search.terminal import quiet_optuna
from search.work.sweep import sweep
from search.work.worker import Worker

SIZES, TRIALS = (1_000, 10_000), 15
LIMITS = {1_000: 0.5, 10_000: 3.0}  # seconds a trial may take
RECIPES, RATIO = 16, 1.7


class Instant(Workbench):
    """Measures at once: a size and a perplexity that the recipe's key decides."""

    def measure(
        self, recipe: Recipe, observe: Observer = ignore, goes_on: bool = False
    ) -> Measurement:
        key = self.key(recipe)
        draw = random.Random(key)
        size_bytes = math.exp(draw.uniform(math.log(1e5), math.log(1e6)))
        epochs = recipe.finetuning.epochs if recipe.finetuning else 0.0
        rest = (1e5 / size_bytes) ** 0.3 + draw.expovariate(4.0) + 0.3 * math.exp(-3 * epochs)
        return Measurement(
            key=key,
            recipe=recipe.plain(),
            size_bytes=int(size_bytes),
            valid_measure=80.0 * (1 + rest),
            tokens_per_second=1.0,
            updates=0,
            seconds=0.0,
            sha256="",
            provenance={},
        )


class Timed(Slots):
    """Notes clocks and database statements after each slot."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.notes: list[tuple[float, float, int]] = []

    def finish(self, slot: Slot, worker: str, outcome: str) -> bool:
        finished = super().finish(slot, worker, outcome)
        self.notes.append((time.perf_counter(), time.process_time(), statements()))
        return finished

    def differences(self) -> list[tuple[float, ...]]:
        """Seconds, processor seconds and statements of each trial but the first."""
        return [
            tuple(b - a for a, b in zip(one, other, strict=True))
            for one, other in pairwise(self.notes)
        ]


class Quick(WorkContext[SweepConfig]):
    """A study that is measured at once, and whose slots are timed."""

    def bench(self, checkpoint: DenseCheckpoint | None = None) -> Workbench:
        checkpoint = checkpoint or self.need_checkpoint()
        return Instant.of(self.config, self.corpus, checkpoint.load())

    @cached_property
    def slots(self) -> Timed:
        config = self.config
        return Timed(self.store.engine, self.name, config.trials, config.storage.lease)


_counts = Counter[str]()


@event.listens_for(Engine, "before_cursor_execute")
def _count(*_: Any) -> None:
    _counts["statements"] += 1


def statements() -> int:
    """Of this process so far, to any database."""
    return _counts["statements"]


def settings(folder: Path, *overrides: str) -> SweepConfig:
    """The study of `conf/study/quickstart.yaml`, with all that it writes in a folder."""
    given = ["study=quickstart", "prior=none", f"cache={folder}", *overrides]
    with initialize_config_module("search.conf", version_base="1.3"):
        config = settings_of(SweepConfig, compose("sweep", given))
    assert isinstance(config, SweepConfig)
    return config


def fill(context: WorkContext[SweepConfig], bench: Workbench) -> None:
    """As many trials as the study is to have, as a search leaves them."""
    config, space = context.config, context.space
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    draw, trials, rungs = random.Random(1), list[FrozenTrial](), list[dict[str, Any]]()
    measured = dict[str, dict[str, Any]]()
    for number in range(config.trials):
        trial = sampled.ask()
        ladder = config.fidelity.ladder(space.suggest(trial).recipe)
        reached = min(len(ladder) - 1, int(-math.log2(1 - draw.random())))  # every second goes on
        for rung, recipe in enumerate(ladder[: reached + 1]):
            one = bench.measure(recipe)
            measured[one.key] = asdict(one) | {"measured_at": datetime.now(UTC)}
            rungs.append({"study": config.study, "trial": number, "rung": rung, "key": one.key})
        attribute = {"asked": bench.key(ladder[-1]), "key": one.key, "recipe": one.recipe}
        trials.append(
            optuna.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                values=[float(one.size_bytes), one.valid_measure],
                user_attrs={ATTRIBUTE: attribute},
            )
        )
    context.study.add_trials(trials)
    with Session(context.store.engine) as session, session.begin():
        session.execute(insert(MeasurementRow), list(measured.values()))
        session.execute(insert(RungRow), rungs)


def of_size(folder: Path, size: int) -> dict[str, float]:
    """Medians over the trials of a worker that joins a study of so many."""
    config = settings(folder, f"trials={size}", f"name=of_{size}")
    context = Quick(config)
    study = create(context)
    checkpoint = context.find_checkpoint() or _untrained(context)
    fill(context, context.bench(checkpoint))
    more, stop = config.model_copy(update={"trials": size + TRIALS + 1}), threading.Event()
    WorkContext(more).slots.provide([], ended_trials(study))
    began = time.perf_counter()
    joined = Quick(more, Patience(more.storage.lease, more.storage.shown, stop.is_set))
    worker = Worker(joined, 0, worker_name(), {OWN: checkpoint}, stop)
    ready = time.perf_counter()
    worker.run()
    names = ("seconds", "processor_seconds", "statements")
    each = zip(*joined.slots.differences(), strict=True)
    return dict(zip(names, map(median, each), strict=True)) | {
        "start_seconds": ready - began,
        "first_seconds": joined.slots.notes[0][0] - ready,
    }


def _untrained(context: WorkContext[SweepConfig]) -> DenseCheckpoint:
    model = random_network(context.model, context.words, 0.05, torch.Generator())
    return keep_dense(context.config, context.corpus, model, {})


def framework() -> dict[str, dict[str, float]]:
    figures = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            figures[str(size)] = found = of_size(Path(folder), size)
        print(
            f"after {size:,} trials: {found['seconds']:.3f} s a trial "
            f"({found['processor_seconds']:.3f} s of a processor, {found['statements']:.0f} "
            f"statements), wanted under {LIMITS[size]} s; a worker starts in "
            f"{found['start_seconds']:.1f} s, its first trial takes {found['first_seconds']:.1f} s"
        )
    return figures


# --- two workers against one -------------------------------------------------------------------


def by_workers() -> dict[str, float]:
    """The trials a second of one worker and of two, from the first one's start to the last one's
    end, and how long it takes until the first one starts."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder, "dense")
        for count in (1, 2):
            config = settings(
                Path(folder, str(count)),
                f"trials={RECIPES}",
                f"name=by_{count}",
                f"workers={count}",
                "fidelity=whole",
            )
            if dense.exists():
                shutil.copytree(dense, config.folder / "dense")
            context = WorkContext(config)
            if context.find_checkpoint() is None:
                context.checkpoint()
                shutil.copytree(config.folder / "dense", dense)
            began, trials = _swept(context)
            first = min(row.datetime_start for row in trials if row.datetime_start)
            last = max(row.datetime_complete for row in trials if row.datetime_complete)
            figures[f"trials_per_second_{count}"] = len(trials) / (last - first).total_seconds()
            figures[f"start_seconds_{count}"] = (first - began).total_seconds()
    figures["ratio"] = figures["trials_per_second_2"] / figures["trials_per_second_1"]
    print(
        f"{RECIPES} recipes: {figures['trials_per_second_1']:.3f} trials/s by one worker, "
        f"{figures['trials_per_second_2']:.3f} by two: {figures['ratio']:.2f} x, "
        f"wanted at least {RATIO} x"
    )
    return figures


def _swept(context: WorkContext[SweepConfig]) -> tuple[datetime, list[FrozenTrial]]:
    """When a sweep began, and its trials: of the same recipes whoever asks."""
    study = create(context)
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(RECIPES):
        context.space.suggest(trial := sampled.ask())
        study.enqueue_trial(trial.params)
    # that it is measured here is no matter
    context.store.keep_baseline(context.name, DENSE_BASELINE, "")
    began = datetime.now()
    return began, sweep(context).get_trials(deepcopy=False)


def main() -> None:
    prepare()
    quiet_optuna()
    print(json.dumps(by_workers() if sys.argv[1:] == ["workers"] else framework()))


if __name__ == "__main__":
    main()
