"""What is exported predicts as the bundle does: every cell, codec and structure, by onnxruntime."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from test_cells import WIDTHS, every_cell, logits_of, model_of
from test_compositions import (
    TEXT,
    VOCABULARY,
    WORDS,
    compositions,
    dense_of,
    every_composition,
    with_units_gone,
)
from torch import Tensor

from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.cells import Cell
from lmcore.corpus import Vocabulary
from lmcore.errors import UserError
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.onnx import products, scoring
from lmcore.onnx.networks import Network, sentences, streaming, tokens_text
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse


def words_of(count: int) -> Vocabulary:
    return Vocabulary(["<eos>", *[f"w{index}" for index in range(count - 1)]])


def built(dense: LanguageModel, given: dict[str, Any]) -> LanguageModel:
    recipe = resolve(parse(Recipe, given, "recipe"), dense.settings, dense.words)
    ids = torch.randint(dense.words, (240,), generator=torch.Generator().manual_seed(0))
    return build(dense, recipe, Calibration(dense, ids)).eval()


def lstm(words: int, hidden: int, layers: int = 2, tied: bool = False) -> LanguageModel:
    settings = ModelSettings(layers=layers, hidden=hidden, embedding=hidden, tied=tied)
    return random_model(settings, words, 0.3, torch.Generator().manual_seed(0)).eval()


class Streamed:
    """A streaming file as its readers run it."""

    def __init__(self, network: Network) -> None:
        self.session = scoring.session(network.data)
        shape = self.session.get_inputs()[1].shape
        self.layers, self.hidden = int(shape[0]), int(shape[2])

    def run(self, ids: Tensor, state: list[Any] | None = None) -> list[Any]:
        """ids (N, L) -> log_softmax, next_h0, next_c0."""
        zeros = np.zeros((self.layers, len(ids), self.hidden), np.float32)
        h, c = state or [zeros, zeros]
        given = {"x": ids.numpy(), "h0": h, "c0": c}
        return list(self.session.run(["log_softmax", "next_h0", "next_c0"], given))

    def log_softmax(self, ids: Tensor) -> Tensor:
        """ids (time, batch) -> (time, batch, words), token by token."""
        state, found = None, []
        for step in ids:
            scores, *state = self.run(step.unsqueeze(1), state)
            found.append(torch.from_numpy(scores))
        return torch.stack(found)


def difference(model: LanguageModel, vocabulary: Vocabulary, integers: bool = False) -> float:
    """The largest of any log-probability of a short text in two streams."""
    ids = torch.arange(16).view(8, 2) % len(vocabulary)
    ours = logits_of(model, ids).view(8, 2, -1).log_softmax(-1)
    theirs = Streamed(streaming(model, vocabulary, integers)).log_softmax(ids)
    return float((ours - theirs).abs().max())


# --- The two interfaces ---------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("kind", WIDTHS)
def test_a_token_at_a_time(cell: Cell, kind: str) -> None:
    model, vocabulary = model_of(cell, kind), words_of(60)
    streamed = Streamed(streaming(model, vocabulary))
    assert streamed.hidden == (14 if kind != "plain" else 8)
    ids = torch.arange(12).view(6, 2)
    wanted = logits_of(model, ids).view(6, 2, -1).log_softmax(-1)
    assert (streamed.log_softmax(ids) - wanted).abs().max() < 2e-5
    # several tokens at once: the scores after the first, the states after the last
    scores, h, c = streamed.run(ids.T.contiguous())
    one, *state = streamed.run(ids[:1].T.contiguous())
    for step in ids[1:]:
        _, *state = streamed.run(step.unsqueeze(1), state)
    np.testing.assert_allclose(scores, one, atol=2e-5)
    np.testing.assert_allclose(h, state[0], atol=2e-5)
    np.testing.assert_allclose(c, state[1], atol=2e-5)


@every_cell
def test_a_sentence_at_once(cell: Cell) -> None:
    model, vocabulary = model_of(cell, "projected", tied=True), words_of(60)
    session = scoring.session(sentences(model, vocabulary).data)
    x, lengths = torch.arange(1, 16).view(3, 5), [5, 2, 0]
    (nll,) = session.run(["nll"], {"x": x.numpy(), "x_lens": np.array(lengths)})
    for row, length, nats in zip(x, lengths, nll, strict=True):
        whole = torch.cat([torch.tensor([0]), row[:length], torch.tensor([0])])
        scores = logits_of(model, whole[:-1, None]).view(length + 1, -1).log_softmax(-1)
        assert nats == pytest.approx(-float(scores[range(length + 1), whole[1:]].sum()), rel=1e-5)


def test_the_interface_is_the_recognisers() -> None:
    import onnx

    model, vocabulary = lstm(30, 8), words_of(30)
    for network, inputs, outputs in (
        (streaming(model, vocabulary), ["x", "h0", "c0"], ["log_softmax", "next_h0", "next_c0"]),
        (sentences(model, vocabulary), ["x", "x_lens"], ["nll"]),
    ):
        file = onnx.load_from_string(network.data)
        onnx.checker.check_model(file)
        assert [one.name for one in file.graph.input] == inputs
        assert [one.name for one in file.graph.output] == outputs
        assert {one.key: one.value for one in file.metadata_props} == {
            "model_type": "rnnlm",
            **{"sos_id": "0", "eos_id": "0", "vocab_size": "30", "num_layers": "2"},
            **{"hidden_size": "8", "embedding_dim": "8"},
        }
    assert tokens_text(Vocabulary(["a", " ", "\t", "<eos>"])) == "a 0\n  1\n<0x09> 2\n<eos> 3\n"


def test_the_same_model_gives_the_same_files() -> None:
    model, vocabulary = lstm(30, 8), words_of(30)
    assert streaming(model, vocabulary) == streaming(model, vocabulary)


# --- Every composition ---------------------------------------------------------------------------


def check(given: dict[str, Any], cell: Cell, sizes: dict[str, Any], seed: int) -> None:
    dense = dense_of(cell, sizes, seed)
    try:
        recipe = resolve(parse(Recipe, given, "recipe"), dense.settings, WORDS)
    except UserError:
        return
    start = with_units_gone(dense, seed) if recipe.layers.units else dense
    model = build(start, recipe, Calibration(start, TEXT)).eval()
    assert difference(model, VOCABULARY) < 1e-4
    # integers multiply integers: what they round is a 255th of the largest of their inputs
    assert difference(model, VOCABULARY, integers=True) < 0.3


@pytest.mark.slow
@compositions(int(os.environ.get("LMPARETO_RECIPES", "25")))
@every_composition
def test_a_composition_is_exported(
    given: dict[str, Any], cell: Cell, sizes: dict[str, Any], seed: int
) -> None:
    before, products.LEAST = products.LEAST, 1
    try:
        check(given, cell, sizes, seed)
    finally:
        products.LEAST = before
