"""A tagger as one ONNX file: whole sentences at once."""

from __future__ import annotations

from lmcore.bidirectional import Bidirectional
from lmcore.networks.tagger import Tagger
from lmcore.networks.tagger_settings import OUTPUT
from lmcore.onnx.networks import Network
from lmcore.onnx.sentence_graph import SentenceGraph


def tagging(model: Tagger, eos: int, integer_activations: bool = True) -> Network:
    """The file that gives log_softmax (N, L, tags); see `SentenceGraph`."""
    sentences = SentenceGraph(model.settings, eos, integer_activations)
    graph, products = sentences.graph, sentences.products
    x = sentences.words(model.read)
    for layer, names in zip(model.layers, model.settings.layers_of, strict=True):
        assert isinstance(layer, Bidirectional), "a tagger's layers"
        x = sentences.both(layer, names, x)
    bias = products.storage.floats(model.output_bias)
    logits = products.matmul(graph, OUTPUT, x, model.output, bias)
    scores = graph.op("Transpose", graph.op("LogSoftmax", logits, axis=-1), perm=[1, 0, 2])
    return sentences.file(scores, ["N", "L", len(model.settings.labels)], "tagger")
