"""How fast an exported model runs against its dense model in PyTorch: a token at a time, batch 1,
one thread, in the same minute.

Seconds are those of this thread's processor, so a busy neighbour costs both less than it costs a
clock on the wall; the two take turns, and medians of their rounds are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import nn

from lmcore import sites
from lmcore.bundle import Bundle
from lmcore.cells import LSTM
from lmcore.evaluation import score
from lmcore.onnx.networks import streaming
from lmcore.onnx.scoring import session

STEPS, WARM = 40, 2  # tokens of a round, and rounds that are not counted
FEWEST = 5  # rounds

Step = Callable[[int], object]  # predicts what follows a word


def onnx_step(data: bytes) -> Step:
    """A token through a streaming file; its state goes from token to token."""
    model = session(data)
    layers, _, hidden = model.get_inputs()[1].shape
    state = [np.zeros((layers, 1, hidden), np.float32)] * 2
    names = ["log_softmax", "next_h0", "next_c0"]

    def step(word: int) -> object:
        given = {"x": np.array([[word]], np.int64), "h0": state[0], "c0": state[1]}
        scores, *state[:] = model.run(names, given)
        return scores

    return step


def torch_step(bundle: Bundle) -> Step:
    """A token through the same model written plainly in PyTorch, of dense matrices in float32:
    nn.Embedding, nn.LSTM, nn.Linear. Other cells than a plain LSTM run as lmpareto runs them."""
    model, settings = bundle.language, bundle.language.settings
    plain = type(settings.cell) is LSTM and not settings.projection
    if not plain or model.decoder_projection is not None or len(set(settings.units)) > 1:
        return lambda word: score(model, torch.tensor([word]), word)
    words, width, hidden = model.words, settings.embedding, settings.units[0]
    embedding, decoder = nn.Embedding(words, width), nn.Linear(hidden, words)
    lstm = nn.LSTM(width, hidden, settings.layers)
    with torch.no_grad():
        embedding.weight.copy_(model.embedding.dense())
        decoder.weight.copy_(model.decoder.dense())
        decoder.bias.copy_(model.decoder_bias.value())
        for index, layer in enumerate(model.layers):
            own = dict(lstm.named_parameters())
            own[f"weight_ih_l{index}"].copy_(layer.weights[sites.INPUT].dense())
            own[f"weight_hh_l{index}"].copy_(layer.weights[sites.RECURRENT].dense())
            own[f"bias_ih_l{index}"].copy_(layer.vectors[sites.BIAS].value())
            own[f"bias_hh_l{index}"].zero_()
    state = [torch.zeros(settings.layers, 1, hidden)] * 2

    @torch.inference_mode()
    def step(word: int) -> object:
        output, (state[0], state[1]) = lstm(embedding(torch.tensor([[word]])), (state[0], state[1]))
        return decoder(output).log_softmax(-1)

    return step


def alternating(
    steps: dict[str, Step], words: int, seconds: float = 2.0, most: int = 1000
) -> dict[str, float]:
    """Tokens per second of each, medians of the rounds that fit into so many seconds of the
    processor, `most` at most."""
    draw = np.random.default_rng(0).integers(words, size=STEPS).tolist()
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        began = time.thread_time()
        for turn in range(most + WARM):
            for name, step in steps.items():
                started = time.thread_time()
                for word in draw:
                    step(word)
                if turn >= WARM:
                    speeds[name].append(STEPS / (time.thread_time() - started))
            if turn >= WARM + FEWEST - 1 and time.thread_time() - began > seconds:
                break
    finally:
        torch.set_num_threads(before)
    return {name: median(found) for name, found in speeds.items()}


def relative_speed(bundle: Bundle, dense: Bundle, seconds: float = 2.0) -> float:
    """Tokens per second of the bundle's model.onnx in onnxruntime, over those of the dense bundle
    in PyTorch: above 1 where the exported model is the faster."""
    steps = {
        "onnx": onnx_step(streaming(bundle.language, bundle.vocabulary).data),
        "dense": torch_step(dense),
    }
    words = min(len(bundle.vocabulary), len(dense.vocabulary))
    found = alternating(steps, words, seconds)
    return found["onnx"] / found["dense"]
