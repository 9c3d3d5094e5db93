"""The perplexity of a text, of the files alone: onnxruntime and numpy, in a process of its own.

    python -P lmcore/onnx/scoring.py FOLDER TEXT.npz

The folder has model.onnx and model_nll.onnx. The text has `ids` (tokens,) and `eos`. Prints one
JSON document: the perplexity token by token with the state carried through the text, that of its
sentences each from a new start, and the tokens per second of the first, at batch 1 on one thread.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnxruntime

STREAMING, SENTENCES = "model.onnx", "model_nll.onnx"
LONGEST = 256  # tokens of a sentence; a longer one is cut there, which a text without lines needs
TOKENS = 1024  # of the sentences that are read at once


def session(file: Path | bytes) -> onnxruntime.InferenceSession:
    """The file on one thread, which does not spin while it waits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    data = file if isinstance(file, bytes) else str(file)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def sentences_of(ids: np.ndarray[Any, Any], eos: int) -> list[np.ndarray[Any, Any]]:
    """The text (tokens,) cut behind each eos, which the sentences are given without."""
    ends = np.flatnonzero(ids == eos)
    pieces = np.split(ids, ends + 1)
    found = [piece[:-1] if len(piece) and piece[-1] == eos else piece for piece in pieces[:-1]]
    found += [pieces[-1]] if len(pieces[-1]) else []
    return [
        piece[first : first + LONGEST]
        for piece in found
        for first in range(0, max(1, len(piece)), LONGEST)
    ]


def batches_of(
    sentences: list[np.ndarray[Any, Any]],
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The sentences by length, as x (N, L) and x_lens (N,); what is not theirs is 0."""
    batch: list[np.ndarray[Any, Any]] = []
    for piece in [*sorted(sentences, key=len), None]:
        full = piece is None or (len(batch) + 1) * (len(piece) + 1) > TOKENS
        if batch and full:
            lengths = np.array([len(one) for one in batch], np.int64)
            x = np.zeros((len(batch), int(lengths.max())), np.int64)
            for row, one in zip(x, batch, strict=True):
                row[: len(one)] = one
            yield x, lengths
            batch = []
        if piece is not None:
            batch.append(piece)


def perplexity(nats: float, tokens: int) -> float:
    """exp of the mean; inf where that is more than a float holds."""
    mean = nats / tokens
    return math.exp(mean) if mean < 700 else math.inf


def streamed(file: Path, ids: np.ndarray[Any, Any], eos: int) -> tuple[float, float]:
    """Perplexity and tokens per second; every token is predicted once, the first from eos."""
    model = session(file)
    layers, _, hidden = model.get_inputs()[1].shape
    h = c = np.zeros((layers, 1, hidden), np.float32)
    before, total = eos, 0.0
    started = time.perf_counter()
    for token in ids.tolist():
        x = np.array([[before]], np.int64)
        scores, h, c = model.run(None, {"x": x, "h0": h, "c0": c})
        total -= float(scores[0, token])
        before = token
    return perplexity(total, len(ids)), len(ids) / (time.perf_counter() - started)


def by_sentences(file: Path, ids: np.ndarray[Any, Any], eos: int) -> float:
    """Perplexity of the sentences and their ends."""
    model, found, total = session(file), sentences_of(ids, eos), 0.0
    for x, lengths in batches_of(found):
        (nats,) = model.run(None, {"x": x, "x_lens": lengths})
        total += float(nats.sum(dtype=np.float64))
    return perplexity(total, sum(len(one) + 1 for one in found))


def main() -> None:
    folder, text = Path(sys.argv[1]), np.load(sys.argv[2], allow_pickle=False)
    ids, eos = text["ids"], int(text["eos"])
    streaming, speed = streamed(folder / STREAMING, ids, eos)
    found = {
        "perplexity": streaming,
        "sentence_perplexity": by_sentences(folder / SENTENCES, ids, eos),
        "tokens_per_second": speed,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
