"""Limits on the models that a search is to find, and the box that it searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator

from lmcore.settings import Settings


class Limited:
    """What a file's size and perplexity are judged by."""

    def constraints(self, size_bytes: float, perplexity: float) -> dict[str, float]:
        """Name of a limit -> ln of how far the value lies beyond it: above 0 where the limit is
        broken."""
        raise NotImplementedError

    def broken(self, size_bytes: float, perplexity: float) -> bool:
        return any(by > 0 for by in self.constraints(size_bytes, perplexity).values())


@dataclass(frozen=True)
class Limits(Limited):
    """The largest size in bytes and the highest perplexity of a trained file; None is no limit."""

    max_size_bytes: int | None = None
    max_perplexity: float | None = None

    def constraints(self, size_bytes: float, perplexity: float) -> dict[str, float]:
        found = {}
        if self.max_size_bytes is not None:
            found["max_size"] = math.log(size_bytes / self.max_size_bytes)
        if self.max_perplexity is not None:
            found["max_perplexity"] = math.log(perplexity / self.max_perplexity)
        return found

    def too_large(self, size_bytes: float) -> bool:
        return self.max_size_bytes is not None and size_bytes > self.max_size_bytes


class BoxSettings(Settings):
    """The part of the plane that a study searches, in shares of its own dense model.

    `size` has the smallest and the largest file, as shares of the dense size (4 bytes a weight);
    `perplexity` is the highest valid perplexity, as a multiple of the dense model's.
    """

    size: tuple[float, float]
    perplexity: Annotated[float, Field(gt=1)]

    @field_validator("size")
    @classmethod
    def _ascends(cls, size: tuple[float, float]) -> tuple[float, float]:
        if not 0 < size[0] < size[1] <= 1:
            raise ValueError(
                "it is [low, high], shares of the dense size from 0 to 1, as in [0.02, 0.3]; "
                "a limit in bytes is max_size"
            )
        return size

    def around(self, dense_bytes: int, perplexity: float) -> Box:
        """The box of a dense model of this dense size and valid perplexity."""
        low, high = self.size
        return Box(low * dense_bytes, high * dense_bytes, self.perplexity * perplexity)


@dataclass(frozen=True)
class Box(Limited):
    """The part of the plane that is searched, in bytes and perplexity, its edges included."""

    min_size_bytes: float
    max_size_bytes: float
    max_perplexity: float

    @classmethod
    def of(cls, stored: Mapping[str, float]) -> Box | None:
        """The box that a study stored; None where it stored an empty one."""
        return cls(**stored) if stored else None

    def constraints(self, size_bytes: float, perplexity: float) -> dict[str, float]:
        return {
            "box_min_size": math.log(self.min_size_bytes / size_bytes),
            "box_max_size": math.log(size_bytes / self.max_size_bytes),
            "box_max_perplexity": math.log(perplexity / self.max_perplexity),
        }

    def holds_size(self, size_bytes: float) -> bool:
        return self.min_size_bytes <= size_bytes <= self.max_size_bytes

    @property
    def reference(self) -> tuple[float, float]:
        """The reference point of its hypervolume: bytes and perplexity."""
        return self.max_size_bytes, self.max_perplexity
