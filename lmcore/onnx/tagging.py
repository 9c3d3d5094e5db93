"""A tagger as one ONNX file: whole sentences at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lmcore import letters, sites
from lmcore.bidirectional import Bidirectional
from lmcore.bundle import Bundle
from lmcore.codec import Array
from lmcore.errors import UserError
from lmcore.files import write_atomic
from lmcore.layer import Layer
from lmcore.letters import LETTERS, LetterSettings
from lmcore.networks.tagger import Tagger
from lmcore.networks.tagger_settings import OUTPUT
from lmcore.onnx import tag_scoring
from lmcore.onnx.alone import sizes_of, tried
from lmcore.onnx.graph import Graph
from lmcore.onnx.layers import LayerGraph
from lmcore.onnx.networks import TOKENS_FILE, Network, shown, tensor_info, tokens_text
from lmcore.onnx.products import Products
from lmcore.sentences import Sentences
from lmcore.spelling_layer import Spelling
from lmcore.tagged import TaggedSentences

LETTERS_FILE, TAGS_FILE = "letters.txt", "tags.txt"
DRAWN = 20  # sentences of as many words, where none are given
WORSE = 0.1  # percentage points by which a file's error may be above the bundle's


@dataclass(frozen=True)
class TaggerRecord:
    """What was exported, and what a process found that read nothing but the files: the error of
    model.onnx on so many `tokens`, beside the bundle's own."""

    bytes: dict[str, int]  # file -> its size
    compressed_bytes: dict[str, int]  # file -> its size as it is downloaded, by zlib
    tokens: int
    bundle_error: float
    error: float
    tokens_per_second: float  # a sentence at a time, one thread, in onnxruntime
    integer_activations: bool  # whether products of integers round what they multiply
    operators: dict[str, str]  # site -> the operators that compute with it

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@torch.no_grad()
def export_tagger(
    bundle: Bundle, folder: Path, sentences: TaggedSentences | None = None, error: float = 0.0
) -> TaggerRecord:
    """Write model.onnx, tokens.txt, letters.txt and tags.txt into the folder.

    The file is scored on the `sentences`, on which the bundle has this `error` in percent. Without
    sentences, its answers to some that are drawn are held against the bundle's. Where products of
    integers, which round what they multiply, cost too much, the file multiplies floats.

    Raises UserError where its error is more than `WORSE` above the bundle's, and writes nothing
    then.
    """
    model = bundle.model
    assert isinstance(model, Tagger), "only taggers are written here"
    given = _asked(bundle, model, sentences)
    for integers in (True, False):
        written = tagging(model, integers)
        files = {
            tag_scoring.MODEL: written.data,
            TOKENS_FILE: tokens_text(bundle.vocabulary).encode(),
            LETTERS_FILE: _numbered(model.settings.alphabet, letters.OTHERS),
            TAGS_FILE: _numbered(model.settings.labels, 0),
        }
        found = tried(files, tag_scoring.__file__, given)
        if found["error"] <= error + WORSE:
            break
    else:
        raise UserError(
            f"the exported ONNX file does not answer as the bundle does: error "
            f"{found['error']:.2f}% against {error:.2f}%; nothing was written"
        )
    for name, data in files.items():
        write_atomic(folder / name, data)
    sizes, compressed = sizes_of(files)
    return TaggerRecord(
        bytes=sizes,
        compressed_bytes=compressed,
        tokens=len(given["tags"]),
        bundle_error=error,
        error=found["error"],
        tokens_per_second=found["tokens_per_second"],
        integer_activations=integers,
        operators=written.operators,
    )


def tagging(model: Tagger, integer_activations: bool = True) -> Network:
    """x (N, L) and letters (N, L, 16), both int64, x_lens (N,) int64 -> log_softmax (N, L, tags).

    What stands behind the x_lens tokens of a row plays no part in their tags.
    """
    from onnx import TensorProto

    graph = Graph()
    products = Products(graph, integer_activations)
    ids = graph.op("Transpose", "x", perm=[1, 0])  # (L, N)
    x = _words(graph, products, model, ids)
    for layer, (ahead, back) in zip(model.layers, model.settings.layers_of, strict=True):
        assert isinstance(layer, Bidirectional), "a tagger's layers"
        first = _run(graph, products, layer.ahead, ahead, x)
        turned = graph.op("ReverseSequence", x, "x_lens", batch_axis=1, time_axis=0)
        last = _run(graph, products, layer.back, back, turned)
        last = graph.op("ReverseSequence", last, "x_lens", batch_axis=1, time_axis=0)
        x = graph.op("Concat", first, last, axis=2)
    bias = products.storage.floats(model.output_bias)
    logits = products.matmul(graph, OUTPUT, x, model.output, bias)
    scores = graph.op("LogSoftmax", logits, axis=-1)
    graph.rename(graph.op("Transpose", scores, perm=[1, 0, 2]), "log_softmax")
    data = graph.model(
        [
            tensor_info("x", TensorProto.INT64, ["N", "L"]),
            tensor_info("letters", TensorProto.INT64, ["N", "L", LETTERS]),
            tensor_info("x_lens", TensorProto.INT64, ["N"]),
        ],
        [tensor_info("log_softmax", TensorProto.FLOAT, ["N", "L", len(model.settings.labels)])],
        {"model_type": "tagger"},
    )
    return Network(data, products.operators)


def _words(graph: Graph, products: Products, model: Tagger, ids: str) -> str:
    """What `lmcore.word_layer` makes of the words (L, N): (L, N, width)."""
    read = model.read
    if read.context:
        raise UserError(
            "onnx: a tagger with words.context has no ONNX form; onnx=false leaves it out"
        )
    parts = []
    if read.embedding is not None:
        parts.append(products.rows(graph, sites.EMBEDDING, ids, read.embedding))
    if read.vectors is not None:
        parts.append(products.rows(graph, sites.VECTORS, ids, read.vectors))
    if read.spelling is not None and model.settings.words.letters:
        parts.append(_spelled(graph, products, read.spelling, model.settings.words.letters, ids))
    return graph.op("Concat", *parts, axis=2) if len(parts) > 1 else parts[0]


def _spelled(
    graph: Graph, products: Products, spelling: Spelling, settings: LetterSettings, ids: str
) -> str:
    """What `lmcore.spelling_layer` makes of the letters: (L, N, filters)."""
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
    shape = graph.op("Concat", graph.op("Shape", ids), graph.constant([settings.filters]), axis=0)
    return graph.op("Reshape", best, shape)


def _run(graph: Graph, products: Products, layer: Layer, prefix: str, x: str) -> str:
    """(L, N, in) -> (L, N, width), from a state of zeros."""
    batch = graph.op("Shape", x, start=1, end=2)
    shape = graph.op("Concat", graph.constant([1]), batch, graph.constant([layer.hidden]), axis=0)
    zeros = graph.op("ConstantOfShape", shape)
    named = {name: f"{prefix}.{name}" for name in layer.weights}
    found, _ = LayerGraph(graph, products, layer, named).run(x, [zeros] * layer.cell.states)
    return found


def _asked(bundle: Bundle, model: Tagger, sentences: TaggedSentences | None) -> dict[str, Array]:
    """What `tag_scoring` reads. Without sentences, some are drawn from the vocabulary, and right is
    what the bundle answers."""
    if sentences is None:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(bundle.vocabulary), (DRAWN, DRAWN), generator=generator)
        words = [[bundle.vocabulary.words[id] for id in row] for row in drawn.tolist()]
        made = Sentences.of(words, bundle.vocabulary, model.settings.alphabet)
        sentences = TaggedSentences(made, torch.zeros(drawn.numel(), dtype=torch.int64))
        answers = [model(sentences.batch(torch.tensor([i]))).argmax(1) for i in range(DRAWN)]
        sentences = replace(sentences, tags=torch.cat(answers))
    forms, words_of_it = sentences.sentences.forms, sentences.sentences.words
    return {
        "words": forms.ids[words_of_it].numpy(),
        "letters": forms.letters[words_of_it].numpy(),
        "lengths": sentences.lengths.numpy(),
        "tags": sentences.tags.numpy(),
    }


def _numbered(names: Iterable[str], first: int) -> bytes:
    """A name and its number a line."""
    return "".join(f"{shown(name)} {number}\n" for number, name in enumerate(names, first)).encode()
