"""Recipes: what they resolve to, what they refuse, and that what they build is what is filed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmcore import bundle
from lmcore.building import build
from lmcore.codec import Float16, Float32
from lmcore.compress.codebooks import KMeans
from lmcore.compress.low_rank import SVD
from lmcore.corpus import Vocabulary
from lmcore.errors import UserError
from lmcore.model import LanguageModel
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, SiteSettings, resolve
from lmcore.settings import parse
from lmcore.structure import DenseStructure

MODEL = ModelSettings(layers=2, hidden=24, embedding=24, tied=False)
WORDS = 60
SITES = [
    "embedding",
    *["lstm.0.input", "lstm.0.recurrent", "lstm.1.input", "lstm.1.recurrent"],
    "decoder",
]
FINETUNING = {"epochs": 1, "rate": 1, "dropout": {"kind": "element", "rate": 0}}


def resolved(model: ModelSettings = MODEL, **given: Any) -> Recipe:
    return resolve(parse(Recipe, given, "recipe"), model, WORDS)


def logits(model: LanguageModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        hidden, _ = model.eval()(ids, model.zero_state(ids.shape[1]))
        z, matrix, bias = model.head(hidden)
        return z @ matrix.T + bias


def bits_of(recipe: Recipe) -> dict[str, int]:
    """The k-means bits of each site; 32 for a float."""
    codecs = {site: settings.bits for site, settings in recipe.sites.items()}
    return {s: codec.bits if isinstance(codec, KMeans) else 32 for s, codec in codecs.items()}


def kmeans(bits: int) -> dict[str, Any]:
    return {"bits": {"kind": "kmeans", "bits": bits}}


def test_exact_name_goes_before_patterns_and_patterns_in_order() -> None:
    sites = {
        "lstm.*.input": kmeans(2),
        "lstm.*": kmeans(3),
        "lstm.1.*": kmeans(4),
        "lstm.1.input": kmeans(5),
        "decoder": kmeans(6),
    }
    assert bits_of(resolved(sites=sites)) == dict(zip(SITES, [32, 2, 3, 5, 3, 6], strict=True))
    assert bits_of(resolved(sites={"*": kmeans(1), "lstm.*": kmeans(7)})) == dict.fromkeys(SITES, 1)


def test_what_nothing_matches_stays_dense_in_float32() -> None:
    recipe = resolved()
    assert list(recipe.sites) == SITES
    plain = SiteSettings(structure=DenseStructure(), sparsity=0, bits=Float32())
    assert all(settings == plain for settings in recipe.sites.values())
    assert recipe.biases == Float16()
    assert "decoder" not in resolved(MODEL.model_copy(update={"tied": True})).sites


def test_rank_at_break_even_is_dense_and_below_it_stays() -> None:
    """96 x 24: rank r holds 120 r numbers, the matrix 2304 = 120 x 19.2."""
    for rank, structure in ((19, SVD(rank=19)), (20, DenseStructure())):
        site = {"structure": {"kind": "svd", "rank": rank}}
        assert resolved(sites={"lstm.0.input": site}).sites["lstm.0.input"].structure == structure
    square = MODEL.model_copy(update={"hidden": 2, "embedding": 8})  # 8 x 8 input: exactly at 4
    site = {"structure": {"kind": "svd", "rank": 4}}
    recipe = resolved(square, sites={"lstm.0.input": site})
    assert recipe.sites["lstm.0.input"].structure == DenseStructure()


def test_rank_above_full_rank_names_site_setting_and_shape() -> None:
    site = {"structure": {"kind": "svd", "rank": 25}}
    with pytest.raises(UserError) as error:
        resolved(sites={"lstm.1.*": site})
    for part in ("lstm.1.input", "rank", "25", "96 x 24", "24"):
        assert part in str(error.value)


@pytest.mark.parametrize("bits", [{"kind": "float32"}, {"kind": "uniform", "step": 1.0}])
def test_sparsity_that_zeroes_nothing_is_none(bits: dict[str, Any]) -> None:
    tiny, none = (
        resolved(sites={"*": {"sparsity": sparsity, "bits": bits}}) for sparsity in (1e-6, 0.0)
    )
    assert tiny == none
    half = resolved(sites={"*": {"sparsity": 0.5, "bits": bits}})
    assert all(settings.sparsity == 0.5 for settings in half.sites.values())


def test_equal_models_have_equal_keys_and_unequal_ones_do_not() -> None:
    one = resolved(sites={"lstm.*": kmeans(4)}, finetuning=FINETUNING)
    other = resolved(sites={site: kmeans(4) for site in SITES[1:5]}, finetuning=FINETUNING)
    assert one == other
    assert one.key == other.key
    assert resolve(one, MODEL, WORDS) == one
    assert parse(Recipe, one.plain()) == one
    assert one.key != resolved(sites={"lstm.*": kmeans(3)}, finetuning=FINETUNING).key
    without = resolved(sites={"lstm.*": kmeans(4)}, finetuning={**FINETUNING, "epochs": 0})
    assert without.finetuning is None


def test_keys_of_recipes_without_distillation_stay_what_they_were() -> None:
    """Published measurements are found by them."""
    assert Recipe().key == "ed343fcaaa517fc1"
    assert resolved().key == "4eddf33c9c2d05ea"
    assert resolved(finetuning=FINETUNING).key == "1033d2178d145ecc"
    sites = {"*": {"bits": {"kind": "kmeans", "bits": 4}, "sparsity": 0.5}}
    assert resolved(sites=sites, finetuning=FINETUNING).key == "ddc7010042adc082"


def test_distillation_is_part_of_the_recipe() -> None:
    given = {**FINETUNING, "distillation": {"mix": 0.3}}
    recipe = resolved(finetuning=given)
    assert recipe.plain()["finetuning"]["distillation"] == {"temperature": 2.0, "mix": 0.3}
    assert parse(Recipe, recipe.plain()) == recipe
    assert recipe.key != resolved(finetuning=FINETUNING).key
    assert "distillation" not in resolved(finetuning=FINETUNING).plain()["finetuning"]
    assert resolved(finetuning={**given, "distillation": None}) == resolved(finetuning=FINETUNING)


@pytest.mark.parametrize("name", ["lstm.2.input", "lsmt.*", "Decoder", "*.bias"])
def test_unknown_site_or_pattern_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(UserError) as error:
        resolved(sites={"*": {}, name: {}})
    assert name in str(error.value)
    assert ", ".join(SITES) in str(error.value)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"sites": {"*": {"sparsity": 1.5}}}, ["recipe.sites.*.sparsity", "1.5", "less than 1"]),
        (
            {"sites": {"lstm.0.input": {"structure": {"kind": "svd"}}}},
            ["recipe.sites.lstm.0.input.structure.rank", "missing"],
        ),
        (
            {"sites": {"*": {"structure": {"kind": "svd", "rank": 0}}}},
            ["recipe.sites.*.structure.rank", "got 0; a rank is a whole number from 1 on"],
        ),
        (
            {"sites": {"*": {"bits": {"kind": "kmeans", "bits": 9}}}},
            ["recipe.sites.*.bits.bits", "9", "less than or equal to 8"],
        ),
        ({"sites": {"*": {"bits": 4}}}, ["recipe.sites.*.bits", "4", "kmeans", "uniform"]),
        ({"sites": {"*": {"bits": {"kind": "huff"}}}}, ["recipe.sites.*.bits", "huff", "kmeans"]),
        ({"sites": {"*": {"structure": {"kind": ["dense"]}}}}, ["structure", "dense", "svd"]),
        ({"biases": "int8"}, ["recipe.biases", "'int8'", "float16"]),
        ({"site": {}}, ["recipe.site", "no such setting"]),
        ({"sites": {"*": {"bits": {"kind": "uniform", "step": 1, "st": 2}}}}, ["*.bits.st"]),
        ({"sites": {"*": "dense"}}, ["recipe.sites.*", "'dense'", "dictionary"]),
        (
            {"finetuning": {**FINETUNING, "rate": -1}},
            ["recipe.finetuning.rate", "-1", "greater than 0"],
        ),
        (
            {"finetuning": {**FINETUNING, "distillation": {"mix": -1}}},
            ["recipe.finetuning.distillation.mix", "-1", "greater than or equal to 0"],
        ),
        (
            {"finetuning": {**FINETUNING, "distillation": {"temperature": float("inf")}}},
            ["recipe.finetuning.distillation.temperature", "inf", "finite"],
        ),
    ],
)
def test_message_names_the_setting_what_it_got_and_what_it_takes(
    given: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        parse(Recipe, given, "recipe")
    for part in parts:
        assert part in str(error.value)


def test_message_names_every_wrong_setting() -> None:
    bad = {"sites": {"*": {"sparsity": 2, "bits": {"kind": "uniform", "step": 0}}}, "x": 1}
    with pytest.raises(UserError) as error:
        parse(Recipe, bad, "recipe")
    assert len(str(error.value).splitlines()) == 3


def test_a_step_must_be_a_number() -> None:
    for step in (float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"bits\.step"):
            parse(Recipe, {"sites": {"*": {"bits": {"kind": "uniform", "step": step}}}}, "recipe")


def test_empty_recipe_changes_nothing(dense: LanguageModel) -> None:
    recipe = resolve(Recipe(biases=Float32()), dense.settings, WORDS)
    ids = torch.arange(40).view(20, 2)
    assert torch.equal(logits(build(dense, recipe), ids), logits(dense, ids))


def test_build_leaves_the_dense_model_as_it_is(dense: LanguageModel) -> None:
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    site = {"structure": {"kind": "svd", "rank": 3}, "sparsity": 0.5}
    for sites in ({"*": site}, {"*": kmeans(2) | {"sparsity": 0.5}}, {}):
        model = build(dense, resolved(dense.settings, sites=sites))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
    assert before.keys() == dense.state_dict().keys()
    for name, value in dense.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    "site", [kmeans(3), {"structure": {"kind": "svd", "rank": 4}}, {"sparsity": 0.7}]
)
def test_tied_site_stays_one_weight(
    site: dict[str, Any], make_model: MakeModel, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    dense = make_model(tied=True)
    recipe = resolved(dense.settings, sites={"embedding": site})
    built = build(dense, recipe)
    bundle.save(tmp_path / "tied.lmpb", built, vocabulary)
    loaded = bundle.load(tmp_path / "tied.lmpb").language
    for model in (built, loaded):
        assert list(model.sites) == SITES[:5]
        with torch.no_grad():
            for leaf in model.sites["embedding"].leaves.values():
                leaf.data.mul_(2.0)
        looked_up = model.embedding.rows(torch.arange(WORDS))
        z, matrix = model.decoder.head(torch.eye(24))
        torch.testing.assert_close(looked_up, (z @ matrix.T).T)
        assert not torch.equal(looked_up, dense.embedding.dense())


# --- Whatever the recipe, the file is the model --------------------------------------------------

structures = st.one_of(
    st.just({"kind": "dense"}),
    st.builds(lambda rank: {"kind": "svd", "rank": rank}, st.integers(1, 6)),
)
scopes = st.sampled_from(["matrix", "row"])
codecs = st.one_of(
    st.sampled_from([{"kind": "float32"}, {"kind": "float16"}]),
    st.builds(
        lambda bits, scope: {"kind": "linear", "bits": bits, "scope": scope},
        st.integers(1, 8),
        scopes,
    ),
    st.builds(lambda bits: {"kind": "kmeans", "bits": bits}, st.integers(1, 8)),
    st.builds(
        lambda step, rounding, scope: {
            "kind": "uniform",
            "step": step,
            "rounding": rounding,
            "scope": scope,
        },
        st.floats(0.01, 5.0),
        st.floats(0.0, 1.0),
        scopes,
    ),
)
site_settings = st.fixed_dictionaries(
    {
        "structure": structures,
        "sparsity": st.one_of(st.just(0.0), st.floats(0.0, 0.999)),
        "bits": codecs,
    }
)
patterns = st.sampled_from(["*", "embedding", "lstm.*", "*.recurrent", "lstm.0.input"])
recipes = st.fixed_dictionaries(
    {"sites": st.dictionaries(patterns, site_settings, max_size=4), "biases": codecs}
)


@pytest.mark.slow
@settings(
    max_examples=220,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(given=recipes, tied=st.booleans(), layers=st.sampled_from([1, 1, 1, 2]))
@example(given={"sites": {"*": {"sparsity": 0.999}}}, tied=False, layers=1)
def test_file_is_the_model(
    given: dict[str, Any], tied: bool, layers: int, make_model: MakeModel, tmp_path: Path
) -> None:
    dense = make_model(tied, layers=layers, hidden=7, words=40)
    vocabulary = Vocabulary(["<eos>", *[f"w{i}" for i in range(39)]])
    recipe = resolve(Recipe.model_validate(given), dense.settings, 40)
    model = build(dense, recipe).eval()
    path, again = tmp_path / "a.lmpb", tmp_path / "b.lmpb"
    size = bundle.save(path, model, vocabulary)
    assert size <= bundle.packed_size(recipe, dense.settings, vocabulary)
    loaded = bundle.load(path)
    assert loaded.size_bytes == size == path.stat().st_size
    assert loaded.vocabulary.words == vocabulary.words
    ids = torch.arange(24).view(12, 2)
    assert torch.equal(logits(loaded.language, ids), logits(model, ids))
    bundle.save(again, loaded.model, loaded.vocabulary)
    assert again.read_bytes() == path.read_bytes()
