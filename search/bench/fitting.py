"""Recipes moved until their files keep within a limit.

Cheap before dear: the packed size is known from the recipe and bounds the file's; only above the
limit the file is written, before any training, and its size decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from lmcore.bundle import packed_size
from lmcore.progress import Observer
from lmcore.recipe import Recipe
from search.bench.workbench import Workbench
from search.space.answerers import Explored
from search.space.model_space import ModelSpace

AIM = 0.97  # of the limit, untrained: training makes some files a little larger
TRIES = 5  # files written in search of one that fits


@dataclass(frozen=True)
class Fitted:
    """A recipe, whether its file fits, and the parameters that were moved for that."""

    recipe: Recipe
    fits: bool
    moved: Mapping[str, Any] = field(default_factory=dict)


class Fitter:
    """Makes recipes of a space fit `max_size_bytes`.

    A recipe that is too large has all its ranges moved the same way, each from its value towards
    the end at which files are smaller, as little as will do. Which end that is is seen from the
    files, once for each parameter; `ends` knows those that were looked at.
    """

    def __init__(self, space: ModelSpace, bench: Workbench, max_size_bytes: int) -> None:
        self.space, self.bench, self.max_size_bytes = space, bench, max_size_bytes
        self.ends: dict[str, float | None] = {}  # None where it makes no difference

    def fit(self, trial: optuna.trial.BaseTrial, observe: Observer) -> Fitted:
        """The recipe of the trial's parameters, or the nearest that fits. Trains no trial; a stage
        with fewer units is trained where the cache has none, and such a recipe is not moved."""
        recipe = self.space.suggest(trial)
        words = self.bench.dense.vocabulary
        if packed_size(recipe, self.space.model, words) <= self.max_size_bytes:
            return Fitted(recipe, fits=True)
        size = self.bench.untrained_size(recipe, observe)
        if size <= self.max_size_bytes:
            return Fitted(recipe, fits=True)
        if recipe.layers.units is not None:
            return Fitted(recipe, fits=False)
        return self._moved(trial, recipe, size, observe)

    def _moved(
        self, trial: optuna.trial.BaseTrial, recipe: Recipe, size: int, observe: Observer
    ) -> Fitted:
        ends = self._ends(trial, observe)
        low, high, sizes = 0.0, 1.0, {0.0: size}
        best: Fitted | None = None
        share = 1.0
        for _ in range(TRIES):
            moved = {name: _towards(trial, name, end, share) for name, end in ends.items()}
            _, found = self.space.run(Explored({**trial.params, **moved}))
            sizes[share] = self.bench.untrained_size(found, observe)
            if sizes[share] <= self.max_size_bytes * (AIM if share < 1 else 1):
                high, best = share, Fitted(found, fits=True, moved=moved)
            elif share == high:
                return Fitted(recipe, fits=False)
            else:
                low = share
            share = _between(low, high, sizes, self.max_size_bytes)
        assert best, "the first share either fits or ends the search"
        return best

    def _ends(self, trial: optuna.trial.BaseTrial, observe: Observer) -> dict[str, float]:
        """Parameter -> the end of its range at which files are smaller."""
        found = {}
        for name, distribution in trial.distributions.items():
            if name not in self.ends:
                self.ends[name] = self._end(trial, name, distribution, observe)
            if (end := self.ends[name]) is not None:
                found[name] = end
        return found

    def _end(
        self,
        trial: optuna.trial.BaseTrial,
        name: str,
        distribution: BaseDistribution,
        observe: Observer,
    ) -> float | None:
        if not isinstance(distribution, FloatDistribution | IntDistribution):
            return None
        low, high = (
            self.space.run(Explored({**trial.params, name: end}))[1]
            for end in (distribution.low, distribution.high)
        )
        if low.model_copy(update={"finetuning": None}) == high.model_copy(
            update={"finetuning": None}
        ):
            return None
        smaller = self.bench.untrained_size(low, observe) < self.bench.untrained_size(high, observe)
        return distribution.low if smaller else distribution.high


def _towards(trial: optuna.trial.BaseTrial, name: str, end: float, share: float) -> float | int:
    """The parameter's value, moved by the share of its way to the end; in logs where it is so."""
    distribution, value = trial.distributions[name], trial.params[name]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.log:
        moved = math.exp(math.log(value) * (1 - share) + math.log(end) * share)
    else:
        moved = value * (1 - share) + end * share
    if isinstance(distribution, FloatDistribution):
        return min(max(moved, distribution.low), distribution.high)
    step = distribution.step
    whole = round((moved - distribution.low) / step) * step + distribution.low
    return min(max(whole, distribution.low), distribution.high)


def _between(low: float, high: float, sizes: Mapping[float, int], limit: int) -> float:
    """Where the file would just be small enough if ln size were a line between the two shares;
    not nearer to either than a tenth of the way."""
    target = math.log(AIM * limit)
    above, below = math.log(sizes[low]), math.log(sizes[high])
    place = (above - target) / (above - below) if above > below else 0.5
    return low + (high - low) * min(max(place, 0.1), 0.9)
