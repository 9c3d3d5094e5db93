"""Layers reshaped: the shared projection, the reduced embedding, and recipes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from test_cells import WORDS, every_cell, ids_of, logits_of
from test_hidden_units import SHAPES, every_shape, matrices_of, model_of, settings_of
from torch import Tensor

from lmcore import bundle
from lmcore.building import build
from lmcore.calibration import Calibration
from lmcore.cells import LSTM, Cell
from lmcore.compress.embedding import reduce_embedding
from lmcore.compress.projection import project as project_layers
from lmcore.corpus import Corpus, Vocabulary
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.looped_cells import RHN
from lmcore.model import LanguageModel, random_model
from lmcore.model_settings import ModelSettings
from lmcore.recipe import LayerSettings, Recipe, resolve
from lmcore.settings import parse
from lmcore.training import train
from lmcore.training_settings import TrainingSettings

MODEL = ModelSettings(layers=2, hidden=24, embedding=24, tied=False)
TIED = MODEL.model_copy(update={"tied": True})


def resolved(model: ModelSettings = MODEL, **given: Any) -> Recipe:
    return resolve(parse(Recipe, given, "recipe"), model, WORDS)


def layers_of(model: ModelSettings = MODEL, **given: Any) -> LayerSettings:
    return resolved(model, layers=given).layers


def project(
    model: LanguageModel, widths: tuple[int, ...], calibration: Calibration
) -> LanguageModel:
    """The model with projections of these widths, one a layer, 0 for none."""
    named = zip(model.settings.projectable, widths, strict=True)
    return project_layers(model, {name: width for name, width in named if width}, calibration)


def readers(settings: ModelSettings, layer: int) -> list[str]:
    """The sites whose columns read the output of a layer."""
    prefix, shapes = settings.cell.prefix, settings.site_shapes(WORDS)
    found = [site for site in shapes if site.startswith(f"{prefix}.{layer}.recurrent")]
    if layer + 1 < settings.layers:
        return [*found, f"{prefix}.{layer + 1}.input"]
    after = ("decoder", "decoder.projection", "embedding")
    return [*found, next(site for site in after if site in shapes)]


def in_a_subspace(model: LanguageModel, sites: list[str], rank: int, seed: int) -> None:
    """Let matrices see so many directions of their input only, the same ones."""
    generator = torch.Generator().manual_seed(seed)
    columns = model.sites[sites[0]].shape[1]
    basis, _ = torch.linalg.qr(torch.randn(columns, rank, generator=generator))
    with torch.no_grad():
        for site in sites:
            matrix = matrices_of(model)[site]
            matrix.copy_(matrix @ basis @ basis.T)


def assert_whole(model: LanguageModel, vocabulary: Vocabulary, folder: Path) -> None:
    """Its matrices are those that its settings say, and its file is the model."""
    assert {s: w.shape for s, w in model.sites.items()} == model.settings.site_shapes(WORDS)
    bundle.save(folder / "model.lmb", model, vocabulary)
    again = bundle.load(folder / "model.lmb").language
    assert torch.equal(logits_of(again, ids_of(8, 3)), logits_of(model, ids_of(8, 3)))


# --- Projection ----------------------------------------------------------------------------------


@every_cell
@every_shape
def test_a_projection_of_what_is_read_changes_nothing(
    cell: Cell, shape: str, corpus: Corpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """All that follows a layer sees a subspace: the projection finds it, whatever is there."""
    model = model_of(settings_of(shape, cell))
    settings = model.settings
    widths = tuple(width - 1 for width in settings.widths)
    for layer, width in enumerate(widths):
        in_a_subspace(model, readers(settings, layer), width, seed=layer)
    before = logits_of(model, ids_of(8, 3))
    projected = project(model, widths, Calibration(model, corpus.train))
    assert projected.settings.widths == widths
    torch.testing.assert_close(logits_of(projected, ids_of(8, 3)), before, rtol=1e-3, atol=1e-4)
    assert_whole(projected, vocabulary, tmp_path)


@every_cell
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_wider_projection_is_nearer_to_the_dense_model(
    cell: Cell, tied: bool, corpus: Corpus
) -> None:
    model = model_of(ModelSettings(layers=2, hidden=12, embedding=12, tied=tied, cell=cell))
    before = logits_of(model, ids_of(30, 3))
    calibration = Calibration(model, corpus.train)
    errors = [
        float((logits_of(project(model, (w, w), calibration), ids_of(30, 3)) - before).norm())
        for w in (2, 6, 11)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.2 * float(before.norm())


@every_shape
@pytest.mark.parametrize("cell", [LSTM(), RHN(depth=2)], ids=["lstm", "rhn"])
def test_the_projection_is_the_best_map(shape: str, cell: Cell, corpus: Corpus) -> None:
    """Not worse than principal components or random maps, each with the best way back."""
    model = model_of(settings_of(shape, cell))
    settings, calibration = model.settings, Calibration(model, corpus.train)
    for layer, have in enumerate(settings.widths):
        width = have - 2
        asked = tuple(width if index == layer else 0 for index in range(settings.layers))
        after = project(model, asked, calibration)
        own = f"{cell.prefix}.{layer}.projection"
        moments = calibration.inputs[own].double()  # of h
        old, new = (
            {site: value.detach() for site, value in matrices_of(one).items()}
            for one in (model, after)
        )
        if own in old:  # what is read is P h
            moments = old[own].double() @ moments @ old[own].double().T
        moments = moments + 1e-3 * moments.diagonal().mean() * torch.eye(have)
        sites = readers(settings, layer)
        stacked = torch.cat([old[s].double() / old[s].double().norm() for s in sites])
        root = torch.linalg.cholesky(moments)

        def error(back: Tensor, there: Tensor) -> float:
            return float(((stacked - back @ there) @ root).square().sum())  # noqa: B023

        def least(there: Tensor) -> float:
            back = moments @ there.T @ torch.linalg.inv(there @ moments @ there.T)  # noqa: B023
            return error(stacked @ back, there)  # noqa: B023

        narrow = new[own].double()
        if own in old:
            narrow = narrow @ torch.linalg.pinv(old[own].double())
        _, vectors = torch.linalg.eigh(moments)
        generator = torch.Generator().manual_seed(layer)
        others = [vectors[:, -width:].T]
        others += [
            torch.randn(width, have, generator=generator, dtype=torch.float64) for _ in range(20)
        ]
        ours = least(narrow)
        assert ours <= min(map(least, others)) * (1 + 1e-6)
        if sites[-1] not in ("embedding", "decoder.projection"):  # these may be folded
            backs = [new[s].double() / old[s].double().norm() for s in sites]
            assert error(torch.cat(backs), narrow) == pytest.approx(ours, rel=1e-3)


def test_layers_of_width_zero_stay(corpus: Corpus) -> None:
    model = model_of(settings_of("untied", LSTM()))
    after = project(model, (0, 3), Calibration(model, corpus.train))
    assert after.settings.projection == (0, 3)
    assert "lstm.0.projection" not in after.sites
    for site in ("embedding", "lstm.0.input", "lstm.0.recurrent", "lstm.1.input"):
        assert torch.equal(after.sites[site].dense(), model.sites[site].dense())


def test_a_layer_that_nothing_reads_can_be_projected(corpus: Corpus) -> None:
    """As group Lasso may leave it."""
    model = model_of(settings_of("untied", LSTM()))
    with torch.no_grad():
        for site in readers(model.settings, 0):
            matrices_of(model)[site].zero_()
    before = logits_of(model, ids_of(8, 3))
    after = project(model, (3, 0), Calibration(model, corpus.train))
    torch.testing.assert_close(logits_of(after, ids_of(8, 3)), before)


# --- Embedding -----------------------------------------------------------------------------------


@every_cell
@every_shape
def test_an_embedding_at_full_size_is_exact(
    cell: Cell, shape: str, corpus: Corpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    model = model_of(settings_of(shape, cell))
    before, size = logits_of(model, ids_of(8, 3)), model.settings.embedding
    after = reduce_embedding(model, size, Calibration(model, corpus.train))
    torch.testing.assert_close(logits_of(after, ids_of(8, 3)), before, rtol=1e-3, atol=1e-4)
    assert_whole(after, vocabulary, tmp_path)


@every_cell
@every_shape
def test_an_embedding_of_lower_rank_is_found(
    cell: Cell, shape: str, corpus: Corpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    model = model_of(settings_of(shape, cell))
    size = model.settings.embedding - 1
    in_a_subspace(model, ["embedding"], size, seed=0)
    before = logits_of(model, ids_of(8, 3))
    after = reduce_embedding(model, size, Calibration(model, corpus.train))
    assert after.settings.embedding == size
    torch.testing.assert_close(logits_of(after, ids_of(8, 3)), before, rtol=1e-3, atol=1e-4)
    assert_whole(after, vocabulary, tmp_path)


@every_cell
@pytest.mark.parametrize("hidden", [9, (7, 9)], ids=["equal", "unequal"])
def test_a_tied_embedding_as_wide_as_the_projection_needs_no_more(
    cell: Cell, hidden: Any, corpus: Corpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    settings = ModelSettings(layers=2, hidden=hidden, embedding=9, tied=True, cell=cell)
    model = model_of(settings)
    in_a_subspace(model, readers(settings, 1), 6, seed=0)
    before = logits_of(model, ids_of(8, 3))
    calibration = Calibration(model, corpus.train)
    after = project(model, (0, 6), calibration)
    after = reduce_embedding(after, 6, calibration.of(after))
    assert "decoder.projection" not in after.sites
    torch.testing.assert_close(logits_of(after, ids_of(8, 3)), before, rtol=1e-3, atol=1e-4)
    assert_whole(after, vocabulary, tmp_path)


def test_an_embedding_that_no_unit_reads_can_be_reduced(corpus: Corpus) -> None:
    model = model_of(settings_of("untied", LSTM()))
    with torch.no_grad():
        matrices_of(model)["lstm.0.input"].zero_()
    before = logits_of(model, ids_of(8, 3))
    after = reduce_embedding(model, 2, Calibration(model, corpus.train))
    torch.testing.assert_close(logits_of(after, ids_of(8, 3)), before)


@pytest.mark.slow
@every_cell
@pytest.mark.parametrize("start", ["random", "dense"])
def test_a_tied_embedding_narrower_than_the_layers_learns(
    cell: Cell, start: str, corpus: Corpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    size = {"layers": 1, "hidden": 24, "tied": True, "cell": cell}
    if start == "random":
        model = random_model(
            ModelSettings.model_validate({**size, "embedding": 12}),
            *(WORDS, 0.2, torch.Generator().manual_seed(0)),
        )
    else:
        wide = ModelSettings.model_validate({**size, "embedding": 24})
        dense = random_model(wide, WORDS, 0.2, torch.Generator().manual_seed(0))
        model = reduce_embedding(dense, 12, Calibration(dense, corpus.train))
    assert model.sites["decoder.projection"].shape == (12, 24)
    before = score(model, corpus.valid, corpus.vocabulary.eos).value
    settings = TrainingSettings.model_validate(
        {
            **{"epochs": 10, "batch": 5, "window": 15, "optimizer": "adam", "rate": 0.01},
            "dropout": {"kind": "sequence", "rate": 0.1},
        }
    )
    train(model, corpus.train, settings, seed=0)
    assert score(model, corpus.valid, corpus.vocabulary.eos).value < 0.6 * before
    assert_whole(model, vocabulary, tmp_path)


# --- What a recipe makes of them -----------------------------------------------------------------


def test_what_would_not_make_the_model_smaller_is_none() -> None:
    for model in (MODEL, TIED):
        assert layers_of(model, projection=24) == LayerSettings()
        assert layers_of(model, projection=[24, 500], embedding=24) == LayerSettings()
        assert layers_of(model, projection=[0, 0], embedding=1000) == LayerSettings()
        assert layers_of(model, projection=23) == LayerSettings()  # P costs more than it saves
        assert layers_of(model, projection=[23, 4]).projection == (0, 4)
        assert layers_of(model, projection=8).projection == (8, 8)
        assert layers_of(model, embedding=8).embedding == 8
        assert resolved(model, layers={"projection": 24}) == resolved(model)
    assert layers_of(embedding=23).embedding == 23
    assert layers_of(TIED, embedding=23) == LayerSettings()  # so does a decoder.projection


def test_projection_and_embedding_of_a_tied_model_are_judged_together() -> None:
    """Alone, 18 of 24 needs a decoder.projection (24, 18), and the embedding one of (18, 24)."""
    assert layers_of(TIED, projection=[0, 18]).projection is None
    both = layers_of(TIED, projection=[0, 18], embedding=18)
    assert (both.projection, both.embedding) == ((0, 18), 18)
    assert both.shape(TIED).weights(WORDS) < TIED.weights(WORDS)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("model", [{}, {"projection": (9, 0)}, {"embedding": 11}])
def test_layers_resolve_to_themselves_and_never_to_a_larger_model(
    tied: bool, model: dict[str, Any]
) -> None:
    settings = MODEL.model_copy(update={"tied": tied, **model})
    for projection in (None, 3, 9, 11, 17, 22, (0, 11), (8, 0), (17, 9), (8, 22)):
        for embedding in (None, 1, 9, 11, 17, 22):
            recipe = resolved(
                settings,
                layers={"projection": projection, "embedding": embedding},
                sites={"*": {"bits": "float16"}},
            )
            assert resolve(recipe, settings, WORDS) == recipe
            assert parse(Recipe, recipe.plain()) == recipe
            after = recipe.layers.shape(settings)
            assert list(recipe.sites) == list(after.site_shapes(WORDS))
            assert after.weights(WORDS) <= settings.weights(WORDS)
            assert (after == settings) == (recipe.layers == LayerSettings())


def test_units_that_are_not_trained_are_none() -> None:
    training = {"epochs": 0, "rate": 1, "dropout": {"kind": "element", "rate": 0}}
    units = {"strength": 0.1, "training": training}
    assert layers_of(units=units) == LayerSettings()
    assert layers_of(units={**units, "training": {**training, "epochs": 1}}).units


@pytest.mark.parametrize("widths", [[8], [8, 8, 8], []])
def test_a_wrong_number_of_widths_is_refused(widths: list[int]) -> None:
    with pytest.raises(UserError) as error:
        resolved(layers={"projection": widths})
    for part in ("recipe.layers.projection", str(widths), "one width a layer, 2 in all"):
        assert part in str(error.value)


def test_a_pattern_that_matches_no_site_is_told_those_of_the_reshaped_model() -> None:
    layers = {"projection": [8, 0], "embedding": 12}
    sites = ["embedding", "lstm.0.input", "lstm.0.recurrent", "lstm.0.projection"]
    sites += ["lstm.1.input", "lstm.1.recurrent", "decoder.projection"]
    with pytest.raises(UserError) as error:
        resolved(TIED, layers=layers, sites={"lstm.1.projection": {}})
    assert f"the sites are {', '.join(sites)}" in str(error.value)
    assert "recipe.sites.lstm.1.projection: matches no site" in str(error.value)
    assert list(resolved(TIED, layers=layers, sites={"*.projection": {}}).sites) == sites


def test_a_structure_that_a_reshaped_site_cannot_have_is_dense() -> None:
    """While one that the dense model's cannot have is refused all the same."""
    layers = {"projection": 6, "embedding": 5}
    svd = {"structure": {"kind": "svd", "rank": 10}}
    recipe = resolved(layers=layers, sites={"*": svd})
    assert {site.structure.kind for site in recipe.sites.values()} == {"dense"}
    chain = {"structure": {"kind": "tensor_train", "rank": 2}}
    recipe = resolved(layers=layers, sites={"*": chain})
    assert recipe.sites["lstm.0.projection"].structure.kind == "dense"
    with pytest.raises(UserError, match=r"recipe\.sites\.embedding\.structure\.rank: got 25"):
        resolved(layers=layers, sites={"embedding": {"structure": {"kind": "svd", "rank": 25}}})


def test_a_recipe_that_reshapes_needs_a_text(make_model: MakeModel) -> None:
    for layers in ({"projection": 6}, {"embedding": 6}):
        with pytest.raises(UserError, match="training text"):
            build(make_model(), resolved(layers=layers))


def test_keys_of_recipes_without_layers_stay_what_they_were() -> None:
    assert "layers" not in resolved().plain()
    assert "layers" not in resolved(layers={"projection": 24}).plain()
    assert resolved().key == "4eddf33c9c2d05ea"


# --- The model's own settings --------------------------------------------------------------------


def model_settings(**given: Any) -> ModelSettings:
    size = {"layers": 2, "hidden": 24, "embedding": 24, "tied": False}
    return parse(ModelSettings, {**size, **given}, "model")


def test_equal_sizes_are_one_and_projections_of_nothing_are_none() -> None:
    plain = {"layers": 2, "hidden": 24, "embedding": 24, "tied": False}
    assert model_settings().plain() == plain
    assert model_settings(hidden=[24, 24]) == model_settings(projection=[0, 0]) == model_settings()
    assert model_settings(hidden=[24, 24]).plain() == plain
    assert model_settings(hidden=[24, 16]).plain() == {**plain, "hidden": [24, 16]}
    assert model_settings(hidden=[24, 16]).units == (24, 16)
    assert model_settings(projection=[0, 8]).plain() == {**plain, "projection": [0, 8]}
    assert model_settings(projection=[0, 8]).widths == (24, 8)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"hidden": [24]}, ["model.hidden", "[24]", "one number a layer, 2"]),
        ({"hidden": [24, 24, 24]}, ["model.hidden", "one number a layer, 2"]),
        ({"hidden": []}, ["model.hidden", "[]", "one number a layer, 2"]),
        ({"hidden": [24, 0]}, ["model.hidden", "[24, 0]", "from 1 on"]),
        ({"hidden": 0}, ["model.hidden", "got 0", "from 1 on"]),
        ({"hidden": "wide"}, ["model.hidden", "'wide'", "one a layer"]),
        ({"projection": [8]}, ["model.projection", "[8]", "one number a layer, 2"]),
        ({"projection": [8, -1]}, ["model.projection.1", "-1"]),
        ({"projection": [24, 8]}, ["model", "projection of 24", "24 units"]),
    ],
)
def test_what_is_wrong_with_sizes_is_said(given: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        model_settings(**given)
    assert len(str(error.value).splitlines()) == 1
    for part in parts:
        assert part in str(error.value)


def test_every_shape_is_one_that_settings_allow() -> None:
    for shape in SHAPES:
        settings = settings_of(shape, LSTM())
        assert parse(ModelSettings, settings.plain()) == settings
