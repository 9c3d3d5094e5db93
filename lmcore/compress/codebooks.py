"""Codes with fitted levels: k-means, and sums of a few binary vectors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lmcore.compress.quantization import GroupedCodec, GroupedScope, LaterFlag, LaterScope, Tables

MULTIBIT_ROUNDS = 15


class KMeans(GroupedCodec):
    """2^bits fitted levels (Han et al. 2016, trained quantization).

    The levels start at the k-means optimum; while training each refresh is one Lloyd step, so
    that levels and assignments follow the float copy. `weighted` weighs each value by its
    diagonal Fisher information (Choi et al. 2017, eq. 6).
    """

    kind: Literal["kmeans"] = "kmeans"
    scope: LaterScope = "matrix"
    weighted: LaterFlag = False

    @property
    def needs_importance(self) -> bool:
        return self.weighted

    @property
    def table_sizes(self) -> dict[str, int]:
        return {"levels": 2**self.bits}

    def fit_group(
        self,
        data: Tensor,
        mask: Tensor | None,
        importance: Tensor | None,
        before: tuple[Tensor, Tables] | None,
    ) -> Tables:
        weights = _weights(data, mask, importance if self.weighted else None)
        if before is None:
            levels = _kmeans(data, weights, 2**self.bits)
        else:
            levels = _means(data, weights, before[0].long(), before[1]["levels"])
        return {"levels": levels.half().float().sort(1).values}

    def nearest_in_group(self, values: Tensor, tables: Tables) -> Tensor:
        return nearest_level(values, tables["levels"])

    def values_of_group(self, symbols: Tensor, tables: Tables) -> Tensor:
        return level_of(symbols, tables["levels"])


class MultiBit(GroupedCodec):
    """w ~ sum_i alpha_i b_i, b_i in {-1, +1} (Xu et al. 2018, alternating multi-bit quantization).

    From a greedy start (their eq. 4), least squares for alpha (eq. 5) and the nearest code for b
    alternate; while training each refresh is one such round. Symbols number the sums by size.
    """

    kind: Literal["multibit"] = "multibit"
    scope: GroupedScope = "row"

    @property
    def table_sizes(self) -> dict[str, int]:
        return {"alpha": self.bits}

    def fit_group(
        self,
        data: Tensor,
        mask: Tensor | None,
        importance: Tensor | None,
        before: tuple[Tensor, Tables] | None,
    ) -> Tables:
        weights = _weights(data, mask, None)
        if before is None:
            alpha = self._greedy(data, weights)
            for _ in range(MULTIBIT_ROUNDS):
                symbols = nearest_level(data, self._levels(alpha))
                alpha = self._least_squares(data, weights, symbols, alpha)
        else:
            alpha = self._least_squares(data, weights, before[0], before[1]["alpha"])
        return {"alpha": alpha.half().float()}

    def nearest_in_group(self, values: Tensor, tables: Tables) -> Tensor:
        return nearest_level(values, self._levels(tables["alpha"]))

    def values_of_group(self, symbols: Tensor, tables: Tables) -> Tensor:
        return level_of(symbols, self._levels(tables["alpha"]))

    def _signs(self, like: Tensor) -> Tensor:
        """Every b, (2^bits, bits)."""
        codes = torch.arange(2**self.bits, device=like.device).unsqueeze(1)
        return ((codes >> torch.arange(self.bits, device=like.device)) & 1).to(like) * 2 - 1

    def _levels(self, alpha: Tensor) -> Tensor:
        """(groups, bits) -> the sums in order, (groups, 2^bits)."""
        return (alpha @ self._signs(alpha).T).sort(1).values

    def _greedy(self, data: Tensor, weights: Tensor) -> Tensor:
        rest, found = data, []
        for _ in range(self.bits):
            alpha = (rest.abs() * weights).sum(1, True) / weights.sum(1, True).clamp(min=1)
            rest = rest - alpha * torch.where(rest < 0, -1.0, 1.0)
            found.append(alpha)
        return torch.cat(found, 1)

    def _least_squares(
        self, data: Tensor, weights: Tensor, symbols: Tensor, alpha: Tensor
    ) -> Tensor:
        """alpha (groups, bits) that is best for the symbols which the old alpha gave."""
        order = (alpha @ self._signs(alpha).T).argsort(dim=1, stable=True)  # (groups, 2^bits)
        # all values of one symbol share one b: their weights and sums make the equations
        index = symbols.long()
        counts = data.new_zeros(order.shape).scatter_add_(1, index, weights)
        sums = data.new_zeros(order.shape).scatter_add_(1, index, data * weights)
        signs = self._signs(alpha)[order]  # (groups, 2^bits, bits)
        normal = torch.einsum("gc,gci,gcj->gij", counts, signs, signs)
        ridge = 1e-6 * counts.sum(1).clamp(min=1).view(-1, 1, 1)
        normal = normal + ridge * torch.eye(self.bits, dtype=data.dtype, device=data.device)
        right = torch.einsum("gc,gci->gi", sums, signs)
        solution: Tensor = torch.linalg.solve(normal, right)
        return solution.abs()


def nearest_level(values: Tensor, levels: Tensor) -> Tensor:
    """(rows, n), levels (1 or rows, count) in order -> the index of the nearest, int16."""
    between = (levels[:, 1:] + levels[:, :-1]) / 2
    if len(levels) == 1:
        return torch.bucketize(values.contiguous(), between[0]).short()
    return torch.searchsorted(between.contiguous(), values.contiguous()).short()


def level_of(symbols: Tensor, levels: Tensor) -> Tensor:
    """(rows, n), levels (1 or rows, count) -> (rows, n)."""
    if len(levels) == 1:
        return levels[0].index_select(0, symbols.flatten().int()).view(symbols.shape)
    return levels.gather(1, symbols.long())


def _weights(data: Tensor, mask: Tensor | None, importance: Tensor | None) -> Tensor:
    """How much each value counts, shape as `data`, 1 in the mean; masked ones not at all."""
    weights = torch.ones_like(data) if mask is None else mask.to(data)
    if importance is None:
        return weights
    # a value that no token of the sample reached counts a little, lest its level be arbitrary
    return weights * (importance / importance.mean().clamp(min=1e-30) + 1e-3)


def _kmeans(values: Tensor, weights: Tensor, count: int, rounds: int = 60) -> Tensor:
    """Levels (groups, count) of one-dimensional k-means of (groups, n), by Lloyd's rounds.

    Between two thresholds the sorted values are a slice, and the mean of a slice is a difference
    of running sums: a round costs `count` look-ups. Values without weight are left out.
    """
    used = weights > 0
    highest = values.masked_fill(~used, -torch.inf).amax(1, True).nan_to_num(0, 0, 0)
    values = torch.where(used, values, highest).double()
    ordered, order = values.sort(1)
    weight = weights.double().gather(1, order)
    zero = ordered.new_zeros(len(values), 1)
    running = torch.cat([zero, (ordered * weight).cumsum(1)], 1)
    mass = torch.cat([zero, weight.cumsum(1)], 1)
    # as dense as the cube root of the values' density (Panter and Dite 1951): a gap is about the
    # density's inverse, so each gap counts as its power 2/3
    gaps = ordered.diff(dim=1) * weight[:, 1:].sqrt()
    spread = torch.cat([zero, gaps.pow(2 / 3).cumsum(1)], 1)
    middles = torch.arange(count, device=values.device) + 0.5
    shares = spread[:, -1:] * middles / count
    levels = ordered.gather(1, torch.searchsorted(spread, shares).clamp(max=ordered.shape[1] - 1))
    for _ in range(rounds):
        inner = torch.searchsorted(ordered, (levels[:, 1:] + levels[:, :-1]) / 2)
        edges = torch.cat(
            [
                inner.new_zeros(len(inner), 1),
                inner,
                inner.new_full((len(inner), 1), ordered.shape[1]),
            ],
            1,
        )
        sizes = mass.gather(1, edges).diff(dim=1)
        means = running.gather(1, edges).diff(dim=1) / sizes.clamp(min=1e-12)
        levels = torch.where(sizes > 1e-9, means, levels)
    return levels.to(weights.dtype)


def _means(values: Tensor, weights: Tensor, codes: Tensor, levels: Tensor) -> Tensor:
    """The mean of the values of each code, (groups, count); an unused code keeps its level."""
    sums = torch.zeros_like(levels).scatter_add_(1, codes, values * weights)
    sizes = torch.zeros_like(levels).scatter_add_(1, codes, weights)
    return torch.where(sizes > 0, sums / sizes.clamp(min=1e-12), levels)
