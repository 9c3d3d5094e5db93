"""Move the parameters of a recipe until its file is within a limit on its size.

A recipe's packed size is computed without making the file, and the file is never larger. So a
recipe whose packed size is within the limit needs no file. Above the limit, the file is written
before any training, and the size of that file decides.
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

AIM = 0.97  # share of the limit for an untrained file: training makes some files a little larger
TRIES = 5  # the most files that are written for one recipe


@dataclass(frozen=True)
class Fitted:
    """A recipe, whether its untrained file fits, and the values of the parameters that moved."""

    recipe: Recipe
    fits: bool
    moved: Mapping[str, Any] = field(default_factory=dict)


class Fitter:
    """Makes recipes of a space fit `max_size_bytes`.

    If a recipe is too large, the value of each of its ranges moves towards the end of the range
    where files are smaller. All values move by the same share of their way, and that share is as
    small as possible.

    The end where files are smaller is found by writing the file at both ends, once for each
    parameter. `ends` stores what was found.
    """

    def __init__(self, space: ModelSpace, bench: Workbench, max_size_bytes: int) -> None:
        self.space, self.bench, self.max_size_bytes = space, bench, max_size_bytes
        self.ends: dict[str, float | None] = {}  # None where the parameter does not matter

    def fit(self, trial: optuna.trial.BaseTrial, observe: Observer) -> Fitted:
        """The recipe of the trial's parameters if its file fits, else a nearby recipe that does, if
        there is one.

        The trial is not trained. A recipe with fewer hidden units is not moved, because every other
        setting of the units would have to be trained; its own stage is trained if the cache lacks
        it. `observe` is called during that training.
        """
        recipe = self.space.suggest(trial)
        words = self.bench.dense.vocabulary
        if packed_size(recipe, self.space.model, words) <= self.max_size_bytes:
            return Fitted(recipe, fits=True)
        size = self.bench.untrained_size(recipe, observe)
        if size <= self.max_size_bytes:
            return Fitted(recipe, fits=True)
        if recipe.layers.is_open:
            return Fitted(recipe, fits=False)
        return self._moved(trial, recipe, size, observe)

    def _moved(
        self, trial: optuna.trial.BaseTrial, recipe: Recipe, size: int, observe: Observer
    ) -> Fitted:
        """The recipe with all ranges moved by the smallest share that was found to fit.

        The first try moves each range to its end. If that file is too large, nothing fits.
        """
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
        """Parameter -> the end of its range where files are smaller, for those that matter."""
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
    """The parameter's value, moved by `share` of its way to the end; in logs for a log range."""
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
    """The next share to try, between `low` (too large) and `high` (fits).

    It is where the file would just fit if ln size were linear in the share, but at least a tenth of
    the way from both.
    """
    target = math.log(AIM * limit)
    above, below = math.log(sizes[low]), math.log(sizes[high])
    fraction = (above - target) / (above - below) if above > below else 0.5
    return low + (high - low) * min(max(fraction, 0.1), 0.9)
