"""A classifier of texts as one ONNX file."""

from __future__ import annotations

import numpy as np

from lmcore.networks.classifier import Classifier
from lmcore.networks.classifier_settings import ATTENTION, ENCODER, OUTPUT, POOLED
from lmcore.onnx.networks import Network
from lmcore.onnx.sentence_graph import SentenceGraph


def classifying(model: Classifier, eos: int, integer_activations: bool = True) -> Network:
    """The file that gives log_softmax (N, labels); see `SentenceGraph`."""
    sentences = SentenceGraph(model.settings, eos, integer_activations)
    graph, products = sentences.graph, sentences.products
    x = sentences.both(model.encoder, ENCODER, sentences.words(model.read))  # (L, N, in)
    time, first = graph.op("Shape", x, start=0, end=1), graph.constant([0])
    steps = [graph.constant(np.int64(0)), graph.op("Squeeze", time), graph.constant(np.int64(1))]
    places = graph.reshaped(graph.op("Range", *steps), [-1, 1])
    is_word = graph.op("Unsqueeze", graph.op("Less", places, "x_lens"), graph.constant([2]))
    none, zero = graph.constant(np.float32(-np.inf)), graph.constant(np.float32(0))
    scores = products.matmul(graph, ATTENTION, x, model.attention)  # (L, N, 1)
    shares = graph.op("Softmax", graph.op("Where", is_word, scores, none), axis=0)
    words = graph.op("Where", is_word, x, zero)
    count = graph.op("Unsqueeze", graph.floats("x_lens"), graph.constant([1]))
    pooled = [
        graph.op("ReduceMax", graph.op("Where", is_word, x, none), first, keepdims=0),
        graph.op("Div", graph.op("ReduceSum", words, first, keepdims=0), count),
        graph.op("ReduceSum", graph.op("Mul", shares, words), first, keepdims=0),
    ]
    z = graph.op("Concat", *pooled, axis=1)
    bias = products.storage.floats(model.pooled_bias)
    z = graph.op("Relu", products.matmul(graph, POOLED, z, model.pooled, bias))
    bias = products.storage.floats(model.output_bias)
    logits = products.matmul(graph, OUTPUT, z, model.output, bias)
    found = graph.op("LogSoftmax", logits, axis=-1)
    return sentences.file(found, ["N", len(model.settings.labels)], "classifier")
