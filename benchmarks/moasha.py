"""Syne Tune's MOASHA on the recorded grid, asked and told as by its own tuner.

MOASHA samples at random. It wants the rank of each trial, but its default priority in Syne Tune
0.16, `NonDominatedPriority`, returns the order of the trials instead, so it may stop the best one.
With `mended`, the priority returns ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import Any

import numpy as np

from search.rules.fidelity import Look

GRAIN = 4  # MOASHA counts in whole numbers, so it is given quarters of epochs


def installed() -> bool:
    return find_spec("syne_tune") is not None


class Moasha:
    """It halves as it does by default, from the first of the `rungs` (in epochs) to the last."""

    def __init__(
        self, axes: Mapping[str, int], rungs: Sequence[float], seed: int, mended: bool
    ) -> None:
        from syne_tune.config_space import randint
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        np.random.seed(seed)  # it draws from NumPy's own generator, whatever seed it is given
        self.quarters = [int(GRAIN * epochs) for epochs in rungs]
        self.scheduler = MOASHA(
            {axis: randint(0, settings - 1) for axis, settings in axes.items()},
            metrics=["log_size", "log_perplexity"],
            time_attr="quarters",
            multiobjective_priority=_ranks() if mended else None,
            grace_period=min(quarters for quarters in self.quarters if quarters),
            max_t=self.quarters[-1],
            random_seed=seed,
        )
        self.trials: list[Any] = []

    def ask(self, looks: Sequence[Look]) -> tuple[int, dict[str, int]]:
        from syne_tune.backend.trial_status import Trial

        setting = self.scheduler.suggest().config
        trial = Trial(len(self.trials), setting, datetime.now())
        self.scheduler.on_trial_add(trial)
        self.trials.append(trial)
        return trial.trial_id, setting

    def goes_on(self, looks: Sequence[Look]) -> bool:
        mine = looks[-1]
        result = {
            "quarters": self.quarters[mine.rung],
            "log_size": math.log(mine.size_bytes),
            "log_perplexity": math.log(mine.perplexity),
        }
        return str(self.scheduler.on_trial_result(self.trials[mine.trial], result)) == "CONTINUE"

    def end(self, trial: int, values: tuple[float, float] | None) -> None:
        self.scheduler.on_trial_remove(self.trials[trial])


def _ranks() -> Any:
    from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import (
        NonDominatedPriority,
    )

    class Ranks(NonDominatedPriority):  # type: ignore[misc]
        def priority_unsafe(self, objectives: Any) -> Any:
            return np.argsort(super().priority_unsafe(objectives))

    return Ranks()
