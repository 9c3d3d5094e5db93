"""What networks of sentences have in common, as operators: their words, and layers that read from
both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lmcore import letters, sites
from lmcore.bidirectional import Bidirectional
from lmcore.layer import Layer
from lmcore.letters import LETTERS, LetterSettings
from lmcore.networks.sentence_settings import Directions, SentenceSettings
from lmcore.onnx.graph import Graph
from lmcore.onnx.layers import LayerGraph
from lmcore.onnx.networks import Network, tensor_info
from lmcore.onnx.products import Products
from lmcore.spelling_layer import Spelling
from lmcore.word_layer import Context, Words

if TYPE_CHECKING:
    import onnx

SCORES = "log_softmax"


class SentenceGraph:
    """A graph of x (N, L) and x_lens (N,), both int64, which gives log_softmax. What stands behind
    the x_lens tokens of a row plays no part. A network that spells its words reads letters
    (N, L, 16) int64, too."""

    def __init__(self, settings: SentenceSettings, eos: int, integer_activations: bool) -> None:
        self.settings, self.graph = settings, Graph()
        self.products = Products(self.graph, integer_activations)
        self._eos = eos
        self._ids = self.graph.op("Transpose", "x", perm=[1, 0])  # (L, N)

    def words(self, read: Words) -> str:
        """What `lmcore.word_layer` makes of the words: (L, N, width)."""
        graph, products, ids, parts = self.graph, self.products, self._ids, list[str]()
        if read.embedding is not None:
            x = products.rows(graph, sites.EMBEDDING, ids, read.embedding)
            if read.context is not None:
                end = graph.constant(np.array([self._eos]))
                before = products.rows(graph, sites.EMBEDDING, end, read.embedding)
                x = self._mixed(read.context, x, before)
            parts.append(x)
        if read.vectors is not None:
            parts.append(products.rows(graph, sites.VECTORS, ids, read.vectors))
        if read.spelling is not None and self.settings.words.letters:
            parts.append(self._spelled(read.spelling, self.settings.words.letters))
        return graph.op("Concat", *parts, axis=2) if len(parts) > 1 else parts[0]

    def both(self, layer: Bidirectional, names: Directions, x: str) -> str:
        """What `lmcore.bidirectional` makes of (L, N, in): (L, N, 2 x width)."""
        first = self._run(layer.ahead, names[0], x)
        last = self.turned(self._run(layer.back, names[1], self.turned(x)))
        return self.graph.op("Concat", first, last, axis=2)

    def turned(self, x: str) -> str:
        """Each sentence of (L, N, ...) from its end."""
        return self.graph.op("ReverseSequence", x, "x_lens", batch_axis=1, time_axis=0)

    def file(self, scores: str, shape: list[int | str], kind: str) -> Network:
        """The file whose result has this shape."""
        from onnx import TensorProto

        self.graph.rename(scores, SCORES)
        inputs: list[onnx.ValueInfoProto] = [
            tensor_info("x", TensorProto.INT64, ["N", "L"]),
            tensor_info("x_lens", TensorProto.INT64, ["N"]),
        ]
        if self.settings.words.letters:
            inputs.insert(1, tensor_info("letters", TensorProto.INT64, ["N", "L", LETTERS]))
        result = tensor_info(SCORES, TensorProto.FLOAT, shape)
        data = self.graph.model(inputs, [result], {"model_type": kind})
        return Network(data, self.products.operators)

    def _spelled(self, spelling: Spelling, settings: LetterSettings) -> str:
        """What `lmcore.spelling_layer` makes of the letters: (L, N, filters)."""
        graph, products = self.graph, self.products
        turned = graph.op("Transpose", "letters", perm=[1, 0, 2])
        rows = products.rows(
            graph, letters.EMBEDDED, graph.reshaped(turned, [-1, LETTERS]), spelling.letters
        )  # (words, LETTERS, size)
        places = LETTERS - settings.width + 1
        shifted = [
            graph.op("Slice", rows, *map(graph.constant, ([first], [first + places], [1])))
            for first in range(settings.width)
        ]
        windows = graph.op("Concat", *shifted, axis=2)  # (words, places, width x size)
        bias = products.storage.floats(spelling.bias)
        fits = products.matmul(graph, letters.FILTERS, windows, spelling.filters, bias)
        best = graph.op("Tanh", graph.op("ReduceMax", fits, graph.constant([1]), keepdims=0))
        filters = graph.constant([settings.filters])
        shape = graph.op("Concat", graph.op("Shape", self._ids), filters, axis=0)
        return graph.op("Reshape", best, shape)

    def _mixed(self, context: Context, x: str, end: str) -> str:
        """What `lmcore.word_layer.Context` makes of the embedding x (L, N, in) and the row of the
        `end` (1, in): (L, N, 2 x in)."""
        graph = self.graph
        batch = graph.op("Shape", x, start=1, end=3)  # N, in
        shape = graph.op("Concat", graph.constant([1]), batch, axis=0)
        before = graph.op("Expand", end, shape)
        ahead = [x, *self._layers(context.ahead, before, x)]
        back = [x, *map(self.turned, self._layers(context.back, before, self.turned(x)))]
        shares = (1 + context.scale.value()) * context.weights.value().softmax(0)
        mixed = ""
        for one, other, share in zip(ahead, back, shares.tolist(), strict=True):
            layer = graph.op("Concat", one, other, axis=2)
            layer = graph.op("Mul", layer, graph.constant(np.float32(share)))
            mixed = graph.op("Add", mixed, layer) if mixed else layer
        return mixed

    def _layers(self, layers: dict[str, Layer], before: str, x: str) -> list[str]:
        """The output of each layer that reads what comes `before` x, and x: (L, N, width)."""
        graph, found = self.graph, list[str]()
        x = graph.op("Concat", before, x, axis=0)
        first, last = graph.constant([1]), graph.constant([2**31])
        for name, layer in layers.items():
            x = self._run(layer, name, x)
            found.append(graph.op("Slice", x, first, last, graph.constant([0])))
        return found

    def _run(self, layer: Layer, prefix: str, x: str) -> str:
        """(L, N, in) -> (L, N, width), from a state of zeros."""
        graph = self.graph
        batch = graph.op("Shape", x, start=1, end=2)
        one, hidden = graph.constant([1]), graph.constant([layer.hidden])
        zeros = graph.op("ConstantOfShape", graph.op("Concat", one, batch, hidden, axis=0))
        named = {name: f"{prefix}.{name}" for name in layer.weights}
        run = LayerGraph(graph, self.products, layer, named).run
        found, _ = run(x, [zeros] * layer.cell.states)
        return found
