"""The embedding along its principal axes."""

from __future__ import annotations

import pytest
import torch

from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.corpus import Corpus
from lmcore.evaluation import score
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve

PRINCIPAL = {"layers": {"rotation": "principal"}}


def made(model: ModelSettings, words: int) -> tuple[LanguageModel, LanguageModel, Recipe]:
    """A dense model whose embedding has correlated columns, the same along its axes, the recipe."""
    dense = random_model(model, words, 0.3, torch.Generator().manual_seed(0)).eval()
    mixing = torch.randn(model.embedding, model.embedding, generator=torch.Generator()) * 0.3
    with torch.no_grad():
        table = dense.embedding.leaves["matrix"].data
        table.copy_(table @ mixing)
    recipe = resolve(Recipe.model_validate(PRINCIPAL), model, words)
    return dense, build(dense, recipe).eval(), recipe


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "rhn"])
def test_the_model_computes_what_it_did(tied: bool, kind: str, corpus: Corpus) -> None:
    model = ModelSettings.model_validate(
        {"layers": 2, "hidden": 20, "embedding": 12, "tied": tied, "cell": {"kind": kind}}
    )
    dense, turned, _ = made(model, len(corpus.vocabulary))
    before = score(dense, corpus.valid, corpus.vocabulary.eos).value
    after = score(turned, corpus.valid, corpus.vocabulary.eos).value
    assert after == pytest.approx(before, rel=1e-5)


def test_the_columns_are_uncorrelated_and_ever_shorter() -> None:
    model = ModelSettings(layers=1, hidden=20, embedding=12, tied=True)
    _, turned, _ = made(model, 60)
    table = turned.embedding.dense().detach()
    gram = table.T @ table
    lengths = gram.diagonal()
    assert (gram - lengths.diag()).abs().max() < 1e-4 * lengths[0]
    assert (lengths.diff() < 0).all()


def test_a_tied_embedding_as_wide_as_what_the_decoder_reads_stays() -> None:
    model = ModelSettings(layers=1, hidden=20, embedding=20, tied=True)
    dense, turned, recipe = made(model, 60)
    assert recipe.layers.rotation is None
    assert torch.equal(dense.embedding.dense(), turned.embedding.dense())


def test_a_narrower_embedding_is_turned_after_it_is_made(corpus: Corpus) -> None:
    model = ModelSettings(layers=1, hidden=20, embedding=20, tied=True)
    given = {"layers": {"rotation": "principal", "embedding": 8}}
    recipe = resolve(Recipe.model_validate(given), model, len(corpus.vocabulary))
    dense, _, _ = made(model, len(corpus.vocabulary))
    table = build(dense, recipe, Calibration(dense, corpus.train)).embedding.dense().detach()
    gram = table.T @ table
    assert (gram - gram.diagonal().diag()).abs().max() < 1e-4 * gram.max()
