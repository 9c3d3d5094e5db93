"""Which parameters mattered, by objective."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from search.study.history import History
from search.study.study import values_of

LEAST = 20  # trials; the best tenth of fewer is one trial
MOST = 10_000  # trials that are looked at; of more, evenly many
WIDE = 10.0  # ratio of the largest value to the smallest from which a range counts as logarithmic


def importance(history: History) -> dict[str, dict[str, float]]:
    """Objective -> parameter -> its share of what decides whether a trial is among the best tenth
    by that objective, the largest first; shares sum to 1.

    It is PED-ANOVA, by Optuna (Watanabe et al. 2023, arXiv 2304.10255). A range is that of the
    values that occurred. An objective is left out where fewer than `LEAST` trials have a finite
    value, where all values are equal, and where no parameter has two values.
    """
    results = history.results
    values = {
        number: values_of(one, results.objectives)
        for number, one in results.trials.items()
        if all(map(math.isfinite, values_of(one, results.objectives)))
    }
    rows = [one for one in history.trials if one.number in values and one.parameters]
    rows = rows[:: max(1, math.ceil(len(rows) / MOST))]
    ranges = _ranges([one.parameters for one in rows])
    if len(rows) < LEAST or not ranges:
        return {}
    trials = [_frozen(one.number, one.parameters, ranges, values[one.number]) for one in rows]
    found: dict[str, dict[str, float]] = {}
    for index, objective in enumerate(results.objectives):
        if len({values[one.number][index] for one in rows}) > 1:
            shares = _shares(trials, index)
            if shares:
                found[objective] = shares
    return found


class _Given(optuna.Study):
    """A study of trials that are at hand: adding them one by one would copy each."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        made = optuna.create_study(directions=["minimize"] * len(trials[0].values))
        super().__init__(made.study_name, made._storage)
        self._given = trials

    def get_trials(self, *_: Any, **__: Any) -> list[FrozenTrial]:
        return self._given


def _shares(trials: list[FrozenTrial], objective: int) -> dict[str, float]:
    """Parameter -> its share; empty where none has any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that low values are good is what is meant here
        found = PedAnovaImportanceEvaluator().evaluate(
            _Given(trials), target=lambda trial: trial.values[objective]
        )
    whole = sum(found.values())
    if not math.isfinite(whole) or whole <= 0:
        return {}
    by_share = sorted(found.items(), key=lambda one: (-one[1], one[0]))
    return {name: round(share / whole, 4) for name, share in by_share}


def _frozen(
    number: int,
    parameters: Mapping[str, Any],
    ranges: Mapping[str, BaseDistribution],
    values: list[float],
) -> FrozenTrial:
    known = {name: one for name, one in parameters.items() if name in ranges}
    return FrozenTrial(
        number=number,
        state=TrialState.COMPLETE,
        value=None,
        values=values,
        datetime_start=None,
        datetime_complete=None,
        params=known,
        distributions={name: ranges[name] for name in known},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=number,
    )


def _ranges(rows: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """Parameter -> the range of its values, for those of at least two values."""
    seen: dict[str, set[Any]] = {}
    for row in rows:
        for name, value in row.items():
            seen.setdefault(name, set()).add(value)
    return {name: _range(values) for name, values in seen.items() if len(values) > 1}


def _range(values: set[Any]) -> BaseDistribution:
    numbers = all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)
        for one in values
    )
    if not numbers:
        return CategoricalDistribution(sorted(values, key=str))
    low, high = min(values), max(values)
    log = low > 0 and high / low >= WIDE
    if all(isinstance(one, int) for one in values):
        return IntDistribution(low, high, log)
    return FloatDistribution(low, high, log)
