"""What a training tells while it runs, and what may act on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class DivergedError(Exception):
    """The loss stopped being a number."""


class Observer(Protocol):
    """Told after every update of how many; may raise to stop."""

    def __call__(self, record: TrainingRecord, updates: int) -> None: ...


class Regularizer(Protocol):
    """What acts on the weights of a training beside its loss: penalties, proximal steps, masks.

    It is a function of the parameters, the leaves' masks and `progress` alone: of an interrupted
    training those are kept and nothing else of it. Leaves are changed by their `data` and `mask`;
    what a mask leaves out is made zero after `after_update`, and codes are assigned anew where a
    mask changed.
    """

    def penalty(self) -> Tensor | None:
        """Called before each update; a differentiable scalar that is added to the loss before
        gradients are clipped, or None."""

    def after_update(self, rate: float, progress: float) -> None:
        """Called, without gradients, after each update with its rate and the fraction that is
        done of all updates up to the first rung, in (0, 1]."""


@dataclass
class TrainingRecord:
    """What a training did."""

    updates: int = 0
    tokens: int = 0
    seconds: float = 0.0
    valid_perplexities: list[float] = field(default_factory=list)  # after each whole epoch
    averaged: bool = False  # whether the mean of the last weights was taken, being better


def ignore(record: TrainingRecord, updates: int) -> None:
    """Observe nothing."""
