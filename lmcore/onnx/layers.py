"""Recurrent layers in a graph.

What does not wait for the step before is done for the whole sequence at once. A plain LSTM then
runs in one operator: `DynamicQuantizeLSTM` where both its matrices are integers, `LSTM` where both
are floats. Every other cell, and an LSTM whose recurrent matrix is factored or projected, runs step
by step in `Scan`, its products in the form that its sites have.

A token through 200 units of 200 inputs, one thread: `LSTM` 47 us, `DynamicQuantizeLSTM` 23, `Scan`
with `MatMulNBits` 42, of which 12 are those of the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmcore.cells import LSTM
from lmcore.compress.low_rank import LowRankStructure
from lmcore.errors import UserError
from lmcore.layer import Layer
from lmcore.leaf import Leaf
from lmcore.looped_cells import RHN, RNN, Peephole
from lmcore.onnx.graph import Graph
from lmcore.onnx.products import Products
from lmcore.onnx.storage import Integers
from lmcore.sites import BIAS, INPUT, PEEPHOLE, PROJECTION, RECURRENT
from lmcore.structure import DenseStructure


@dataclass(frozen=True)
class LayerGraph:
    """One layer; `sites` are the names of its sites in the model, by those within the layer."""

    graph: Graph
    products: Products
    layer: Layer
    sites: dict[str, str]

    def run(self, x: str, states: list[str]) -> tuple[str, list[str]]:
        """x (time, batch, in), states (1, batch, hidden) -> (time, batch, width), states."""
        operands = self._operands()
        if operands is None:
            h, states = self._scan(x, states)
        else:
            h, states = self._lstm(x, states, *operands)
        return self._project(self.graph, h), states

    # --- by one operator ------------------------------------------------------------------------

    def _operands(self) -> tuple[Leaf, Leaf] | None:
        """The input's and the recurrent matrix for an operator; None where it cannot serve."""
        layer, weights = self.layer, self.layer.weights
        if type(layer.cell) is not LSTM or PROJECTION in weights:
            return None
        leaves = []
        for name in (INPUT, RECURRENT):
            structure = weights[name].structure
            if isinstance(structure, DenseStructure):
                leaves.append(weights[name].leaves["matrix"])
            elif isinstance(structure, LowRankStructure) and name == INPUT:
                leaves.append(weights[name].leaves["left"])
            else:
                return None
        kinds = {self._kind(leaf) for leaf in leaves}
        return (leaves[0], leaves[1]) if kinds in ({"floats"}, {"integers"}) else None

    def _kind(self, leaf: Leaf) -> str:
        whole = self.products.takes_integers(leaf)
        if whole is None:
            return "floats"
        return "integers" if not whole.offset else "integers with an offset"

    def _lstm(
        self, x: str, states: list[str], inputs: Leaf, recurrent: Leaf
    ) -> tuple[str, list[str]]:
        graph, products, weights = self.graph, self.products, self.layer.weights
        if "right" in weights[INPUT].leaves:
            right = weights[INPUT].leaves["right"]
            x = products.by_leaf(graph, self.sites[INPUT], x, right)
        bias = products.storage.floats(self.layer.vectors[BIAS])
        bias = self._for_operator(graph.reshaped(bias, [-1, 1]))
        zeros = graph.filled(np.float32(0), [4 * self.layer.hidden])
        both = graph.op("Concat", graph.reshaped(bias, [-1]), zeros, axis=0)
        both = graph.reshaped(both, [1, -1])
        whole = [products.takes_integers(leaf) for leaf in (inputs, recurrent)]
        if whole[0] is None or whole[1] is None:
            kind, more = "LSTM", []
            matrices = [
                graph.op("Unsqueeze", self._for_operator(products.storage.floats(leaf)), first)
                for leaf in (inputs, recurrent)
                for first in [graph.constant([0])]
            ]
        else:
            kind = "DynamicQuantizeLSTM"
            matrices = [
                graph.reshaped(
                    products.turned(self._for_operator(products.storage.signed(leaf))),
                    [1, leaf.shape[1], leaf.shape[0]],
                )
                for leaf in (inputs, recurrent)
            ]
            more = ["", *(one for own in whole if own for one in self._scale_and_zero(own))]
        for name in (INPUT, RECURRENT):
            products.note(self.sites[name], kind)
        given = [x, *matrices, both, "", *states, *more]
        y, h, c = graph.ops(kind, given, 3, hidden_size=self.layer.hidden)
        return graph.op("Squeeze", y, graph.constant([1])), [h, c]

    def _scale_and_zero(self, whole: Integers) -> list[str]:
        """(1,) or (1, gates x hidden) each."""
        graph = self.graph.root
        if not whole.by_row:
            return [whole.scale, graph.constant(np.zeros(1, np.int8))]
        scale = graph.reshaped(self._for_operator(whole.scale), [1, -1])
        return [scale, graph.filled(np.int8(0), [1, whole.shape[0]])]

    def _for_operator(self, matrix: str) -> str:
        """Gates i, f, g, o (4H, ...) -> i, o, f, g."""
        graph = self.graph.root
        i, f, g, o = graph.ops("Split", [matrix], 4, axis=0, num_outputs=4)
        return graph.op("Concat", i, o, f, g, axis=0)

    # --- step by step ---------------------------------------------------------------------------

    def _scan(self, x: str, states: list[str]) -> tuple[str, list[str]]:
        from onnx import TensorProto, helper

        graph, layer = self.graph, self.layer
        bias = self.products.storage.floats(next(iter(layer.vectors.values())))
        weight = layer.weights[INPUT]
        start = self.products.matmul(graph, self.sites[INPUT], x, weight, bias)
        body = graph.body()
        before = [body.name("before") for _ in states]
        now = body.name("now")
        after = self._step(body, now, before)
        given = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])
            for name, size in [
                *((name, layer.hidden) for name in before),
                (now, layer.cell.gates * layer.hidden),
            ]
        ]
        made = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, layer.hidden])
            for name in [*after, body.op("Identity", after[0])]
        ]
        first = graph.constant([0])
        started = [graph.op("Squeeze", state, first) for state in states]
        step = helper.make_graph(body.nodes, "step", given, made)
        *last, h = graph.ops("Scan", [*started, start], len(made), body=step, num_scan_inputs=1)
        return h, [graph.op("Unsqueeze", state, first) for state in last]

    def _step(self, body: Graph, now: str, states: list[str]) -> list[str]:
        """W x + b of one step (batch, gates x hidden), states (batch, hidden) -> states."""
        cell = self.layer.cell
        step = _STEPS.get(type(cell))
        if step is None:
            raise UserError(f"cannot write a layer of {cell.kind} as ONNX: its step is not known")
        return step(self, body, now, states)

    def recurrent(self, body: Graph, name: str, h: str) -> str:
        """U m with m = P h: (batch, hidden) -> (batch, gates x hidden)."""
        weight = self.layer.weights[name]
        return self.products.matmul(body, self.sites[name], self._project(body, h), weight)

    def vector(self, name: str) -> str:
        """A bias or peephole (size,)."""
        return self.products.storage.floats(self.layer.vectors[name])

    def _project(self, graph: Graph, h: str) -> str:
        if PROJECTION not in self.layer.weights:
            return h
        weight = self.layer.weights[PROJECTION]
        return self.products.matmul(graph, self.sites[PROJECTION], h, weight)


# --- one step of each cell, as its `run` has it -------------------------------------------------


def _lstm_step(layer: LayerGraph, body: Graph, now: str, states: list[str]) -> list[str]:
    h, c = states
    gates = body.op("Add", now, layer.recurrent(body, RECURRENT, h))
    i, f, g, o = body.ops("Split", [gates], 4, axis=-1, num_outputs=4)
    return _gated(body, i, f, g, o, c)


def _peephole_step(layer: LayerGraph, body: Graph, now: str, states: list[str]) -> list[str]:
    h, c = states
    gates = body.op("Add", now, layer.recurrent(body, RECURRENT, h))
    i, f, g, o = body.ops("Split", [gates], 4, axis=-1, num_outputs=4)
    root = body.root
    peepholes = root.ops("Split", [layer.vector(PEEPHOLE)], 3, axis=0, num_outputs=3)
    i, f, o = (
        body.op("Add", gate, body.op("Mul", c, peephole))
        for gate, peephole in zip((i, f, o), peepholes, strict=True)
    )
    return _gated(body, i, f, g, o, c)


def _gated(body: Graph, i: str, f: str, g: str, o: str, c: str) -> list[str]:
    kept = body.op("Mul", body.op("Sigmoid", f), c)
    added = body.op("Mul", body.op("Sigmoid", i), body.op("Tanh", g))
    c = body.op("Add", kept, added)
    return [body.op("Mul", body.op("Sigmoid", o), body.op("Tanh", c)), c]


def _rnn_step(layer: LayerGraph, body: Graph, now: str, states: list[str]) -> list[str]:
    return [body.op("Sigmoid", body.op("Add", now, layer.recurrent(body, RECURRENT, states[0])))]


def _rhn_step(layer: LayerGraph, body: Graph, now: str, states: list[str]) -> list[str]:
    cell, (s,) = layer.layer.cell, states
    assert isinstance(cell, RHN), "the step of this cell"
    for depth in range(1, cell.depth + 1):
        start = now if depth == 1 else layer.vector(f"{BIAS}_{depth}")
        z = body.op("Add", layer.recurrent(body, f"{RECURRENT}_{depth}", s), start)
        candidate, transform = body.ops("Split", [z], 2, axis=-1, num_outputs=2)
        change = body.op("Sub", body.op("Tanh", candidate), s)
        s = body.op("Add", s, body.op("Mul", body.op("Sigmoid", transform), change))
    return [s]


_STEPS = {LSTM: _lstm_step, Peephole: _peephole_step, RNN: _rnn_step, RHN: _rhn_step}
