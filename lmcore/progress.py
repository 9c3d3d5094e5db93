"""What a training tells while it runs, and what may act on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class DivergedError(Exception):
    """The loss stopped being a number."""


class Observer(Protocol):
    """Called after every update; `updates` is how many there will be. It may raise to stop."""

    def __call__(self, record: TrainingRecord, updates: int) -> None: ...


class Regularizer(Protocol):
    """What acts on the weights of a training beside its loss: penalties, proximal steps, masks.

    A regularizer must be a function of the parameters, the leaves' masks and `progress` alone: a
    checkpoint keeps these, and no state of the regularizer. It changes leaves by their `data` and
    `mask`. After `after_update` the training makes zero what a mask leaves out, and assigns codes
    anew where a mask changed.
    """

    def penalty(self) -> Tensor | None:
        """A differentiable scalar, or None. Called before each update; the scalar is added to the
        loss before gradients are clipped."""

    def after_update(self, rate: float, progress: float) -> None:
        """Called without gradients after each update. `rate` is the update's; `progress` in (0, 1]
        is the fraction that is done of all updates up to the first rung."""


@dataclass
class TrainingRecord:
    """What a training did."""

    updates: int = 0
    tokens: int = 0
    seconds: float = 0.0
    valid_measures: list[float] = field(default_factory=list)  # after each whole epoch
    averaged: bool = False  # whether the mean of the last weights was taken, being better


def ignore(record: TrainingRecord, updates: int) -> None:
    """Observe nothing."""
