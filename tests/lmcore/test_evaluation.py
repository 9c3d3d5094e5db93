"""Perplexity against a brute force, and the fused layer against the equations."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from conftest import MakeModel
from torch import Tensor, nn

from lmcore import evaluation
from lmcore.building import build
from lmcore.corpus import Corpus, unigram_perplexity
from lmcore.evaluation import STREAMS, TextComparison, score
from lmcore.model import LanguageModel
from lmcore.recipe import Recipe, resolve
from lmcore.training import train
from lmcore.training_settings import TrainingSettings


@torch.no_grad()
def brute_force(model: LanguageModel, ids: Tensor, eos: int) -> float:
    """One token at a time, `<eos>` first, softmax written out in double precision."""
    model.eval()
    state, before, nats = model.zero_state(1), eos, 0.0
    for token in ids.tolist():
        hidden, state = model(torch.tensor([[before]]), state)
        z, matrix, bias = model.head(hidden)
        logits = (z @ matrix.T + bias).double().flatten()
        nats += float(torch.logsumexp(logits, 0) - logits[token])
        before = token
    return math.exp(nats / len(ids))


@pytest.fixture(scope="module")
def trained(make_model: MakeModel, corpus: Corpus) -> LanguageModel:
    """A model that has learned to use its state: its perplexity tells the order of the words."""
    model = make_model()
    settings = TrainingSettings.model_validate(
        {"epochs": 12, "rate": 0.01, "optimizer": "adam", "clip": 5, "batch": 5, "window": 15}
        | {"dropout": {"kind": "element", "rate": 0}}
    )
    train(model, corpus.train, settings, seed=0)
    return model


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 300])
def test_one_stream_equals_one_token_at_a_time(
    length: int, trained: LanguageModel, corpus: Corpus
) -> None:
    ids, eos = corpus.valid[:length], corpus.vocabulary.eos
    found = score(trained, ids, eos)
    assert found.tokens == length
    assert found.value == pytest.approx(brute_force(trained, ids, eos), rel=1e-5)


@pytest.mark.parametrize("window", [1, 7, 50, 64, 400, 1000])
def test_the_window_changes_no_result(
    window: int, trained: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    eos = corpus.vocabulary.eos
    whole, many = (score(trained, corpus.valid, eos, streams=streams) for streams in (1, 6))
    monkeypatch.setattr(evaluation, "WINDOW", window)
    assert score(trained, corpus.valid, eos).value == pytest.approx(whole.value, rel=1e-5)
    again = score(trained, corpus.valid, eos, streams=6)
    assert again.value == pytest.approx(many.value, rel=1e-5)


def test_the_order_of_the_words_counts(trained: LanguageModel, corpus: Corpus) -> None:
    """So that the comparisons here could fail."""
    eos = corpus.vocabulary.eos
    assert score(trained, corpus.valid, eos).value < 50
    assert score(trained, corpus.valid.flip(0), eos).value > 80


@pytest.mark.parametrize("streams", [2, 3, 7, 16])
def test_streams_with_their_whole_history_equal_one(
    streams: int, trained: LanguageModel, corpus: Corpus
) -> None:
    eos = corpus.vocabulary.eos
    one = score(trained, corpus.valid, eos)
    many = score(trained, corpus.valid, eos, streams=streams, burn_in=len(corpus.valid))
    assert many.tokens == one.tokens
    assert many.value == pytest.approx(one.value, rel=1e-5)


def test_a_usual_burn_in_comes_close(trained: LanguageModel, corpus: Corpus) -> None:
    eos = corpus.vocabulary.eos
    one, warm, cold = (
        score(trained, corpus.valid, eos, streams=streams, burn_in=burn_in).value
        for streams, burn_in in ((1, 0), (4, 64), (4, 0))
    )
    assert warm == pytest.approx(one, rel=5e-4)
    assert abs(warm - one) < abs(cold - one)


@pytest.mark.parametrize("streams", [1, 2, 3, 7, 11, 40, 100, 150])
def test_every_token_is_predicted_once(streams: int, make_model: MakeModel, corpus: Corpus) -> None:
    """With no state and no input to the softmax, the perplexity is that of a unigram model."""
    model = make_model()
    with torch.no_grad():
        model.decoder.leaves["matrix"].data.zero_()
        model.decoder_bias.data.copy_(torch.linspace(-2, 2, 60))
    ids = corpus.valid[:101]
    nats = -torch.linspace(-2, 2, 60).double().log_softmax(0)[ids].mean()
    found = score(model, ids, corpus.vocabulary.eos, streams=streams, burn_in=5)
    assert found.value == pytest.approx(math.exp(nats), rel=1e-5)
    assert found.tokens == 101


def test_a_unigram_model_knows_frequencies_alone() -> None:
    """Of three words, the training text has a twice, b once and c never: 3, 2 and 1 of 6."""
    found = unigram_perplexity(torch.tensor([0, 0, 1]), torch.tensor([0, 2]), words=3)
    assert found == pytest.approx(math.sqrt(2 * 6))


def test_dropout_plays_no_part(trained: LanguageModel, corpus: Corpus) -> None:
    before = score(trained, corpus.valid, corpus.vocabulary.eos).value
    trained.train()
    trained.dropout.rate = 0.9
    assert score(trained, corpus.valid, corpus.vocabulary.eos).value == before


def test_a_model_that_is_no_number_has_infinite_perplexity(
    make_model: MakeModel, corpus: Corpus
) -> None:
    model = make_model()
    for spoiled in (math.nan, 1e30):
        with torch.no_grad():
            model.decoder_bias.data[3] = spoiled
        assert score(model, corpus.valid, corpus.vocabulary.eos).value == math.inf


# --- a model and a base --------------------------------------------------------------------------


@pytest.fixture
def worse(trained: LanguageModel) -> LanguageModel:
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.decoder.leaves["matrix"].data.mul_(0.8)
    return model


def test_a_comparison_of_all_of_a_text_is_the_difference_of_its_scores(
    trained: LanguageModel,
    worse: LanguageModel,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "PRECISE", -1.0)
    monkeypatch.setattr(evaluation, "RELATIVE", 0.0)
    monkeypatch.setattr(evaluation, "WINDOW", 20)
    ids, eos = corpus.valid, corpus.vocabulary.eos
    scores = (score(model, ids, eos, streams=STREAMS).value for model in (trained, worse))
    before, after = map(math.log, scores)
    compare = TextComparison(trained, ids, eos)
    for _ in range(2):
        nats, read = compare(worse)
        assert nats == pytest.approx(after - before)
        assert read == len(ids)


def test_a_comparison_reads_as_far_as_it_needs_and_may(
    trained: LanguageModel,
    worse: LanguageModel,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "WINDOW", 80)
    ids, eos = corpus.valid.repeat(8), corpus.vocabulary.eos
    compare = TextComparison(trained, ids, eos)
    nats, read = compare(worse)
    assert read < len(ids)
    monkeypatch.setattr(evaluation, "PRECISE", -1.0)
    monkeypatch.setattr(evaluation, "RELATIVE", 0.0)
    whole, every = compare(worse)
    assert every == len(ids)
    assert nats == pytest.approx(whole, rel=0.3, abs=0.015)
    _, once = compare(worse, most=1)
    _, twice = compare(worse, most=once + 1)
    assert 0 < once < twice <= once + STREAMS * 80


def test_a_comparison_with_a_model_that_is_no_number_is_infinite(
    trained: LanguageModel, corpus: Corpus
) -> None:
    spoiled = copy.deepcopy(trained)
    with torch.no_grad():
        spoiled.decoder_bias.data[3] = math.nan
    nats, _ = TextComparison(trained, corpus.valid, corpus.vocabulary.eos)(spoiled)
    assert nats == math.inf


# --- The layer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_layer_equals_torch_and_the_equations(compressed: bool, make_model: MakeModel) -> None:
    model = make_model().eval()
    if compressed:
        site = {"structure": {"kind": "svd", "rank": 5}, "bits": {"kind": "kmeans", "bits": 4}}
        recipe = Recipe.model_validate({"sites": {"lstm.*": site}})
        model = build(model, resolve(recipe, model.settings, model.words)).eval()
    layer = model.layers[0]
    w, u = (model.sites[f"lstm.0.{name}"].dense() for name in ("input", "recurrent"))
    b = model.biases["lstm.0.bias"].value()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, 3, 24, generator=generator)
    h, c = (torch.randn(3, 24, generator=generator) for _ in range(2))
    output, (last_h, last_c) = layer(x, (h, c), lambda recurrent: recurrent)
    upstream = torch.randn(7, 3, 24, generator=generator)

    reference = nn.LSTM(24, 24)
    with torch.no_grad():
        for name, value in (("weight_ih_l0", w), ("weight_hh_l0", u), ("bias_ih_l0", b)):
            reference.get_parameter(name).copy_(value)
        reference.get_parameter("bias_hh_l0").zero_()
    theirs, (their_h, their_c) = reference(x, (h.unsqueeze(0), c.unsqueeze(0)))
    torch.testing.assert_close(output, theirs)
    torch.testing.assert_close((last_h, last_c), (their_h[0], their_c[0]))

    by_hand = []
    for step in x:
        i, f, g, o = (step @ w.T + h @ u.T + b).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        by_hand.append(h)
    torch.testing.assert_close(output, torch.stack(by_hand))
    torch.testing.assert_close((last_h, last_c), (h, c))

    leaves = list(layer.parameters())
    ours = torch.autograd.grad((output * upstream).sum(), leaves, retain_graph=True)
    slow = torch.autograd.grad((torch.stack(by_hand) * upstream).sum(), leaves)
    for fast_gradient, slow_gradient in zip(ours, slow, strict=True):
        torch.testing.assert_close(fast_gradient, slow_gradient, rtol=1e-4, atol=1e-5)
