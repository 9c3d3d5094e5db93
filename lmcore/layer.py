"""Layer: one recurrent layer over Weights, run by its cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from lmcore.cells import Cell, Drop, State
from lmcore.leaf import Leaf
from lmcore.sites import INPUT, PROJECTION
from lmcore.weight import Weight


class Layer(nn.Module):
    """One recurrent layer (time, batch, in) -> (time, batch, width).

    `weights` are its matrices, a `projection` among them where it has one; `vectors` are its
    biases and peepholes.
    """

    def __init__(self, cell: Cell, weights: dict[str, Weight], vectors: dict[str, Leaf]) -> None:
        super().__init__()
        self.cell = cell
        self._weights = nn.ModuleDict(weights)
        self._vectors = nn.ModuleDict(vectors)
        self.watch: Callable[[str, Tensor], None] | None = None  # see `lmcore.watching`

    @property
    def weights(self) -> dict[str, Weight]:
        """Site -> weight, in the order of the file."""
        return {name: cast(Weight, weight) for name, weight in self._weights.items()}

    @property
    def vectors(self) -> dict[str, Leaf]:
        """Bias or peephole -> leaf, in the order of the file."""
        return {name: cast(Leaf, leaf) for name, leaf in self._vectors.items()}

    @property
    def hidden(self) -> int:
        """How many units the layer has."""
        return self.weights[INPUT].shape[0] // self.cell.gates

    def zero_state(self, batch: int) -> State:
        """The state before the first token."""
        vector = next(iter(self.vectors.values())).data
        return (vector.new_zeros(batch, self.hidden),) * self.cell.states

    def forward(self, x: Tensor, state: State, drop: Drop) -> tuple[Tensor, State]:
        """(time, batch, in) -> (time, batch, width), and the state after the last step."""
        h, after = self.cell.run(self, x, state, drop)
        if self.watch:
            seen = {PROJECTION: h, **self.cell.site_inputs(self, x, state, h)}
            for name, values in seen.items():
                self.watch(name, values)
        return self.project(h), after

    def recurrent(self, name: str) -> Tensor:
        """A recurrent matrix as it acts on h: (gates x hidden, hidden)."""
        matrix = self.weights[name].dense()
        if PROJECTION in self.weights:
            return matrix @ self.weights[PROJECTION].dense()
        return matrix

    def project(self, h: Tensor) -> Tensor:
        """P h, or h where there is no projection: (..., hidden) -> (..., width)."""
        return self.weights[PROJECTION].matmul(h) if PROJECTION in self.weights else h
