"""Layers of other networks than language models, reshaped: projections, embeddings, axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_classified import DATA
from test_fewer_units import SHAPES, Case, case, every_kind, groups_of, kill

from lmcore import bundle
from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.compress.embedding import reduce_embedding
from lmcore.compress.hidden_units import remove_units
from lmcore.compress.projection import project
from lmcore.compress.rotation import with_principal_axes
from lmcore.errors import UserError
from lmcore.network import Network
from lmcore.network_settings import NetworkSettings
from lmcore.networks.classifier_settings import ClassifierSettings
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from lmcore.units import Slice
from lmcore.word_settings import WordSettings

__all__ = ["case"]  # a fixture
with_embedding = pytest.mark.parametrize("kind", [one for one in SHAPES if one != "reader"])
PROJECTABLE = ["tagger", "highway tagger", "reader", "bilm"]  # the others read units one by one
with_projection = pytest.mark.parametrize("kind", PROJECTABLE)
WIDTH = 2


def assert_fits(network: Network, case: Case) -> None:
    words = len(case.vocabulary)
    assert {s: w.shape for s, w in network.sites.items()} == network.settings.site_shapes(words)
    shapes = {name: leaf.shape for name, leaf in network.biases.items()}
    assert shapes == network.settings.bias_shapes(words)


def matrix_of(network: Network, one: Slice) -> Any:
    return network.sites[one.site].leaves["matrix"].data


@with_projection
@torch.no_grad()
def test_a_projection_of_what_is_read_changes_nothing(kind: str, case: Case) -> None:
    network, generator = case.network, torch.Generator().manual_seed(0)
    settings: NetworkSettings = network.settings
    for layer, count in settings.projectable.items():
        inner = torch.linalg.qr(torch.randn(count, WIDTH, generator=generator))[0]
        for one in settings.readers[layer]:
            blocks = [
                block @ inner @ inner.T for block in one.blocks(matrix_of(network, one), count)
            ]
            matrix_of(network, one).copy_(one.replaced(matrix_of(network, one), count, blocks))
    before = case.losses(network)
    calibration = Calibration(network, case.examples)
    narrow = project(network, dict.fromkeys(settings.projectable, WIDTH), calibration)
    assert set(narrow.settings.projectable.values()) == {WIDTH}
    assert_fits(narrow, case)
    torch.testing.assert_close(case.losses(narrow), before, rtol=1e-4, atol=1e-4)
    again = project(narrow, dict.fromkeys(settings.projectable, 1), calibration.of(narrow))
    assert_fits(again, case)
    assert set(again.settings.projectable.values()) == {1}


@with_embedding
@torch.no_grad()
def test_an_embedding_of_lower_rank_is_found(kind: str, case: Case) -> None:
    network = case.network
    table = network.sites["embedding"].leaves["matrix"].data
    left, sizes, right = torch.linalg.svd(table, full_matrices=False)
    table.copy_(left[:, :WIDTH] * sizes[:WIDTH] @ right[:WIDTH])
    before = case.losses(network)
    narrow = reduce_embedding(network, WIDTH, Calibration(network, case.examples))
    assert narrow.settings.sizes["embedding"] == WIDTH
    assert_fits(narrow, case)
    torch.testing.assert_close(case.losses(narrow), before, rtol=1e-4, atol=1e-4)


@with_embedding
@torch.no_grad()
def test_other_axes_change_nothing(kind: str, case: Case) -> None:
    turned = with_principal_axes(case.network)
    before, after = (one.sites["embedding"].dense() for one in (case.network, turned))
    assert not torch.allclose(before, after)
    products = after.T @ after
    torch.testing.assert_close(products, products.diagonal().diag(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(case.losses(turned), case.losses(case.network))


RECIPES: list[dict[str, Any]] = [
    {"projection": 2},
    {"embedding": 3, "rotation": "principal"},
    {"projection": 2, "embedding": 2},
]


@every_kind
@pytest.mark.parametrize("layers", RECIPES, ids=str)
def test_reshaped_layers_are_their_file(
    layers: dict[str, Any], kind: str, case: Case, tmp_path: Path
) -> None:
    wrong = {"embedding", "rotation"} if kind == "reader" else {"projection"}
    if kind == "reader" or kind not in PROJECTABLE:
        layers = {name: value for name, value in layers.items() if name not in wrong}
    given = {"layers": layers, "sites": {"*": {"bits": {"kind": "linear", "bits": 6}}}}
    words = len(case.vocabulary)
    recipe = resolve(parse(Recipe, given, "recipe"), case.network.settings, words)
    assert resolve(recipe, case.network.settings, words) == recipe
    model = build(case.network, recipe, Calibration(case.network, case.examples)).eval()
    assert_fits(model, case)
    bundle.save(tmp_path / "small.lmb", model, case.vocabulary)
    again = bundle.load(tmp_path / "small.lmb").model
    assert again.settings == model.settings
    assert torch.equal(case.losses(again), case.losses(model))


@with_projection
def test_projected_layers_lose_units_too(kind: str, case: Case) -> None:
    network = case.network
    calibration = Calibration(network, case.examples)
    narrow = project(network, dict.fromkeys(network.settings.projectable, 1), calibration)
    for units in groups_of(narrow):
        kill(narrow, units, 1, 2)
    before = case.losses(narrow)
    smaller = remove_units(narrow, embedding=True)
    assert_fits(smaller, case)
    torch.testing.assert_close(case.losses(smaller), before)
    assert smaller.settings.weights(10) < narrow.settings.weights(10)


CONTEXT = parse(WordSettings, {"embedding": 4, "context": {"hidden": 4}})
VECTORS = WordSettings(vectors=4)
WRONG = [
    (VECTORS, {"embedding": 3}, "this network of the kind classifier has no embedding"),
    (VECTORS, {"rotation": "principal"}, "this network of the kind classifier has no embedding"),
    (CONTEXT, {"embedding": 3}, "takes the embedding number by number, a highway or a mixture"),
    (CONTEXT, {"projection": 2}, "in a network of the kind classifier no layer is projected"),
]


@pytest.mark.parametrize(("words", "layers", "said"), WRONG, ids=str)
def test_what_cannot_be_reshaped_is_told(
    words: WordSettings, layers: dict[str, Any], said: str
) -> None:
    shape = ClassifierSettings(hidden=4, pooled=5, words=words).completed(DATA["classifier"])
    with pytest.raises(UserError, match=said):
        resolve(parse(Recipe, {"layers": layers}, "recipe"), shape, 20)


def test_a_width_is_given_for_each_direction_of_each_layer() -> None:
    shape = SHAPES["tagger"]
    with pytest.raises(UserError, match=r"one width a layer, 4 in all"):
        resolve(parse(Recipe, {"layers": {"projection": [1, 2]}}, "recipe"), shape, 20)
    assert list(SHAPES["reader"].projectable) == [
        *("modelling_forward.0", "modelling_backward.0"),  # layer 1 is multiplied unit by unit
        *("ending_forward.0", "ending_backward.0"),
    ]
