"""What a network makes of its task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, SupportsFloat


@dataclass(frozen=True)
class Score:
    """The value of a task's measure, which is the lower the better, over a split of its data."""

    value: float
    tokens: int  # that were read
    seconds: float
    more: Mapping[str, float] = field(default_factory=dict)  # other shares, in percent
    asked: int = 0  # answers that were judged; a language model is judged by its tokens

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def error_of(wrong: SupportsFloat, asked: int) -> float:
    """The share of what is wrong, in percent. Nothing wrong counts as half a mistake, for values
    are compared by their logarithms."""
    return 100 * max(float(wrong), 0.5) / asked


class Comparison(Protocol):
    """What networks lose over a base network on the validation data: ln of the ratio of their
    values."""

    def __call__(self, model: Any, most: float = math.inf) -> tuple[float, int]:
        """What the model loses, and how many tokens were read for that: few more than `most`,
        where less of the data tells enough. inf where a loss is not finite."""
