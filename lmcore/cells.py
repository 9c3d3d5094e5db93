"""Recurrent layers over Weights. A cell says which sites a layer has, and makes the layer of them.

Every layer may have a shared projection P (width, hidden), Grachev's eq. 8-10: m = P h feeds the
recurrence, the next layer and the decoder. It needs no kernel of its own, since U m = (U P) h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor, nn

from lmcore.settings import Family
from lmcore.weight import Leaf, Weight

State = tuple[Tensor, ...]  # each (batch, hidden)
Drop = Callable[[Tensor], Tensor]


class Cell(Family, ABC):
    """The equations of a recurrent layer. `gates` matrices are stacked in each of its sites.

    What hidden unit k touches in a layer, in every cell: rows k, H + k, 2 H + k, ... of every site
    but `projection`, the same entries of every vector, and column k of every site that acts on h.
    That is `projection` where there is one, else every site but `input`, and whatever reads the
    layer's output. So a layer without unit k is the same layer with one unit less: the intrinsic
    sparse structures of Wen et al. (2018), in the highway network row and column k at all depths.
    """

    prefix: ClassVar[str]  # of its sites' names
    gates: ClassVar[int]

    @abstractmethod
    def sites(self, inputs: int, hidden: int, width: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) of a layer; `width` is how wide its output is."""

    @abstractmethod
    def vectors(self, hidden: int) -> dict[str, tuple[int]]:
        """Bias or peephole -> (size,) of a layer."""

    @abstractmethod
    def layer(self, weights: dict[str, Weight], vectors: dict[str, Leaf]) -> Layer:
        """The layer over its weights, a `projection` among them where it has one."""


AnyCell = Annotated[SerializeAsAny[Cell], BeforeValidator(Cell.pick)]


class Layer(nn.Module, ABC):
    """One recurrent layer (time, batch, in) -> (time, batch, width)."""

    gates: ClassVar[int]
    states: ClassVar[int] = 1  # how many tensors its state is of; the first is h

    def __init__(self, weights: dict[str, Weight], vectors: dict[str, Leaf]) -> None:
        super().__init__()
        self._weights = nn.ModuleDict(weights)
        self._vectors = nn.ModuleDict(vectors)

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
        """How many units it has."""
        return self.weights["input"].shape[0] // self.gates

    def zero_state(self, batch: int) -> State:
        """The state before the first token."""
        vector = next(iter(self.vectors.values())).data
        return (vector.new_zeros(batch, self.hidden),) * self.states

    @abstractmethod
    def run(self, x: Tensor, state: State, drop: Drop) -> tuple[Tensor, State]:
        """(time, batch, in) -> h (time, batch, hidden), and the state after the last step.

        `drop` is what is done to a recurrent matrix before it is used.
        """

    def forward(self, x: Tensor, state: State, drop: Drop) -> tuple[Tensor, State]:
        """(time, batch, in) -> (time, batch, width), and the state after the last step."""
        h, state = self.run(x, state, drop)
        return self.project(h), state

    def recurrent(self, name: str) -> Tensor:
        """A recurrent matrix as it acts on h: (gates x hidden, hidden)."""
        matrix = self.weights[name].dense()
        if "projection" in self.weights:
            return matrix @ self.weights["projection"].dense()
        return matrix

    def site_inputs(self, x: Tensor, state: State, h: Tensor) -> dict[str, Tensor]:
        """Site -> what its matrix is multiplied with, (time, batch, in).

        x and the state before the first step are what `run` got, h is what it gave.
        """
        before = torch.cat([state[0].unsqueeze(0), h[:-1]])
        inputs = {"input": x, "projection": h}
        return {name: inputs.get(name, self.project(before)) for name in self.weights}

    def project(self, h: Tensor) -> Tensor:
        """P h, or h where there is no projection: (..., hidden) -> (..., width)."""
        return self.weights["projection"].matmul(h) if "projection" in self.weights else h


def projected(
    sites: dict[str, tuple[int, int]], hidden: int, width: int
) -> dict[str, tuple[int, int]]:
    """The sites with the projection behind them, where the output is not h itself."""
    return sites if width == hidden else {**sites, "projection": (width, hidden)}


class LSTM(Cell):
    """i, f, o = sigma(W x + U h + b), g = tanh(W x + U h + b); c' = f c + i g; h' = o tanh(c').

    W (4H, in), U (4H, width), b (4H,), gates i, f, g, o stacked.
    """

    kind: Literal["lstm"] = "lstm"
    prefix: ClassVar[str] = "lstm"
    gates: ClassVar[int] = 4

    def sites(self, inputs: int, hidden: int, width: int) -> dict[str, tuple[int, int]]:
        sites = {"input": (4 * hidden, inputs), "recurrent": (4 * hidden, width)}
        return projected(sites, hidden, width)

    def vectors(self, hidden: int) -> dict[str, tuple[int]]:
        return {"bias": (4 * hidden,)}

    def layer(self, weights: dict[str, Weight], vectors: dict[str, Leaf]) -> Layer:
        return LSTMLayer(weights, vectors)


class LSTMLayer(Layer):
    """The LSTM by torch's fused kernel, whatever form the weights have. Its state is h and c."""

    gates = LSTM.gates
    states = 2

    def run(self, x: Tensor, state: State, drop: Drop) -> tuple[Tensor, State]:
        bias = self.vectors["bias"].value()
        recurrent = drop(self.recurrent("recurrent"))
        weights = [self.weights["input"].dense(), recurrent, bias, torch.zeros_like(bias)]
        h, c = state
        output, h, c = torch.lstm(
            x,
            (h.unsqueeze(0), c.unsqueeze(0)),
            weights,
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=self.training,
            bidirectional=False,
            batch_first=False,
        )
        return output, (h.squeeze(0), c.squeeze(0))
