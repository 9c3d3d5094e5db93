"""Products with the matrices of sites, and look-ups of their rows, in the form that they have.

A factored matrix is multiplied factor by factor. A matrix of integers is multiplied by integers:
its input is rounded to 8 bits at each step (`DynamicQuantizeMatMul`, or `MatMulNBits` for codes of
4 bits), unless a file is written without `integer_activations`.

One product of a token with the 10000 x 200 decoder, one thread, onnxruntime 1.32 on a Sapphire
Rapids core: float32 383 us, `DynamicQuantizeMatMul` 78, `MatMulNBits` of 4 bits in blocks of 256
67, of 128 76, of 32 119; of 8 bits 135; of 4 bits with float inputs 238.
"""

from __future__ import annotations

import numpy as np

from lmcore.compress.low_rank import LowRankStructure
from lmcore.compress.tensor_train import TensorTrainStructure
from lmcore.leaf import Leaf
from lmcore.onnx.cores import Cores
from lmcore.onnx.graph import Graph
from lmcore.onnx.storage import Integers, Storage
from lmcore.structure import DenseStructure
from lmcore.weight import Weight

LEAST = 4096  # weights of a matrix from which on rounding its input costs less than it saves
BLOCK = 256  # columns, at most, that share a scale in MatMulNBits; it takes powers of 2 from 16 on


class Products:
    """What the sites of one file do. `operators` tells of each site what computes with it."""

    def __init__(self, graph: Graph, integer_activations: bool = True) -> None:
        self.storage = Storage(graph)
        self.integer_activations = integer_activations
        self.operators: dict[str, str] = {}
        self._turned: dict[str, str] = {}

    def note(self, site: str, operator: str) -> None:
        """The site is computed with by this operator, too."""
        known = self.operators.get(site, "")
        if operator not in known.split(" + "):
            self.operators[site] = f"{known} + {operator}" if known else operator

    def takes_integers(self, leaf: Leaf) -> Integers | None:
        """The leaf's integers, where a product with them is worth its roundings."""
        if not self.integer_activations or leaf.data.numel() < LEAST:
            return None
        return self.storage.integers(leaf)

    # --- x W^T ----------------------------------------------------------------------------------

    def matmul(self, graph: Graph, site: str, x: str, weight: Weight, bias: str = "") -> str:
        """x W^T + bias: (..., in) -> (..., out)."""
        structure, leaves = weight.structure, weight.leaves
        if isinstance(structure, DenseStructure):
            return self.by_leaf(graph, site, x, leaves["matrix"], bias)
        if isinstance(structure, LowRankStructure):
            z = self.by_leaf(graph, site, x, leaves["right"])
            return self.by_leaf(graph, site, z, leaves["left"], bias)
        self.note(site, "MatMul")
        if isinstance(structure, TensorTrainStructure):
            cores = Cores(structure, weight.shape)
            if cores.contraction_is_cheaper:
                y = cores.contracted(graph, self._values(weight), x)
                return graph.op("Add", y, bias) if bias else y
        return self._by_floats(graph, x, self.dense(weight), bias)

    def by_leaf(self, graph: Graph, site: str, x: str, leaf: Leaf, bias: str = "") -> str:
        """x L^T + bias for a leaf L (rows, columns)."""
        whole = self.takes_integers(leaf)
        if whole is None:
            self.note(site, "MatMul")
            return self._by_floats(graph, x, self.storage.floats(leaf), bias)
        if whole.bits == 4 and whole.shape[1] % 2 == 0:
            self.note(site, "MatMulNBits")
            y = self._by_nibbles(graph, x, whole, bias)
        else:
            self.note(site, "DynamicQuantizeMatMul")
            scale = whole.scale if whole.by_row else graph.root.reshaped(whole.scale, [])
            codes = self.turned(self.storage.signed(leaf))
            y = graph.op("DynamicQuantizeMatMul", x, codes, scale, "", bias)
        if not whole.offset:
            return y
        total = graph.op("ReduceSum", x, graph.constant([-1]), keepdims=1)
        return graph.op("Add", y, graph.op("Mul", total, whole.offset))

    def _by_nibbles(self, graph: Graph, x: str, whole: Integers, bias: str) -> str:
        """With the bytes as they are stored, zeros behind each row up to a whole block."""
        root, (rows, columns) = graph.root, whole.shape
        block = min(BLOCK, max(16, 1 << (columns - 1).bit_length()))
        blocks = -(-columns // block)
        stored = root.reshaped(whole.stored, [rows, columns // 2])
        if rest := blocks * block - columns:
            zeros = root.filled(np.uint8(0), [rows, rest // 2])
            stored = root.op("Concat", stored, zeros, axis=1)
        stored = root.reshaped(stored, [rows, blocks, block // 2])
        scale = root.reshaped(whole.scale, [-1, 1])
        scales = root.reshaped(root.op("Expand", scale, root.constant([rows, blocks])), [-1])
        zeros = ""
        if whole.zero != 8:
            zeros = root.filled(np.uint8(17 * whole.zero), [rows * -(-blocks // 2)])
        settings = {"K": columns, "N": rows, "bits": 4, "block_size": block, "accuracy_level": 4}
        return graph.op("MatMulNBits", x, stored, scales, zeros, "", bias, **settings)

    def _by_floats(self, graph: Graph, x: str, matrix: str, bias: str) -> str:
        y = graph.op("MatMul", x, self.turned(matrix))
        return graph.op("Add", y, bias) if bias else y

    def turned(self, matrix: str) -> str:
        """The transpose of a matrix of the root."""
        if matrix not in self._turned:
            self._turned[matrix] = self.storage.graph.op("Transpose", matrix, perm=[1, 0])
        return self._turned[matrix]

    # --- W itself -------------------------------------------------------------------------------

    def dense(self, weight: Weight) -> str:
        """W (out, in) in float32, made of its leaves once, when the file is loaded."""
        graph, structure = self.storage.graph, weight.structure
        if isinstance(structure, DenseStructure):
            return self.storage.floats(weight.leaves["matrix"])
        if isinstance(structure, LowRankStructure):
            values = self._values(weight)
            return graph.op("MatMul", values["left"], values["right"])
        if isinstance(structure, TensorTrainStructure):
            return Cores(structure, weight.shape).merged(graph, self._values(weight))
        return graph.constant(weight.dense().detach().numpy())

    def _values(self, weight: Weight) -> dict[str, str]:
        return {name: self.storage.floats(leaf) for name, leaf in weight.leaves.items()}

    # --- W[ids] ---------------------------------------------------------------------------------

    def rows(self, graph: Graph, site: str, ids: str, weight: Weight) -> str:
        """(time, batch) -> (time, batch, in)."""
        structure, leaves = weight.structure, weight.leaves
        self.note(site, "Gather")
        if isinstance(structure, DenseStructure):
            return self._rows_of_leaf(graph, ids, leaves["matrix"])
        if isinstance(structure, LowRankStructure):
            self.note(site, "MatMul")
            left = self._rows_of_leaf(graph, ids, leaves["left"])
            return graph.op("MatMul", left, self.storage.floats(leaves["right"]))
        if isinstance(structure, TensorTrainStructure):
            self.note(site, "MatMul")
            return Cores(structure, weight.shape).rows(graph, self._values(weight), ids)
        return graph.op("Gather", self.dense(weight), ids, axis=0)

    def _rows_of_leaf(self, graph: Graph, ids: str, leaf: Leaf) -> str:
        whole = self.storage.integers(leaf)
        if whole is None:
            return graph.op("Gather", self.storage.floats(leaf), ids, axis=0)

        def of_rows(numbers: str) -> str:
            if not whole.by_row:
                return numbers
            return graph.op("Gather", graph.root.reshaped(numbers, [-1, 1]), ids, axis=0)

        codes = graph.op("Gather", self.storage.signed(leaf), ids, axis=0)
        values = graph.op("Mul", graph.floats(codes), of_rows(whole.scale))
        return values if not whole.offset else graph.op("Add", values, of_rows(whole.offset))
