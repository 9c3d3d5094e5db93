"""A front predicted before the search: each part of a recipe is measured alone, and the effects
of the parts are added.

A part is a set of parameters that act on the same sites (see `search.space.parts`). The model is
additive. What a recipe adds to ln perplexity before any training is the sum of what each part adds
alone to the dense model. The bytes that the recipe saves are the sum of what each part saves alone.
The model ranks recipes well as long as none of them is harsh.

The part of the layers reshapes all sites. Every other part then saves the same share of a reshaped
site as of the dense one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BeforeValidator, Field, SerializeAsAny

from lmcore.settings import Family

MOST = 4000  # points of a front that are kept while parts are added
LAYERS, BIASES = "layers", "biases"  # what a part can act on beside sites

Parameters = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Effect:
    """What one setting of a part does to the dense model, without training."""

    nats: float  # added to ln perplexity
    site_bytes: Mapping[str, int]  # bytes of each site in the file
    parameters: Parameters = ()


@dataclass(frozen=True)
class Predicted:
    """A recipe, given by its parameters, with its size and the nats that the model predicts."""

    size_bytes: float
    nats: float
    parameters: Parameters = ()


@dataclass(frozen=True)
class Effects:
    """What each part of a space does alone to the dense model.

    `dense`, `size_bytes` and `perplexity` are of the model in which nothing is compressed that the
    space decides. `parts` maps a part's name to the effects of its settings; the effects of
    `LAYERS` are the reshaped models that the other parts act on.
    """

    dense: Effect
    size_bytes: int
    perplexity: float
    parts: Mapping[str, Sequence[Effect]]

    @cached_property
    def front(self) -> list[Predicted]:
        """The predicted front, by size ascending."""
        others = [effects for name, effects in self.parts.items() if name != LAYERS]
        other_bytes = self.size_bytes - sum(self.dense.site_bytes.values())
        shapes = self.parts.get(LAYERS, [self.dense])
        return predicted_front(self.dense, other_bytes, shapes, others)

    def within(self, min_size_bytes: float, max_size_bytes: float) -> list[Predicted]:
        """The part of the predicted front with these sizes."""
        return [one for one in self.front if min_size_bytes <= one.size_bytes <= max_size_bytes]

    def perplexity_of(self, predicted: Predicted) -> float:
        """The predicted perplexity before any training."""
        return self.perplexity * math.exp(predicted.nats)


class Prior(Family):
    """A rule that says which recipes a search tries first, after the study's own `start`."""


class Nowhere(Prior):
    """No recipes: the sampler begins by itself."""

    kind: Literal["none"] = "none"


class Sensitivity(Prior):
    """Up to `starts` recipes of the predicted front. What was trained of them says which of its
    other recipes come next (see `following`).

    Each part is measured alone at about `settings` settings, without training; at fewer where that
    would cost more than a twentieth of what the trials will cost. Harsh recipes are among the
    starts, since training brings back most of what they lose.
    """

    kind: Literal["sensitivity"] = "sensitivity"
    settings: Annotated[int, Field(ge=2)] = 12
    starts: Annotated[int, Field(ge=2)] = 4

    def chosen(self, front: Sequence[Predicted]) -> list[Predicted]:
        """The recipes to start from, the smallest file first."""
        return spread(front, self.starts)


AnyPrior = Annotated[SerializeAsAny[Prior], BeforeValidator(Prior.pick)]


def predicted_front(
    dense: Effect, other_bytes: int, shapes: Iterable[Effect], parts: Sequence[Sequence[Effect]]
) -> list[Predicted]:
    """The non-dominated sums of one effect of each part, on any of the shapes, by size ascending.

    `shapes` are the models that parts act on: the dense model, or the reshaped ones. `other_bytes`
    is what the file holds beside the sites. Parts are added one after another, and dominated sums
    are dropped after each, as in the knapsack problem. A front of more than `MOST` sums is thinned
    evenly along its order.
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


class Sized(Protocol):
    @property
    def size_bytes(self) -> float: ...


S = TypeVar("S", bound=Sized)


def spread(front: Sequence[S], count: int) -> list[S]:
    """Up to `count` points of a front, at least two, spread evenly in log size, with both ends
    among them."""
    if len(front) <= count:
        return list(front)
    logs = [math.log(one.size_bytes) for one in front]
    marks = [logs[0] + (logs[-1] - logs[0]) * step / (count - 1) for step in range(count)]
    nearest = {min(range(len(logs)), key=lambda i: abs(logs[i] - mark)) for mark in marks}
    return [front[index] for index in sorted(nearest)]


def _saved(effect: Effect, dense: Effect, shape: Effect) -> float:
    """The bytes that a part's effect saves of a shape: of each site the share that it saves of the
    dense one."""
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
