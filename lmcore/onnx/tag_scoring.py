"""The error of a tagger's file, of the file alone: onnxruntime and numpy, in a process of its own.

    python -P lmcore/onnx/tag_scoring.py FOLDER SENTENCES.npz

The folder has model.onnx. The sentences stand one after another, of `lengths` (sentences,) tokens:
`words` (tokens,) and `letters` (tokens, 16) are what the file reads, `tags` (tokens,) what is
right. Prints one JSON document: the error in percent, and the tokens per second of a sentence at a
time on one thread.
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
    words, letters, tags = given["words"], given["letters"], given["tags"]
    wrong, started = 0, time.perf_counter()
    ends = np.cumsum(given["lengths"])
    for begin, end in zip(ends - given["lengths"], ends, strict=True):
        sentence = {
            "x": words[None, begin:end],
            "letters": letters[None, begin:end],
            "x_lens": np.array([end - begin]),
        }
        (scores,) = model.run(["log_softmax"], sentence)
        wrong += int((scores[0].argmax(-1) != tags[begin:end]).sum())
    seconds = time.perf_counter() - started
    found = {"error": 100 * wrong / len(tags), "tokens_per_second": len(tags) / seconds}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
