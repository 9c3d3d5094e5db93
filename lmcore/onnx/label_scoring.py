"""The error of a file that labels words or texts, of the file alone: onnxruntime and numpy, in a
process of its own.

    python -P lmcore/onnx/label_scoring.py FOLDER SENTENCES.npz

The folder has model.onnx. The sentences stand one after another, of `lengths` (sentences,) tokens:
`words` (tokens,) and, where the file spells its words, `letters` (tokens, 16) are what it reads. So
many labels of each sentence are `asked` (sentences,), and `labels` (asked,) are right. Prints one
JSON document: the error in percent, and the tokens per second on one thread, a sentence at a time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

MODEL = "model.onnx"


def main() -> None:
    import onnxruntime

    folder, given = Path(sys.argv[1]), np.load(sys.argv[2], allow_pickle=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = onnxruntime.InferenceSession(
        str(folder / MODEL), options, providers=["CPUExecutionProvider"]
    )
    words, letters, labels = given["words"], given.get("letters"), given["labels"]
    wrong, started = 0, time.perf_counter()
    ends, asked = np.cumsum(given["lengths"]), np.cumsum(given["asked"])
    begins = ends - given["lengths"], asked - given["asked"]
    for begin, end, first, last in zip(begins[0], ends, begins[1], asked, strict=True):
        sentence = {"x": words[None, begin:end], "x_lens": np.array([end - begin])}
        if letters is not None:
            sentence["letters"] = letters[None, begin:end]
        (scores,) = model.run(["log_softmax"], sentence)
        found = scores.reshape(-1, scores.shape[-1]).argmax(-1)
        wrong += int((found != labels[first:last]).sum())
    seconds = time.perf_counter() - started
    error, speed = 100 * wrong / len(labels), len(words) / seconds
    print(json.dumps({"error": error, "tokens_per_second": speed}))


if __name__ == "__main__":
    main()
