"""A front before the search: each part of a recipe measured alone, and the best sums of parts.

The additive model: what a recipe adds to ln perplexity before any training is the sum of what its
parts do alone to the dense model, and so are the bytes that it saves. It ranks recipes well as
long as none of them is harsh. Parts act on sites of their own; what reshapes layers acts on all,
so that each site's part saves the same share of what the reshaping left of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from lmcore.settings import Family

MOST = 4000  # points kept of a front while parts are added
LAYERS, BIASES = "layers", "biases"  # what parts act on beside sites

Parameters = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Effect:
    """What one setting of a part makes of the dense model, without training."""

    nats: float  # added to ln perplexity
    site_bytes: Mapping[str, int]  # of every site in its file
    parameters: Parameters = ()


@dataclass(frozen=True)
class Predicted:
    """A recipe by its parameters, and what the additive model says of it."""

    size_bytes: float
    nats: float
    parameters: Parameters = ()


@dataclass(frozen=True)
class Effects:
    """What each part of a space does alone to the dense model.

    `dense` is what the model is where nothing is compressed that the space decides. `parts` has
    the effects of each part by what it acts on; those of `LAYERS` reshape it for all others.
    """

    dense: Effect
    size_bytes: int
    perplexity: float
    parts: Mapping[str, Sequence[Effect]]

    @cached_property
    def front(self) -> list[Predicted]:
        """The predicted front, by size."""
        others = [effects for name, effects in self.parts.items() if name != LAYERS]
        other_bytes = self.size_bytes - sum(self.dense.site_bytes.values())
        shapes = self.parts.get(LAYERS, [self.dense])
        return predicted_front(self.dense, other_bytes, shapes, others)

    def perplexity_of(self, predicted: Predicted) -> float:
        return self.perplexity * math.exp(predicted.nats)


class Prior(Family):
    """Where a search begins, after the study's own `start`."""


class Nowhere(Prior):
    """The sampler begins by itself."""

    kind: Literal["none"] = "none"


class Sensitivity(Prior):
    """It begins with up to `starts` recipes of the front that the parts predict, each part measured
    alone at about `settings` settings, without training. Harsh ones are among them, since training
    brings most of what they lose back."""

    kind: Literal["sensitivity"] = "sensitivity"
    settings: Annotated[int, Field(ge=2)] = 12
    starts: Annotated[int, Field(ge=2)] = 12

    def chosen(
        self, front: Sequence[Predicted], max_size_bytes: int | None = None
    ) -> list[dict[str, Any]]:
        """The parameter values to start from, the smallest file first."""
        most = math.inf if max_size_bytes is None else max_size_bytes
        good = [one for one in front if one.size_bytes <= most]
        return [dict(one.parameters) for one in spread(good, self.starts)]


AnyPrior = Annotated[SerializeAsAny[Prior], BeforeValidator(Prior.pick)]


def predicted_front(
    dense: Effect, other_bytes: int, shapes: Iterable[Effect], parts: Sequence[Sequence[Effect]]
) -> list[Predicted]:
    """The non-dominated sums of one effect of each part, on each of the shapes, by size ascending:
    a knapsack's answers for all limits at once.

    `shapes` are the dense model and what reshaping makes of it; `other_bytes` is what the file
    holds beside the sites. Beyond `MOST` sums a front is thinned, evenly in size.
    """
    every: list[Predicted] = []
    for shape in shapes:
        size_bytes = other_bytes + sum(shape.site_bytes.values())
        front = [Predicted(size_bytes, shape.nats, shape.parameters)]
        for part in parts:
            added = [(_saved(effect, dense, shape), effect) for effect in part]
            sums = [
                Predicted(
                    one.size_bytes - saved,
                    one.nats + effect.nats,
                    one.parameters + effect.parameters,
                )
                for one in front
                for saved, effect in added
            ]
            front = _thinned(_non_dominated(sums))
        every += front
    return _non_dominated(every)


def spread(front: Sequence[Predicted], count: int) -> list[Predicted]:
    """Up to `count` points of a front, both ends among them, as even in log size as they lie."""
    if len(front) <= count:
        return list(front)
    logs = [math.log(one.size_bytes) for one in front]
    marks = [logs[0] + (logs[-1] - logs[0]) * step / (count - 1) for step in range(count)]
    nearest = {min(range(len(logs)), key=lambda i: abs(logs[i] - mark)) for mark in marks}
    return [front[index] for index in sorted(nearest)]


def _saved(effect: Effect, dense: Effect, shape: Effect) -> float:
    """The bytes that the part saves of the shape."""
    return sum(
        size * (1 - effect.site_bytes[site] / dense.site_bytes[site])
        for site, size in shape.site_bytes.items()
        if site in effect.site_bytes
    )


def _non_dominated(points: list[Predicted]) -> list[Predicted]:
    front: list[Predicted] = []
    for one in sorted(points, key=lambda one: (one.size_bytes, one.nats)):
        if not front or one.nats < front[-1].nats:
            front.append(one)
    return front


def _thinned(front: list[Predicted]) -> list[Predicted]:
    if len(front) <= MOST:
        return front
    return [front[round(step * (len(front) - 1) / (MOST - 1))] for step in range(MOST)]
