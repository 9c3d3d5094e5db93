"""The two files: a token at a time with its state, and whole sentences.

`streaming` is what sherpa-onnx's `OnlineRnnLM` reads and icefall exports; `sentences` what its
`OfflineRnnLM` reads. Inputs and outputs are bound by position there, not by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lmcore import sites
from lmcore.corpus import Vocabulary
from lmcore.model import LanguageModel
from lmcore.onnx.graph import Graph
from lmcore.onnx.layers import LayerGraph
from lmcore.onnx.products import Products

if TYPE_CHECKING:
    import onnx


TOKENS_FILE = "tokens.txt"


@dataclass(frozen=True)
class Network:
    """A file's bytes, and what computes with each site."""

    data: bytes
    operators: dict[str, str]


@dataclass
class StateShape:
    """How the states of all layers stand in one tensor (layers, batch, hidden).

    Layers of unequal width stand side by side, as one layer of the sum of their widths.
    """

    units: tuple[int, ...]
    layers: int = field(init=False)
    hidden: int = field(init=False)

    def __post_init__(self) -> None:
        equal = len(set(self.units)) == 1
        self.layers = len(self.units) if equal else 1
        self.hidden = self.units[0] if equal else sum(self.units)

    def split(self, graph: Graph, state: str) -> list[str]:
        """(layers, batch, hidden) -> (1, batch, units of the layer) of each layer."""
        if len(self.units) == 1:
            return [state]
        sizes = [1] * self.layers if self.layers > 1 else list(self.units)
        axis = 0 if self.layers > 1 else 2
        return graph.ops("Split", [state, graph.constant(sizes)], len(self.units), axis=axis)

    def joined(self, graph: Graph, states: list[str]) -> str:
        """The inverse of `split`."""
        return graph.op("Concat", *states, axis=0 if self.layers > 1 else 2)


class _Model:
    """The model in a graph that is being written."""

    def __init__(self, model: LanguageModel, integer_activations: bool) -> None:
        self.model, self.graph = model, Graph()
        self.products = Products(self.graph, integer_activations)
        self.state = StateShape(model.settings.units)

    def hidden(self, ids: str, h0: str, c0: str) -> tuple[str, str, str]:
        """ids (time, batch) -> (time, batch, width) after the last layer, and the states after it.

        A cell without c hands on the c that it got.
        """
        graph, model, products = self.graph, self.model, self.products
        x = products.rows(graph, sites.EMBEDDING, ids, model.embedding)
        before = [self.state.split(graph, h0)]
        if model.settings.cell.states > 1:
            before.append(self.state.split(graph, c0))
        after = []
        for index, layer in enumerate(model.layers):
            named = model.settings.sites_of(index)
            states = [state[index] for state in before]
            x, states = LayerGraph(graph, products, layer, named).run(x, states)
            after.append(states)
        h1, *rest = (self.state.joined(graph, list(one)) for one in zip(*after, strict=True))
        return x, h1, rest[0] if rest else c0

    def log_softmax(self, hidden: str) -> str:
        """(..., width) -> (..., words)."""
        graph, model, products = self.graph, self.model, self.products
        if model.decoder_projection is not None:
            projection = model.decoder_projection
            hidden = products.matmul(graph, sites.DECODER_PROJECTION, hidden, projection)
        bias = products.storage.floats(model.decoder_bias)
        site = model.settings.decoder_site
        logits = products.matmul(graph, site, hidden, model.decoder, bias)
        return graph.op("LogSoftmax", logits, axis=-1)

    def network(
        self,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        metadata: dict[str, str],
    ) -> Network:
        return Network(self.graph.model(inputs, outputs, metadata), self.products.operators)


def streaming(
    model: LanguageModel, vocabulary: Vocabulary, integer_activations: bool = True
) -> Network:
    """x (N, L) int64, h0 and c0 (layers, N, hidden) -> log_softmax (N, words) after the first
    token of each row, next_h0 and next_c0 after all its tokens."""
    from onnx import TensorProto

    written = _Model(model, integer_activations)
    graph, state = written.graph, written.state
    ids = graph.op("Transpose", "x", perm=[1, 0])
    hidden, h1, c1 = written.hidden(ids, "h0", "c0")
    first = graph.op("Gather", hidden, graph.constant(np.int64(0)), axis=0)
    made = {"log_softmax": written.log_softmax(first), "next_h0": h1, "next_c0": c1}
    for name, tensor in made.items():
        graph.rename(tensor, name)
    shape: list[str | int | None] = [state.layers, "N", state.hidden]
    return written.network(
        [
            tensor_info("x", TensorProto.INT64, ["N", "L"]),
            tensor_info("h0", TensorProto.FLOAT, shape),
            tensor_info("c0", TensorProto.FLOAT, shape),
        ],
        [
            tensor_info("log_softmax", TensorProto.FLOAT, ["N", model.words]),
            tensor_info("next_h0", TensorProto.FLOAT, shape),
            tensor_info("next_c0", TensorProto.FLOAT, shape),
        ],
        _metadata(model, vocabulary, state),
    )


def sentences(
    model: LanguageModel, vocabulary: Vocabulary, integer_activations: bool = True
) -> Network:
    """x (N, L) int64, x_lens (N,) int64 -> nll (N,): minus the log-probability, in nats, of the
    first x_lens tokens of each row and of the sentence's end behind them. The model starts anew at
    each row."""
    from onnx import TensorProto

    written = _Model(model, integer_activations)
    graph, state = written.graph, written.state
    eos = graph.constant(np.array([[vocabulary.eos]], np.int64))
    ids = graph.op("Transpose", "x", perm=[1, 0])  # (L, N)
    lengths = graph.op("Unsqueeze", "x_lens", graph.constant([0]))  # (1, N)
    batch = graph.op("Shape", ids, start=1)
    ends = graph.op("Expand", eos, graph.op("Concat", graph.constant([1]), batch, axis=0))
    before = graph.op("Concat", ends, ids, axis=0)  # (L + 1, N)
    after = graph.op("Concat", ids, ends, axis=0)
    count = graph.op("Squeeze", graph.op("Shape", before, end=1))
    zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
    places = graph.op("Unsqueeze", graph.op("Range", zero, count, one), graph.constant([1]))
    targets = graph.op("Where", graph.op("Equal", places, lengths), eos, after)
    sizes = (graph.constant([state.layers]), batch, graph.constant([state.hidden]))
    start = graph.op("ConstantOfShape", graph.op("Concat", *sizes, axis=0))
    hidden, *_ = written.hidden(before, start, start)
    column = graph.op("Unsqueeze", targets, graph.constant([2]))
    found = graph.op("GatherElements", written.log_softmax(hidden), column, axis=2)
    nats = graph.op("Neg", graph.op("Squeeze", found, graph.constant([2])))
    counted = graph.op("LessOrEqual", places, lengths)
    own = graph.op("Where", counted, nats, graph.constant(np.float32(0)))
    graph.rename(graph.op("ReduceSum", own, graph.constant([0]), keepdims=0), "nll")
    return written.network(
        [
            tensor_info("x", TensorProto.INT64, ["N", "L"]),
            tensor_info("x_lens", TensorProto.INT64, ["N"]),
        ],
        [tensor_info("nll", TensorProto.FLOAT, ["N"])],
        _metadata(model, vocabulary, state),
    )


def tokens_text(vocabulary: Vocabulary) -> str:
    """tokens.txt: a token and its id a line, in the order of the ids.

    Of white space a blank alone can be read there; other characters of it become <0x0A>, say.
    """
    lines = (f"{shown(word)} {index}\n" for index, word in enumerate(vocabulary.words))
    return "".join(lines)


def shown(word: str) -> str:
    """As a file of names has it, a line each."""
    if word == " ":
        return word
    return "".join(
        "".join(f"<0x{byte:02X}>" for byte in letter.encode()) if letter.isspace() else letter
        for letter in word
    )


def _metadata(model: LanguageModel, vocabulary: Vocabulary, state: StateShape) -> dict[str, str]:
    numbers = {
        "sos_id": vocabulary.eos,
        "eos_id": vocabulary.eos,
        "vocab_size": model.words,
        "num_layers": state.layers,
        "hidden_size": state.hidden,
        "embedding_dim": model.settings.embedding,
    }
    return {"model_type": "rnnlm", **{name: str(value) for name, value in numbers.items()}}


def tensor_info(name: str, kind: int, shape: Sequence[str | int | None]) -> onnx.ValueInfoProto:
    """An input or output of a file."""
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)
