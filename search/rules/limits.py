"""Limits on the models that a search is to find."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The largest size in bytes and the highest perplexity of a trained file; None is no limit."""

    max_size_bytes: int | None = None
    max_perplexity: float | None = None

    def constraints(self, size_bytes: float, perplexity: float) -> dict[str, float]:
        """Name of a limit -> ln of the value over the limit: above 0 where the limit is broken."""
        found = {}
        if self.max_size_bytes is not None:
            found["max_size"] = math.log(size_bytes / self.max_size_bytes)
        if self.max_perplexity is not None:
            found["max_perplexity"] = math.log(perplexity / self.max_perplexity)
        return found

    def broken(self, size_bytes: float, perplexity: float) -> bool:
        return any(by > 0 for by in self.constraints(size_bytes, perplexity).values())

    def too_large(self, size_bytes: float) -> bool:
        return self.max_size_bytes is not None and size_bytes > self.max_size_bytes
