"""A speech recogniser without a sound model: sherpa-onnx, whose transducer finds the same words
equally likely at every frame, so that its language model alone decides what was said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

FRAMES, CHUNK, RATE = 4, 10, 16_000  # frames that are decoded; features of one; samples a second
_CONTEXT, _WIDTH = 2, 1


def transducer(folder: Path, tokens: int, likely: Sequence[int]) -> dict[str, str]:
    """An encoder for streams and one for whole utterances, a decoder and a joiner that finds the
    tokens `likely` equally likely, and no other; argument of a recogniser -> file."""
    state = [1, "N", _WIDTH]
    metadata = {
        "model_type": "lstm",
        **{"num_encoder_layers": 1, "T": CHUNK, "decode_chunk_len": CHUNK},
        **{"rnn_hidden_size": _WIDTH, "d_model": _WIDTH},
    }
    streaming = [
        helper.make_node("ReduceMean", ["x", "axes"], ["encoder_out"], keepdims=1),
        helper.make_node("Identity", ["h"], ["next_h"]),
        helper.make_node("Identity", ["c"], ["next_c"]),
    ]
    whole = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Tile", ["mean", "times"], ["encoder_out"]),
        helper.make_node("Mul", ["x_lens", "zero"], ["none"]),
        helper.make_node("Add", ["none", "frames"], ["encoder_out_lens"]),
    ]
    decoder = [
        helper.make_node("Cast", ["y"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "last"], ["decoder_out"], keepdims=1),
    ]
    scores = np.full(tokens, -1e4, np.float32)
    scores[list(likely)] = 0
    joiner = [
        helper.make_node("Add", ["encoder_out", "decoder_out"], ["sum"]),
        helper.make_node("Mul", ["sum", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "scores"], ["logit"]),
    ]
    size = {"vocab_size": tokens, "context_size": _CONTEXT}
    axes = {"axes": np.array([1, 2])}
    frames = {
        "times": np.array([1, FRAMES, 1]),
        "zero": np.array(0),
        "frames": np.array(FRAMES),
    }
    _write(
        folder / "streaming.onnx",
        streaming,
        {"x": ["N", CHUNK, 80], "h": state, "c": state},
        {"encoder_out": ["N", 1, _WIDTH], "next_h": state, "next_c": state},
        axes,
        metadata,
    )
    _write(
        folder / "whole.onnx",
        whole,
        {"x": ["N", "T", 80], "x_lens": ["N"]},
        {"encoder_out": ["N", FRAMES, _WIDTH], "encoder_out_lens": ["N"]},
        axes | frames,
        {"model_type": "zipformer2"},
    )
    _write(
        folder / "decoder.onnx",
        decoder,
        {"y": ["N", _CONTEXT]},
        {"decoder_out": ["N", _WIDTH]},
        {"last": np.array([1])},
        size,
    )
    _write(
        folder / "joiner.onnx",
        joiner,
        {"encoder_out": ["N", _WIDTH], "decoder_out": ["N", _WIDTH]},
        {"logit": ["N", tokens]},
        {"nothing": np.zeros(1, np.float32), "scores": scores},
        {},
    )
    return {name: str(folder / f"{name}.onnx") for name in ("decoder", "joiner")}


def heard_streaming(folder: Path, lm: Path, paths: int) -> tuple[str, ...]:
    """The tokens that the recogniser of streams picks with model.onnx."""
    import sherpa_onnx

    recogniser = sherpa_onnx.OnlineRecognizer.from_transducer(
        encoder=str(folder / "streaming.onnx"),
        model_type="lstm",
        lm=str(lm),
        lm_shallow_fusion=True,
        **_common(folder, lm, paths),
    )
    stream = recogniser.create_stream()
    stream.accept_waveform(RATE, np.zeros(RATE, np.float32))
    for _ in range(FRAMES):
        assert recogniser.is_ready(stream)
        recogniser.decode_stream(stream)
    return tuple(recogniser.tokens(stream))


def heard_whole(folder: Path, lm: Path, paths: int) -> tuple[str, ...]:
    """The tokens that the recogniser of whole utterances picks with model_nll.onnx."""
    import sherpa_onnx

    recogniser = sherpa_onnx.OfflineRecognizer.from_transducer(
        encoder=str(folder / "whole.onnx"), lm=str(lm), **_common(folder, lm, paths)
    )
    stream = recogniser.create_stream()
    stream.accept_waveform(RATE, np.zeros(RATE, np.float32))
    recogniser.decode_stream(stream)
    return tuple(stream.result.tokens)


def _common(folder: Path, lm: Path, paths: int) -> dict[str, Any]:
    return {
        "decoder": str(folder / "decoder.onnx"),
        "joiner": str(folder / "joiner.onnx"),
        "tokens": str(lm.parent / "tokens.txt"),
        "num_threads": 1,
        "decoding_method": "modified_beam_search",
        "max_active_paths": paths,
        "lm_scale": 1.0,
    }


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    constants: dict[str, Any],
    metadata: dict[str, Any],
) -> None:
    def values(named: dict[str, list[Any]]) -> list[onnx.ValueInfoProto]:
        whole = ("y", "x_lens", "encoder_out_lens")
        kinds = (TensorProto.FLOAT, TensorProto.INT64)
        return [
            helper.make_tensor_value_info(name, kinds[name in whole], shape)
            for name, shape in named.items()
        ]

    stored = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, values(inputs), values(outputs), stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {name: str(value) for name, value in metadata.items()})
    path.write_bytes(model.SerializeToString())
