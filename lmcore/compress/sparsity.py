"""Sparsity by magnitude (Han et al. 2015; Grachev 2017), at once or on a schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lmcore.codec import matrix_shape
from lmcore.lazy import torch
from lmcore.progress import Regularizer
from lmcore.pruning import Pattern, Pruning, Targets, Wanted, block_shape
from lmcore.settings import later

if TYPE_CHECKING:
    from torch import Tensor

PRUNING_STEPS = 64  # of the schedule, spread over the fine-tuning


class MagnitudePruning(Pruning):
    """The smallest values become zero.

    - `scope` site: each leaf has its own share of zeros. all: there is one threshold for the leaves
      of all sites that have a sparsity; together they have as many zeros as they would have each
      by itself. A leaf whose few zeros would save no bytes keeps all its values.
    - `schedule` at_once: the zeros are there before fine-tuning. cubic: their share rises while
      fine-tuning, s_t = s (1 - (1 - t / n)^3) (Zhu and Gupta 2017, eq. 1). It reaches s after the
      fraction `until` of the fine-tuning.
    """

    kind: Literal["magnitude"] = later("magnitude")
    scope: Literal["site", "all"] = "site"
    schedule: Literal["at_once", "cubic"] = "at_once"
    until: Annotated[float, Field(gt=0, le=1)] = 0.6

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {},
            {"scope": "all"},
            {"schedule": "cubic", "until": 0.5},
            {"scope": "all", "schedule": "cubic"},
        ]

    @classmethod
    def sentence(cls, plain: Mapping[str, Any], sparsity: float) -> str:
        shared = ", one threshold for all sites" if plain.get("scope") == "all" else ""
        return f"{sparsity:.0%} zeros by magnitude{shared}"

    @property
    def is_shared(self) -> bool:
        return self.scope == "all"

    @property
    def is_at_once(self) -> bool:
        return self.schedule == "at_once"

    def canonical(self, finetuned: bool) -> Pruning:
        """Zeros come at once where nothing is fine-tuned, and `until` is for a schedule."""
        if finetuned and not self.is_at_once:
            return self
        return MagnitudePruning(scope=self.scope)

    def masks(self, wanted: Wanted) -> dict[str, Tensor]:
        return magnitude_masks(wanted, self.scope)

    def regularizer(self, targets: Targets) -> Regularizer | None:
        return None if self.is_at_once else CubicPruning(targets, self)


def magnitude_mask(data: Tensor, sparsity: float, pattern: Pattern = "weights") -> Tensor:
    """Which entries are kept, shape as `data`: all but round(sparsity x blocks) of the blocks.

    Those of the smallest root mean square go; of equal ones the earlier go first.
    """
    sizes = block_sizes(data, pattern)
    zeros = round(sparsity * sizes.numel())
    order = sizes.flatten().argsort(stable=True)
    kept = torch.ones(sizes.numel(), dtype=torch.bool, device=data.device)
    kept[order[:zeros]] = False
    return _spread(kept.view(sizes.shape), data, pattern)


def magnitude_masks(leaves: Wanted, scope: Literal["site", "all"]) -> dict[str, Tensor]:
    """The mask of each leaf, given its data, sparsity and pattern; see `MagnitudePruning.scope`."""
    if scope == "site" or not leaves:
        return {name: magnitude_mask(*leaf) for name, leaf in leaves.items()}
    sizes = {name: block_sizes(data, pattern) for name, (data, _, pattern) in leaves.items()}
    values = [_values_in_blocks(data, pattern).flatten() for data, _, pattern in leaves.values()]
    total = sum(round(sparsity * data.numel()) for data, sparsity, _ in leaves.values())
    every = torch.cat([size.flatten() for size in sizes.values()])
    order = every.argsort(stable=True)
    gone = torch.cat(values)[order].double().cumsum(0) <= total
    kept = torch.ones_like(every, dtype=torch.bool)
    kept[order[gone]] = False
    parts = torch.split(kept, [size.numel() for size in sizes.values()])
    return {
        name: _spread(part.view(sizes[name].shape), leaves[name][0], leaves[name][2])
        for name, part in zip(leaves, parts, strict=True)
    }


class CubicPruning:
    """Raises the share of zeros of leaves while they are trained; a `progress.Regularizer`.

    `leaves` has the sparsity and pattern that each is to reach. Masks change at PRUNING_STEPS
    points of the whole training at most, and not after the target is reached.
    """

    def __init__(self, leaves: Targets, settings: MagnitudePruning) -> None:
        self.leaves, self.settings = leaves, settings
        self._step, self._last = 0, math.ceil(settings.until * PRUNING_STEPS)

    def penalty(self) -> None:
        """There is none: the magnitudes decide."""

    def after_update(self, rate: float, progress: float) -> None:
        """Prune to where the schedule is now, if that is a step further."""
        step = min(int(progress * PRUNING_STEPS), self._last)
        if step == self._step or (step == self._last and self._reached()):
            return
        self._step = step
        # of the step, not of the progress: who goes on from a checkpoint prunes no further
        share = 1 - (1 - min(1.0, step / PRUNING_STEPS / self.settings.until)) ** 3
        wanted = {
            name: (leaf.data.detach(), sparsity * share, pattern)
            for name, (leaf, sparsity, pattern) in self.leaves.items()
        }
        for name, mask in magnitude_masks(wanted, self.settings.scope).items():
            leaf = self.leaves[name][0]
            leaf.prune(None if step == self._last and not leaf.gains_from(mask) else mask)

    def _reached(self) -> bool:
        """Whether the last masks are there already: those that gain nothing were given up."""
        without = [leaf.mask is None for leaf, _, _ in self.leaves.values()]
        return any(without) and not all(without)


def block_sizes(data: Tensor, pattern: Pattern) -> Tensor:
    """Root mean square of each block, (block rows, block columns)."""
    matrix = data.reshape(matrix_shape(data.shape))
    height, width = block_shape(data.shape, pattern)
    if (height, width) == (1, 1):
        return matrix.abs()
    squares = _block_sums(matrix.square(), height, width)
    return (squares / _values_in_blocks(data, pattern)).sqrt()


def _values_in_blocks(data: Tensor, pattern: Pattern) -> Tensor:
    """How many values each block has, (block rows, block columns)."""
    ones = torch.ones_like(data).reshape(matrix_shape(data.shape))
    return _block_sums(ones, *block_shape(data.shape, pattern))


def _block_sums(matrix: Tensor, height: int, width: int) -> Tensor:
    rows, columns = matrix.shape
    padded = torch.nn.functional.pad(matrix, (0, -columns % width, 0, -rows % height))
    blocks = padded.view(len(padded) // height, height, padded.shape[1] // width, width)
    return blocks.sum((1, 3))


def _spread(kept: Tensor, data: Tensor, pattern: Pattern) -> Tensor:
    """A mask of blocks as a mask of entries, shape as `data`."""
    rows, columns = matrix_shape(data.shape)
    height, width = block_shape(data.shape, pattern)
    entries = kept.repeat_interleave(height, 0).repeat_interleave(width, 1)
    return entries[:rows, :columns].reshape(data.shape)
