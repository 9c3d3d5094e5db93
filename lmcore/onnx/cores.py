"""Tensor trains in a graph: the chain of cores contracted, merged, or read at some rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lmcore.compress.tensor_train import SMALL_PRODUCT, TensorTrainStructure
from lmcore.onnx.graph import Graph
from lmcore.structure import MatrixShape


class Cores:
    """The cores G_k (r_{k-1}, m_k, n_k, r_k) of a matrix (out, in), each stored as the matrix
    (r_{k-1} m_k, n_k r_k)."""

    def __init__(self, structure: TensorTrainStructure, shape: MatrixShape) -> None:
        self.shape, self.padded = shape, structure.padded(shape)
        self.modes, self.ranks = structure.modes(shape), structure.ranks(shape)

    @property
    def contraction_is_cheaper(self) -> bool:
        """Than the product of a vector with the merged matrix."""
        steps, rows, columns = 0, 1, self.padded[1]
        for k, (m, n) in enumerate(self.modes):
            columns //= n
            steps += rows * self.ranks[k] * m * n * self.ranks[k + 1] * columns
            rows *= m
        return SMALL_PRODUCT * steps < math.prod(self.shape)

    def contracted(self, graph: Graph, cores: Mapping[str, str], x: str) -> str:
        """x W^T: (..., in) -> (..., out), core by core (Novikov et al. 2015, eq. 5)."""
        vectors = graph.reshaped(x, [-1, 1, self.shape[1]])
        if rest := self.padded[1] - self.shape[1]:
            vectors = graph.op("Pad", vectors, graph.constant([0, 0, 0, 0, 0, rest]))
        state, columns = vectors, self.padded[1]
        for k, (core, (m, n)) in enumerate(zip(cores.values(), self.modes, strict=True)):
            before, after = self.ranks[k], self.ranks[k + 1]
            columns //= n
            # (v, r n, c) -> (v, c, r n), times (r n, m s) -> (v, c, m s) -> (v m, s, c)
            flat = graph.reshaped(state, [-1, before * n, columns])
            turned = graph.op("Transpose", flat, perm=[0, 2, 1])
            product = graph.op("MatMul", turned, self._inputs_first(graph, core, k))
            apart = graph.reshaped(product, [-1, columns, m, after])
            swapped = graph.op("Transpose", apart, perm=[0, 2, 3, 1])
            state = graph.reshaped(swapped, [-1, after, columns])
        y = _cut(graph, graph.reshaped(state, [-1, self.padded[0]]), 1, self.shape[0])
        sizes = graph.op("Shape", x, end=-1)
        last = graph.constant([self.shape[0]])
        return graph.op("Reshape", y, graph.op("Concat", sizes, last, axis=0))

    def merged(self, graph: Graph, cores: Mapping[str, str]) -> str:
        """W (out, in)."""
        merged, (rows, columns) = graph.reshaped(next(iter(cores.values())), [0, -1]), (1, 1)
        for k, (core, (m, n)) in enumerate(zip(cores.values(), self.modes, strict=True)):
            if k:  # (M N, r) times (r, m n s) -> (M, m, N, n s)
                left = graph.reshaped(merged, [-1, self.ranks[k]])
                right = graph.reshaped(core, [self.ranks[k], -1])
                product = graph.op("MatMul", left, right)
                apart = graph.reshaped(product, [rows, columns, m, n * self.ranks[k + 1]])
                merged = graph.op("Transpose", apart, perm=[0, 2, 1, 3])
            rows, columns = rows * m, columns * n
        whole = graph.reshaped(merged, [rows, columns])
        return _cut(graph, _cut(graph, whole, 0, self.shape[0]), 1, self.shape[1])

    def rows(self, graph: Graph, cores: Mapping[str, str], ids: str) -> str:
        """W[ids]: (...,) -> (..., in), of the matrices G_k[i_k] of these rows alone."""
        flat, below, merged, columns = graph.reshaped(ids, [-1]), self.padded[0], "", 1
        for k, (core, (m, n)) in enumerate(zip(cores.values(), self.modes, strict=True)):
            before, after = self.ranks[k], self.ranks[k + 1]
            below //= m
            digits = graph.op("Div", flat, graph.constant(np.int64(below)))
            digits = graph.op("Mod", digits, graph.constant(np.int64(m)))
            by_row = graph.root.op(
                "Transpose",
                graph.root.reshaped(core, [before, m, n * after]),
                perm=[1, 0, 2],
            )
            slices = graph.op("Gather", by_row, digits, axis=0)  # (ids, r, n s)
            if merged:
                slices = graph.op("MatMul", merged, slices)  # (ids, N, n s)
            columns *= n
            merged = graph.reshaped(slices, [-1, columns, after])
        found = _cut(graph, graph.reshaped(merged, [-1, columns]), 1, self.shape[1])
        sizes = graph.op("Concat", graph.op("Shape", ids), graph.constant([-1]), axis=0)
        return graph.op("Reshape", found, sizes)

    def _inputs_first(self, graph: Graph, core: str, k: int) -> str:
        """Core k as (r_{k-1} n_k, m_k r_k)."""
        (m, n), before, after = self.modes[k], self.ranks[k], self.ranks[k + 1]
        apart = graph.root.reshaped(core, [before, m, n, after])
        turned = graph.root.op("Transpose", apart, perm=[0, 2, 1, 3])
        return graph.root.reshaped(turned, [before * n, m * after])


def _cut(graph: Graph, tensor: str, axis: int, size: int) -> str:
    ends = (graph.constant([number]) for number in (0, size, axis))
    return graph.op("Slice", tensor, *ends)
