"""Exported models against their dense models in PyTorch: tokens a second, and bytes.

    python -m benchmarks.inference                    the knee of ptb_small
    python -m benchmarks.inference DENSE.lmb OTHER.lmb ...

A token at a time, batch 1, one thread. The dense model is plain PyTorch (nn.Embedding, nn.LSTM,
nn.Linear), the others are their model.onnx in onnxruntime; beside each the same in float32. All
take turns. `floor` is one byte or half a byte a stored code and the words as text: what model.onnx
is held against.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from pathlib import Path

from lmcore.bundle import Bundle, load
from lmcore.compress.quantization import GridCodec
from lmcore.errors import UserError
from lmcore.leaf import Leaf
from lmcore.onnx.networks import streaming, tokens_text
from lmcore.onnx.speed import alternating, onnx_step, torch_step
from lmcore.runtime import prepare

STUDY = Path(__file__).parents[1] / "studies" / "ptb_small"
KNEE = STUDY / "bundles" / "52.lmb"
SECONDS = 10.0


def floor_bytes(bundle: Bundle) -> int:
    """Bytes of the codes as they stand in memory, of 4 bits or 8 or more, and of the words."""
    model, total = bundle.language, 0
    leaves = [leaf for weight in model.sites.values() for leaf in weight.leaves.values()]
    for leaf in [*leaves, *model.biases.values()]:
        for stream in leaf.spec.streams:
            narrow = stream.is_codes and _codes(leaf) <= 16
            bits = 4 if narrow else 8
            total += math.ceil(math.prod(stream.shape) * bits / 8)
    return total + len("\n".join(bundle.vocabulary.words).encode())


def _codes(leaf: Leaf) -> int:
    """From the smallest to the largest; byte planes of floats have as many as a byte."""
    if not isinstance(leaf.codec, GridCodec):
        return 256
    symbols = leaf.codes().symbols
    return int(symbols.max()) - int(symbols.min()) + 1


def main() -> None:
    prepare()
    paths = [Path(path) for path in sys.argv[1:]] or [STUDY / "dense.lmb", KNEE]
    try:
        dense, *others = (load(path) for path in paths)
    except UserError as error:
        sys.exit(f"benchmarks.inference: {error}")
    names = ["/".join(path.parts[-3:]) for path in paths]
    steps = {f"{names[0]}, PyTorch": torch_step(dense)}
    figures: dict[str, dict[str, float]] = {}
    for name, bundle in zip(names, [dense, *others], strict=True):
        data = streaming(bundle.language, bundle.vocabulary).data
        steps[f"{name}, ONNX"] = onnx_step(data)
        floats = streaming(bundle.language, bundle.vocabulary, integer_activations=False).data
        steps[f"{name}, ONNX in float32"] = onnx_step(floats)
        files = len(data) + len(tokens_text(bundle.vocabulary).encode())
        floor = floor_bytes(bundle)
        figures[name] = {
            "bytes": len(data),
            "compressed_bytes": len(zlib.compress(data, 9)),
            "bundle_bytes": bundle.size_bytes,
            "floor_bytes": floor,
            "over_floor": len(data) / floor,
            "with_tokens_over_floor": files / floor,
        }
    speeds = alternating(steps, len(dense.vocabulary), SECONDS)
    slowest = next(iter(speeds.values()))
    for name, speed in speeds.items():
        print(f"{name:50} {speed:9,.0f} tokens/s  {speed / slowest:6.2f} x")
    for name, figure in figures.items():
        print(f"{name:50} {figure['bytes']:9,} bytes, {figure['over_floor']:.3f} x the floor")
    print(json.dumps({"tokens_per_second": speeds, "files": figures}))


if __name__ == "__main__":
    main()
