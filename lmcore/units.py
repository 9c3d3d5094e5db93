"""Hidden units that can be removed, and all that each of them touches (Wen et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmcore.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

ROWS, COLUMNS = 0, 1


@dataclass(frozen=True)
class Slice:
    """What unit k touches in a site's matrix: the rows (axis 0) or columns (axis 1) k after each of
    the `starts`."""

    site: str
    axis: int
    starts: tuple[int, ...] = (0,)

    def blocks(self, matrix: Tensor, count: int) -> list[Tensor]:
        """What the matrix has of `count` units, in one block after each of the starts."""
        return [matrix.narrow(self.axis, start, count) for start in self.starts]

    def replaced(self, matrix: Tensor, count: int, blocks: Sequence[Tensor]) -> Tensor:
        """The matrix with other blocks in the place of these, of whatever size."""
        parts: list[Tensor] = []
        at = 0
        for start, block in zip(self.starts, blocks, strict=True):
            parts += [matrix.narrow(self.axis, at, start - at), block]
            at = start + count
        rest = matrix.narrow(self.axis, at, matrix.shape[self.axis] - at)
        return torch.cat([part for part in (*parts, rest) if part.numel()], self.axis)

    def places(self, units: Tensor) -> Tensor:
        """(starts x units,): the rows or columns of these units (units,)."""
        return (torch.tensor(self.starts).unsqueeze(1) + units.cpu()).flatten()


@dataclass(frozen=True)
class Units:
    """Units that can be removed, `count` of them, `least` of which stay: a layer's, or the
    embedding's columns."""

    name: str  # "lstm.0", "embedding"
    count: int
    slices: tuple[Slice, ...]
    least: int = 1

    def squares(self, matrices: dict[str, Tensor]) -> Tensor:
        """(count,): the sum of squares of each group."""
        total: Tensor | None = None
        for piece in self.slices:
            sums = matrices[piece.site].square().sum(1 - piece.axis)
            squares = sums[self._places(piece)].view(-1, self.count).sum(0)
            total = squares if total is None else total + squares
        assert total is not None
        for site in self._crossed:
            total = total - self._crossings(matrices[site]).square().sum(0)
        return total

    def scale_(self, matrices: dict[str, Tensor], factors: Tensor) -> None:
        """Multiply each group by its factor (count,), in place."""
        crossings = {site: self._crossings(matrices[site]) * factors for site in self._crossed}
        for piece in self.slices:
            matrix = matrices[piece.site]
            every = factors.new_ones(matrix.shape[piece.axis])
            every[self._places(piece)] = factors.repeat(len(piece.starts))
            matrix.mul_(every.unsqueeze(1 - piece.axis))
        for site, scaled in crossings.items():
            self._crossings(matrices[site]).copy_(scaled)

    def _places(self, piece: Slice) -> Tensor:
        return piece.places(torch.arange(self.count))

    @property
    def _crossed(self) -> list[str]:
        """The sites of which a group has rows and columns."""
        columns = {piece.site for piece in self.slices if piece.axis == COLUMNS}
        return [piece.site for piece in self.slices if piece.axis == ROWS and piece.site in columns]

    def _crossings(self, matrix: Tensor) -> Tensor:
        """(blocks, count): where each unit's rows and its column meet, as a view."""
        return matrix.view(-1, self.count, self.count).diagonal(dim1=1, dim2=2)


def rows_of(site: str, rows: int, count: int) -> Slice:
    """The rows of `count` units in a matrix of so many, as many for each of its gates."""
    return Slice(site, ROWS, tuple(range(0, rows, count)))


def columns_of(sites: Iterable[str]) -> tuple[Slice, ...]:
    """The columns of units that these sites read, and nothing else."""
    return tuple(Slice(site, COLUMNS) for site in sites)
