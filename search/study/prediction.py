"""The predicted front of a study: its recipes that are searched, and which one comes next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from operator import itemgetter
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.bench.dense import DenseCheckpoint
from search.config import StudyConfig
from search.rules.fidelity import Look, best_so_far
from search.rules.following import IN_A_ROW, Coordinates, Corners, next_recipe
from search.rules.limits import Box, Limits
from search.rules.sensitivity import Effects, Predicted, Sensitivity
from search.space.parts import bindings_of
from search.space.space import OWN
from search.study.context import StudyContext
from search.study.note import TrialNote

FOLLOWS = "lmpareto_follows"  # attribute of a trial that was proposed here
BEYOND = 2.0  # without a box: the highest perplexity, over that of the dense model
# where Optuna keeps the values of a trial that was enqueued, until the trial is asked for them
FIXED = "fixed_params"


def searched(effects: Effects, box: Box | None, max_size_bytes: int | None) -> list[Predicted]:
    """The recipes of the predicted front whose sizes lie in the box and within the limit. Their
    perplexities, before any training, may be higher than the box's."""
    low, high = (box.min_size_bytes, box.max_size_bytes) if box else (0.0, math.inf)
    return effects.within(low, min(high, math.inf if max_size_bytes is None else max_size_bytes))


def parameters_of(
    context: StudyContext[StudyConfig], recipes: Iterable[Predicted]
) -> list[dict[str, Any]]:
    """The parameter values of trials of predicted recipes, which are of the study's own dense
    model. Those that are left out, which act in training alone, are sampled."""
    own = context.space.start({"dense": OWN} if context.space.dense else {})
    own |= bindings_of(context.space.own())
    return [{**own, **dict(one.parameters)} for one in recipes]


class Prediction:
    """The recipes of a predicted `front`, by size, each with the `parameters` of its trials. What
    is expected of them is judged by the hypervolume between the `corners`."""

    def __init__(
        self, front: Sequence[Predicted], parameters: Sequence[dict[str, Any]], corners: Corners
    ) -> None:
        self.front, self.parameters, self.corners = front, parameters, corners
        self._indices: dict[tuple[str, ...], dict[tuple[Any, ...], int]] = {}
        for index, one in enumerate(parameters):
            self._indices.setdefault(tuple(one), {})[tuple(one.values())] = index

    @classmethod
    def of(
        cls,
        context: StudyContext[StudyConfig],
        dense: DenseCheckpoint,
        limits: Limits,
    ) -> Self:
        """That of a study; of one without a prior, no recipes. `dense` is the study's own dense
        model."""
        box = context.box(dense)
        effects = None
        if isinstance(context.config.prior, Sensitivity):
            effects = context.store.effects(context.name)
        front = searched(effects, box, limits.max_size_bytes) if effects else []
        parameters = parameters_of(context, front) if front else []
        return cls(front, parameters, _corners(dense, box, limits))

    def follow(self, study: optuna.Study, looks: Sequence[Look]) -> None:
        """Enqueue the recipe that is to be tried next, if the prediction promises one. `looks` has
        every file of the study.

        Not while other trials wait to be run, and not after `IN_A_ROW` trials that follow.
        """
        if len(self.front) < 2:
            return
        rows = study.get_trials(deepcopy=False)
        latest = takewhile(lambda row: FOLLOWS in row.user_attrs, reversed(rows))
        waiting = any(row.state == TrialState.WAITING for row in rows)
        if waiting or sum(1 for _ in latest) >= IN_A_ROW:
            return
        found = [_coordinates(look) for look in looks if _is_measured(look)]
        recipe = next_recipe(self.front, self._tried(rows, looks), found, self.corners)
        if recipe is not None:
            parameters = self.parameters[self.front.index(recipe)]
            study.enqueue_trial(parameters, user_attrs={FOLLOWS: True})

    def _tried(
        self, rows: Iterable[FrozenTrial], looks: Sequence[Look]
    ) -> dict[int, Coordinates | None]:
        """The recipes that trials have: index -> the coordinates of its best file where the trial
        was trained to its last rung, else None."""
        last = {look.trial: look for look in best_so_far(looks)}  # of each trial, the highest rung
        tried: dict[int, Coordinates | None] = {}
        for row in rows:
            index = self._index({**row.system_attrs.get(FIXED, {}), **row.params})
            look = last.get(row.number)
            if index is None:
                continue
            known = tried.setdefault(index, None)
            if look and look.rung == TrialNote.of(row).last_rung and _is_measured(look):
                at = _coordinates(look)
                tried[index] = at if known is None else min(known, at, key=itemgetter(1))
        return tried

    def _index(self, values: Mapping[str, Any]) -> int | None:
        """The recipe of the predicted front that a trial of these values has."""
        for names, indices in self._indices.items():
            if all(name in values for name in names):
                index = indices.get(tuple(values[name] for name in names))
                if index is not None:
                    return index
        return None


def _corners(dense: DenseCheckpoint, box: Box | None, limits: Limits) -> Corners:
    size, perplexity = float(dense.size_bytes), BEYOND * dense.valid_measure
    if box:
        size, perplexity = box.reference
    high = min(perplexity, limits.max_perplexity or math.inf)
    return (math.log(box.min_size_bytes) if box else 0.0, 0.0), (math.log(size), math.log(high))


def _coordinates(look: Look) -> Coordinates:
    return math.log(look.size_bytes), math.log(look.perplexity)


def _is_measured(look: Look) -> bool:
    return look.size_bytes > 0 and math.isfinite(look.perplexity) and look.perplexity > 0
