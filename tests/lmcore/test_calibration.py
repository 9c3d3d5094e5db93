"""Calibration against loops that keep every input and every gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import MakeModel
from torch import Tensor
from torch.nn.functional import cross_entropy

from lmcore import calibration, text_calibration
from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.looped_cells import RHN, RNN, Peephole
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve

WORDS = 60


@pytest.fixture(autouse=True)
def few_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 parts; 50 tokens of each for the moments, 3 windows of 20 for the gradients."""
    monkeypatch.setattr(text_calibration, "STREAMS", 4)
    monkeypatch.setattr(text_calibration, "MOMENT_TOKENS", 50)
    monkeypatch.setattr(calibration, "GRADIENT_SAMPLES", 3)


def model_of(tied: bool, **given: Any) -> LanguageModel:
    settings = {"layers": 2, "hidden": (8, 6), "embedding": 6, "tied": tied, **given}
    generator = torch.Generator().manual_seed(0)
    return random_model(ModelSettings.model_validate(settings), WORDS, 0.5, generator)


def streams_of(text: Tensor, length: int) -> list[list[int]]:
    """The begins of four equal parts."""
    part = len(text) // 4
    return [text[i * part : i * part + length].tolist() for i in range(4)]


def moments(rows: list[Tensor]) -> Tensor:
    return torch.stack([torch.outer(row, row) for row in rows]).mean(0)


def inputs_by_hand(model: LanguageModel, text: Tensor, length: int) -> dict[str, Tensor]:
    """An LSTM word by word, one stream after the other."""
    seen: dict[str, list[Tensor]] = {}
    matrices = {site: weight.dense().detach().double() for site, weight in model.sites.items()}
    biases = {name: leaf.value().detach().double() for name, leaf in model.biases.items()}

    def multiply(site: str, x: Tensor) -> Tensor:
        seen.setdefault(site, []).append(x)
        return matrices[site] @ x

    for stream in streams_of(text, length):
        hidden = [torch.zeros(units, dtype=torch.float64) for units in model.settings.units]
        memory = [h.clone() for h in hidden]
        outputs = [torch.zeros(width, dtype=torch.float64) for width in model.settings.widths]
        for word in stream:
            x = matrices["embedding"][word]
            for layer in range(model.settings.layers):
                z = multiply(f"lstm.{layer}.input", x)
                z = z + multiply(f"lstm.{layer}.recurrent", outputs[layer])
                i, f, g, o = (z + biases[f"lstm.{layer}.bias"]).chunk(4)
                memory[layer] = f.sigmoid() * memory[layer] + i.sigmoid() * g.tanh()
                h = o.sigmoid() * memory[layer].tanh()
                site = f"lstm.{layer}.projection"
                if site in matrices:
                    x = multiply(site, h)
                else:
                    seen.setdefault(site, []).append(h)
                    x = h
                outputs[layer] = x
            if "decoder.projection" in matrices:
                x = multiply("decoder.projection", x)
            multiply("embedding" if model.settings.tied else "decoder", x)
    return {site: moments(rows) for site, rows in seen.items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("projection", [(), (5, 4), (0, 4), (5, 0)], ids=str)
@pytest.mark.parametrize("length", [50, 30])
def test_inputs_against_a_loop(
    tied: bool,
    projection: tuple[int, ...],
    length: int,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the last window is shorter."""
    monkeypatch.setattr(text_calibration, "MOMENT_TOKENS", length)
    model = model_of(tied, projection=projection)
    found = Calibration(model, corpus.train).inputs
    expected = inputs_by_hand(model, corpus.train, length)
    assert set(found) == set(expected)
    for site, value in expected.items():
        torch.testing.assert_close(found[site].double(), value, rtol=1e-4, atol=1e-6)
        if site in model.sites:
            assert found[site].shape == (model.sites[site].shape[1],) * 2
    assert ("embedding" in found) == tied


@pytest.mark.parametrize("cell", [Peephole(), RNN(), RHN(depth=2)], ids=lambda cell: cell.kind)
@pytest.mark.parametrize("projection", [(), (5, 4)], ids=str)
def test_inputs_of_the_other_cells(cell: Any, projection: Any, corpus: Corpus) -> None:
    """Each site's, of its shape, and positive semidefinite."""
    model = model_of(False, cell=cell, projection=projection)
    found = Calibration(model, corpus.train).inputs
    assert set(model.sites) - {"embedding"} <= set(found)
    for site, value in found.items():
        if site in model.sites:
            assert value.shape == (model.sites[site].shape[1],) * 2
        assert torch.linalg.eigvalsh(value.double()).min() > -1e-6
        assert value.trace() > 0


def gradients_by_hand(model: LanguageModel, text: Tensor) -> dict[str, Tensor]:
    """Of each window's mean loss, the state carried but not the gradient."""
    names = dict(model.named_parameters())
    ids = torch.tensor(streams_of(text, 61)).T  # (61, 4)
    state = model.eval().zero_state(4)
    sums = {name: torch.zeros_like(value) for name, value in names.items()}
    for window in range(3):
        part = ids[20 * window : 20 * window + 21]
        hidden, state = model(part[:-1], state)
        z, matrix, bias = model.head(hidden)
        loss = cross_entropy(z @ matrix.T + bias, part[1:].flatten())
        state = [tuple(value.detach() for value in layer) for layer in state]
        for name, gradient in zip(
            names, torch.autograd.grad(loss, list(names.values())), strict=True
        ):
            sums[name] += gradient.square() / 3
    return sums


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_against_a_loop(tied: bool, corpus: Corpus) -> None:
    model = model_of(tied)
    found = Calibration(model, corpus.train).gradients
    expected = gradients_by_hand(model, corpus.train)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-10)
        assert (found[name] >= 0).all()


def test_words_that_are_not_seen_have_no_gradient(corpus: Corpus) -> None:
    """But where the decoder is tied: its softmax sees all words."""
    for tied in (False, True):
        model = model_of(tied)
        text = corpus.train % 40
        site = Calibration(model, text).site("embedding")
        ids = torch.tensor(streams_of(text, 61))
        seen = torch.zeros(WORDS, dtype=torch.bool)
        seen[ids[:, :60].flatten()] = True
        assert 0 < seen.sum() < WORDS
        rows = site.importance().sum(1)
        assert site.importance().shape == model.embedding.shape
        assert (rows[seen] > 0).all()
        assert bool(rows[~seen].any()) == tied
        if not tied:
            assert (Calibration(model, text).site("decoder").importance() > 0).all()


def test_counts_are_of_the_whole_text(corpus: Corpus) -> None:
    calibration = Calibration(model_of(False), corpus.train)
    expected = [corpus.train.tolist().count(word) for word in range(WORDS)]
    for site in ("embedding", "decoder"):
        counts = calibration.site(site).counts()
        assert counts is not None
        assert counts.tolist() == expected
    assert calibration.site("lstm.0.input").counts() is None
    short = Calibration(model_of(False), torch.tensor([3, 3, 0]))
    assert short.counts.tolist() == [1, 0, 0, 2, *[0] * (WORDS - 4)]


def test_each_is_computed_when_asked_for_and_once(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    streams = text_calibration._streams

    def counted(text: Tensor, length: int) -> Tensor:
        calls.append(length)
        return streams(text, length)

    monkeypatch.setattr(text_calibration, "_streams", counted)
    model = model_of(False)
    calibration = Calibration(model, corpus.train)
    sites = [calibration.site(name) for name in ("lstm.0.input", "decoder", "embedding")]
    assert calls == []
    assert sites[2].inputs() is None
    assert [site.inputs() is not None for site in sites[:2]] == [True, True]
    assert calls == [50]
    for site in sites:
        site.importance()
    assert calls == [50, 61]
    assert calibration.of(model) is calibration
    assert calibration.of(model_of(True)) is not calibration


def test_the_same_again_and_the_model_stays(corpus: Corpus) -> None:
    model = model_of(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    one, other = Calibration(model, corpus.train), Calibration(model_of(True), corpus.train)
    for first, second in ((one.inputs, other.inputs), (one.gradients, other.gradients)):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    with torch.no_grad():
        assert torch.equal(Calibration(model, corpus.train).gradients["decoder_bias.data"],
                           one.gradients["decoder_bias.data"])  # fmt: skip


@pytest.mark.parametrize("tokens", [1, 5, 21, 39, 40, 79, 81, 200])
def test_short_texts(tokens: int, corpus: Corpus) -> None:
    calibration = Calibration(model_of(False), corpus.train[:tokens])
    assert all(value.isfinite().all() for value in calibration.inputs.values())
    for value in calibration.gradients.values():
        assert value.isfinite().all()
        assert bool(value.any()) == (tokens > 1)


@pytest.mark.parametrize("tokens", [2, 21, 61])  # read as one piece
def test_what_a_compressed_model_lost(tokens: int, corpus: Corpus) -> None:
    """In nats a token: nothing for the dense model, and log V less its loss for zeros alone."""
    dense, zeros = model_of(False), model_of(False)
    with torch.no_grad():
        for value in zeros.parameters():
            value.zero_()
        text = corpus.train[:tokens].unsqueeze(1)
        own, _ = dense.loss(text[:-1], text[1:], dense.zero_state(1))
    calibration = Calibration(dense, text.flatten())
    assert calibration.lost(dense) == 0
    assert calibration.lost(zeros) == pytest.approx(math.log(dense.words) - float(own), rel=1e-5)


def test_without_a_text_it_says_so() -> None:
    calibration = Calibration(model_of(False), None)
    for ask in ("inputs", "gradients", "counts"):
        with pytest.raises(UserError, match="training text"):
            getattr(calibration, ask)


def test_evidence_is_of_the_leaves_that_are_stored(make_model: MakeModel, corpus: Corpus) -> None:
    """Of factors, not of the matrix that they stand for; biases have theirs too."""
    dense = make_model()
    weighted = {"kind": "kmeans", "bits": 3, "weighted": True}
    recipe = Recipe.model_validate(
        {
            "sites": {"*": {"bits": weighted, "structure": {"kind": "svd", "rank": 4}}},
            "biases": weighted,
        }
    )
    recipe = resolve(recipe, dense.settings, dense.words)
    calibration = Calibration(dense, corpus.train)
    model = build(dense, recipe, calibration)
    plain = build(
        dense,
        resolve(
            Recipe.model_validate({"sites": {"*": {"structure": {"kind": "svd", "rank": 4}}}}),
            dense.settings,
            dense.words,
        ),
    )
    expected = calibration.squared_gradients(plain)
    leaves = {
        f"{site}/{name}": leaf
        for site, weight in model.sites.items()
        for name, leaf in weight.leaves.items()
    } | model.biases
    named = {id(value): name for name, value in model.named_parameters()}
    for name, leaf in leaves.items():
        importance = leaf.evidence.importance
        assert importance is not None, name
        assert importance.shape == leaf.data.shape
        torch.testing.assert_close(importance, expected[named[id(leaf.data)]], rtol=1e-3, atol=1e-9)
