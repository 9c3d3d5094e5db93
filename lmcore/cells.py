"""Cells: the equations of recurrent layers, as settings with pure functions of tensors.

A cell says which sites a layer has, and runs it. Every layer may have a shared projection
P (width, hidden), Grachev's eq. 8-10: m = P h feeds the recurrence, the next layer and the decoder.
The projection needs no kernel of its own, since U m = (U P) h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, SerializeAsAny

from lmcore.lazy import torch
from lmcore.settings import Family
from lmcore.sites import BIAS, INPUT, PROJECTION, RECURRENT

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.layer import Layer

State: TypeAlias = "tuple[Tensor, ...]"  # each (batch, hidden); the first is h
Drop: TypeAlias = "Callable[[Tensor], Tensor]"


class Cell(Family, ABC):
    """The equations of a recurrent layer. `gates` matrices are stacked in each of its sites.

    In every cell, hidden unit k of H touches these slices:

    - rows k, H + k, 2 H + k, ... of every site but `projection`, and these entries of every vector;
    - column k of every site that acts on h. Where the layer has a projection, that is `projection`
      alone; else it is every site but `input`, and whatever reads the layer's output.

    So a layer without unit k is the same kind of layer with one unit less (the intrinsic sparse
    structures of Wen et al. 2018; of the highway network, row and column k at all depths).
    """

    prefix: ClassVar[str]  # of its sites' names
    gates: ClassVar[int]
    states: ClassVar[int] = 1  # how many tensors its state is of; the first is h

    @abstractmethod
    def sites(self, inputs: int, hidden: int, width: int) -> dict[str, tuple[int, int]]:
        """Site -> (out, in) of a layer; `width` is how wide its output is."""

    @abstractmethod
    def vectors(self, hidden: int) -> dict[str, tuple[int]]:
        """Bias or peephole -> (size,) of a layer."""

    @abstractmethod
    def run(self, layer: Layer, x: Tensor, state: State, drop: Drop) -> tuple[Tensor, State]:
        """x (time, batch, in) -> h (time, batch, hidden), and the state after the last step.

        `drop` is what is done to a recurrent matrix before it is used.
        """

    def site_inputs(self, layer: Layer, x: Tensor, state: State, h: Tensor) -> dict[str, Tensor]:
        """Site -> what its matrix is multiplied with, (time, batch, in).

        x and the state before the first step are what `run` got, h is what it gave.
        """
        before = torch.cat([state[0].unsqueeze(0), h[:-1]])
        inputs = {INPUT: x, PROJECTION: h}
        return {name: inputs.get(name, layer.project(before)) for name in layer.weights}


AnyCell = Annotated[SerializeAsAny[Cell], BeforeValidator(Cell.pick)]


def projected(
    sites: dict[str, tuple[int, int]], hidden: int, width: int
) -> dict[str, tuple[int, int]]:
    """The sites with the projection behind them, where the output is not h itself."""
    return sites if width == hidden else {**sites, PROJECTION: (width, hidden)}


class LSTM(Cell):
    """i, f, o = sigma(W x + U h + b), g = tanh(W x + U h + b); c' = f c + i g; h' = o tanh(c').

    W (4H, in), U (4H, width), b (4H,), gates i, f, g, o stacked. The state is h and c. The layer
    runs in torch's fused kernel, whatever form its weights have.
    """

    kind: Literal["lstm"] = "lstm"
    prefix: ClassVar[str] = "lstm"
    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    def sites(self, inputs: int, hidden: int, width: int) -> dict[str, tuple[int, int]]:
        sites = {INPUT: (4 * hidden, inputs), RECURRENT: (4 * hidden, width)}
        return projected(sites, hidden, width)

    def vectors(self, hidden: int) -> dict[str, tuple[int]]:
        return {BIAS: (4 * hidden,)}

    def run(self, layer: Layer, x: Tensor, state: State, drop: Drop) -> tuple[Tensor, State]:
        bias = layer.vectors[BIAS].value()
        recurrent = drop(layer.recurrent(RECURRENT))
        weights = [layer.weights[INPUT].dense(), recurrent, bias, torch.zeros_like(bias)]
        h, c = state
        output, h, c = torch.lstm(
            x,
            (h.unsqueeze(0), c.unsqueeze(0)),
            weights,
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=layer.training,
            bidirectional=False,
            batch_first=False,
        )
        return output, (h.squeeze(0), c.squeeze(0))
