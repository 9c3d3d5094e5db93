"""Cells without a fused kernel: they run in a loop over time.

The product with x does not wait for the step before, so it is done for the whole window first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from lmcore.cells import Cell, Drop, State, projected
from lmcore.lazy import torch
from lmcore.sites import BIAS, INPUT, PEEPHOLE, RECURRENT

if TYPE_CHECKING:
    from torch import Tensor

    from lmcore.layer import Layer


class RNN(Cell):
    """h' = sigma(W x + U h + b), Grachev's eq. 1-2. W (H, in), U (H, width), b (H,); state h."""

    kind: Literal["rnn"] = "rnn"
    prefix: ClassVar[str] = "rnn"
    gates: ClassVar[int] = 1

    def sites(self, inputs: int, hidden: int, width: int) -> dict[str, tuple[int, int]]:
        sites = {INPUT: (hidden, inputs), RECURRENT: (hidden, width)}
        return projected(sites, hidden, width)

    def vectors(self, hidden: int) -> dict[str, tuple[int]]:
        return {BIAS: (hidden,)}

    def run(self, layer: Layer, x: Tensor, state: State, drop: Drop) -> tuple[Tensor, State]:
        (h,) = state
        recurrent = drop(layer.recurrent(RECURRENT)).T
        steps = []
        for z in (layer.weights[INPUT].matmul(x) + layer.vectors[BIAS].value()).unbind():
            h = torch.addmm(z, h, recurrent).sigmoid_()
            steps.append(h)
        return torch.stack(steps), (h,)


class Peephole(Cell):
    """The LSTM whose gates i, f and o also see the cell, Grachev's eq. 3-7:

    i = sigma(W x + U h + b + v_i c), f and o likewise, all of c before the step; else as the LSTM.
    Gates i, f, g, o are stacked in W (4H, in), U (4H, width) and b (4H,), v_i, v_f, v_o in (3H,).
    The state is h and c.
    """

    kind: Literal["peephole"] = "peephole"
    prefix: ClassVar[str] = "lstm"
    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    def sites(self, inputs: int, hidden: int, width: int) -> dict[str, tuple[int, int]]:
        sites = {INPUT: (4 * hidden, inputs), RECURRENT: (4 * hidden, width)}
        return projected(sites, hidden, width)

    def vectors(self, hidden: int) -> dict[str, tuple[int]]:
        return {BIAS: (4 * hidden,), PEEPHOLE: (3 * hidden,)}

    def run(self, layer: Layer, x: Tensor, state: State, drop: Drop) -> tuple[Tensor, State]:
        h, c = state
        recurrent = drop(layer.recurrent(RECURRENT)).T
        v_i, v_f, v_o = layer.vectors[PEEPHOLE].value().chunk(3)
        peephole = torch.stack([v_i, v_f, torch.zeros_like(v_i), v_o])  # (4, H): none at g
        steps = []
        for z in (layer.weights[INPUT].matmul(x) + layer.vectors[BIAS].value()).unbind():
            gates = torch.addmm(z, h, recurrent).view(-1, *peephole.shape)  # (batch, 4, H)
            i, f, g, o = torch.addcmul(gates, c.unsqueeze(1), peephole).unbind(1)
            c = torch.addcmul(f.sigmoid() * c, i.sigmoid(), g.tanh())
            h = o.sigmoid() * c.tanh()
            steps.append(h)
        return torch.stack(steps), (h, c)


class RHN(Cell):
    """The recurrent highway network, carry 1 - t (Zilly et al. 2017, eq. 6-8).

    Each step goes through `depth` layers, s_0 = h, h' = s_depth, x at the first alone:
    s_l = t s + (1 - t) s_{l-1}, s = tanh(W x + R_l s_{l-1} + b_l), t = sigma(the same of its own).
    W (2H, in), every R (2H, width), every b (2H,), s and t stacked. The state is h.

    Theirs starts the bias of t at -2. At depth 5 it is not needed (1 x 200, Python's documentation,
    6 epochs: valid 56.3 against 43.7 without by Adam 0.005, 54.0 against 55.7 by Adam 0.002, 63.6
    against 67.6 by SGD); at depth 10 it helps (1 x 96, Adam 0.005: 87.4 against 118.3).
    """

    kind: Literal["rhn"] = "rhn"
    prefix: ClassVar[str] = "rhn"
    gates: ClassVar[int] = 2
    depth: Annotated[int, Field(ge=1, le=100)] = 5

    def sites(self, inputs: int, hidden: int, width: int) -> dict[str, tuple[int, int]]:
        depths = dict.fromkeys(self._recurrent_names, (2 * hidden, width))
        return projected({INPUT: (2 * hidden, inputs), **depths}, hidden, width)

    def vectors(self, hidden: int) -> dict[str, tuple[int]]:
        return {f"{BIAS}_{depth + 1}": (2 * hidden,) for depth in range(self.depth)}

    def run(self, layer: Layer, x: Tensor, state: State, drop: Drop) -> tuple[Tensor, State]:
        (s,) = state
        matrices = [drop(layer.recurrent(name)).T for name in self._recurrent_names]
        biases = [bias.value() for bias in layer.vectors.values()]
        steps = []
        for z in (layer.weights[INPUT].matmul(x) + biases[0]).unbind():
            for start, matrix in zip([z, *biases[1:]], matrices, strict=True):
                s = _highway(torch.addmm(start, s, matrix), s)
            steps.append(s)
        return torch.stack(steps), (s,)

    def site_inputs(self, layer: Layer, x: Tensor, state: State, h: Tensor) -> dict[str, Tensor]:
        """With h known every step's s_1, s_2, ... are known from its s_0: no loop over time."""
        inputs = super().site_inputs(layer, x, state, h)
        s = torch.cat([state[0].unsqueeze(0), h[:-1]])
        start = layer.weights[INPUT].matmul(x)
        for name, bias in zip(self._recurrent_names, layer.vectors.values(), strict=True):
            inputs[name] = layer.project(s)
            z = start + layer.weights[name].matmul(inputs[name]) + bias.value()
            s, start = _highway(z, s), torch.zeros_like(start)
        return inputs

    @property
    def _recurrent_names(self) -> list[str]:
        return [f"{RECURRENT}_{depth + 1}" for depth in range(self.depth)]


def _highway(z: Tensor, s: Tensor) -> Tensor:
    """t tanh(z_s) + (1 - t) s, z (..., 2H), s (..., H)."""
    candidate, transform = z.chunk(2, dim=-1)
    return torch.lerp(s, candidate.tanh(), transform.sigmoid())
