"""What a space can say beyond ranges: lists that grow, conditions, settings for any model."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FixedTrial
from spaces import FINETUNING, MODEL, SITES, STEP, WORDS, asked, distributions, space

from lmcore.errors import UserError
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve
from search.space.space import OWN, Proposal, Space

# --- ordered lists -----------------------------------------------------------------------------

BITS = ["float16", {"kind": "linear", "bits": {"low": 4, "high": 8}}, {"kind": "kmeans", "bits": 2}]
ORDERED: dict[str, Any] = {
    "sites": {"decoder": {"bits": {"ordered": BITS}}},
    "finetuning": {**FINETUNING, "epochs": {"ordered": [0.25, 0.5, 1, 2]}},
}


def test_an_ordered_list_is_asked_for_by_place() -> None:
    one = space(**ORDERED)
    for parameters, recipe in asked(one, 30):
        index = parameters["decoder.bits"]
        assert recipe.sites["decoder"].bits.kind == ("float16", "linear", "kmeans")[index]
        assert ("decoder.bits.linear.bits" in parameters) == (index == 1)
        assert recipe.finetuning
        assert recipe.finetuning.epochs == (0.25, 0.5, 1, 2)[parameters["finetuning.epochs"]]
    found = distributions(one)
    assert found["finetuning.epochs"] == IntDistribution(0, 3)
    assert found["decoder.bits"] == IntDistribution(0, 2)


def test_a_tie_at_an_ordered_list_shares_the_place() -> None:
    levels = {"ordered": [0.0, 0.5, 0.9], "tie": "zeros"}
    for parameters, recipe in asked(space(sites={"*": {"sparsity": levels}}), 10):
        assert set(parameters) == {"zeros"}
        assert {site.sparsity for site in recipe.sites.values()} == {
            (0.0, 0.5, 0.9)[parameters["zeros"]]
        }


def test_a_row_to_start_from_has_the_values_of_ordered_lists() -> None:
    one = space(**ORDERED)
    row = {"finetuning.epochs": 2, "decoder.bits": "linear", "decoder.bits.linear.bits": 5}
    begun = one.start(row)
    assert begun == {"finetuning.epochs": 3, "decoder.bits": 1, "decoder.bits.linear.bits": 5}
    recipe = one.suggest(FixedTrial(begun)).recipe
    assert recipe.sites["decoder"].bits.plain()["bits"] == 5
    assert recipe.finetuning
    assert recipe.finetuning.epochs == 2
    with pytest.raises(UserError, match=r"start\.finetuning\.epochs: got 3; .*0\.25, 0\.5, 1, 2"):
        one.start({"finetuning.epochs": 3})
    with pytest.raises(UserError, match=r"start\.decoder\.bits: got 1; .*'float16', 'linear'"):
        one.start({"decoder.bits": 1})


# --- conditions --------------------------------------------------------------------------------

RATE = {"low": 1.0, "high": 10.0, "log": True}
SMALL = {"low": 0.001, "high": 0.01, "log": True}
OPTIMIZER = {"choice": ["sgd", "adam"]}


def test_a_range_is_asked_for_where_its_condition_holds_and_otherwise_left_out() -> None:
    clip = {"low": 0.1, "high": 0.4, "when": {"finetuning.optimizer": "sgd"}}
    one = space(finetuning={**FINETUNING, "optimizer": OPTIMIZER, "clip": clip})
    seen = set()
    for parameters, recipe in asked(one, 20):
        optimizer = parameters["finetuning.optimizer"]
        seen.add(optimizer)
        assert ("finetuning.clip" in parameters) == (optimizer == "sgd")
        assert recipe.finetuning
        default = Recipe.model_validate({"finetuning": FINETUNING}).finetuning
        assert default
        assert recipe.finetuning.clip == parameters.get("finetuning.clip", default.clip)
    assert seen == {"sgd", "adam"}


def test_otherwise_is_a_value_or_a_range_of_its_own() -> None:
    sgd = {"finetuning.optimizer": ["sgd"]}
    rate = {**RATE, "when": sgd, "otherwise": SMALL}
    batch = {"low": 4, "high": 8, "when": sgd, "otherwise": 32}
    one = space(finetuning={**FINETUNING, "batch": batch, "rate": rate, "optimizer": OPTIMIZER})
    for parameters, recipe in asked(one, 20):
        assert recipe.finetuning
        if parameters.pop("finetuning.optimizer") == "sgd":
            assert set(parameters) == {"finetuning.rate", "finetuning.batch"}
            assert recipe.finetuning.rate == parameters["finetuning.rate"]
        else:
            assert set(parameters) == {"finetuning.rate.otherwise"}
            assert recipe.finetuning.rate == parameters["finetuning.rate.otherwise"]
            assert recipe.finetuning.batch == 32


def test_a_name_that_begins_with_a_dot_is_of_the_same_site() -> None:
    settings = {
        "sparsity": {"low": 0.1, "high": 0.9, "when": {".structure": "dense"}},
        "structure": {"choice": ["dense", {"kind": "svd", "rank": {"low": 1, "high": 4}}]},
    }
    for template in (settings, {"tie": "all", **settings}):
        one = space(sites={"lstm.*": template})
        for parameters, recipe in asked(one, 10):
            for site in SITES[1:5]:
                prefix = template.get("tie", site)
                dense = parameters[f"{prefix}.structure"] == "dense"
                assert (f"{prefix}.sparsity" in parameters) == dense
                assert (recipe.sites[site].sparsity > 0) == dense


def test_a_condition_may_stand_at_a_site_a_list_and_a_whole_part() -> None:
    one = space(
        layers={"embedding": {"low": 8, "high": 12}, "when": {"biases": "float16"}},
        sites={
            "decoder": {
                "bits": STEP,
                "when": {"finetuning.epochs": [1, 2], "biases": "float16"},
                "otherwise": {"bits": "float16"},
            },
            "embedding": {"bits": STEP, "when": {"finetuning.epochs": 1}},
        },
        biases={"choice": ["float16", "float32"]},
        finetuning={
            **FINETUNING,
            "epochs": {"ordered": [0.5, 1, 2]},
            "when": {"biases": "float16"},
        },
    )
    seen = set()
    for parameters, recipe in asked(one, 60):
        epochs = recipe.finetuning and recipe.finetuning.epochs
        seen.add((recipe.biases.kind, epochs))
        assert (epochs is None) == (recipe.biases.kind == "float32")
        assert (recipe.layers.embedding is None) == (epochs is None)
        assert recipe.sites["decoder"].bits.kind == ("uniform" if epochs in (1, 2) else "float16")
        assert recipe.sites["embedding"].bits.kind == ("uniform" if epochs == 1 else "float32")
        assert ("embedding.bits.step" in parameters) == (epochs == 1)
    assert seen == {("float32", None), ("float16", 0.5), ("float16", 1), ("float16", 2)}


TANGLED: dict[str, Any] = {
    "layers": {
        "projection": {
            "low": 2,
            "high": 10,
            "when": {"finetuning.batch": [4, 8], "finetuning.optimizer": "adam"},
            "otherwise": {"low": 11, "high": 15, "when": {"biases": "linear"}},
        }
    },
    "sites": {
        "*": {
            "sparsity": {"low": 0.1, "high": 0.5, "when": {".structure.svd.rank": [1, 2]}},
            "structure": {
                "choice": ["dense", {"kind": "svd", "rank": {"low": 1, "high": 4}}],
                "when": {"finetuning.optimizer": "adam"},
                "otherwise": {"kind": "svd", "rank": {"low": 2, "high": 3}},
            },
        }
    },
    "finetuning": {
        **FINETUNING,
        "rate": {**RATE, "when": {"finetuning.optimizer": "sgd"}, "otherwise": SMALL},
        "optimizer": {**OPTIMIZER, "when": {"biases.linear.bits": [5, 6]}, "otherwise": "sgd"},
        "batch": {"low": 4, "high": 16, "step": 4},
    },
    "biases": {"choice": ["float16", {"kind": "linear", "bits": {"low": 4, "high": 6}}]},
}


def reversed_at_any_depth(template: Any) -> Any:
    if isinstance(template, dict):
        return {key: reversed_at_any_depth(template[key]) for key in reversed(template)}
    return template


def test_what_is_asked_for_is_what_the_conditions_say_in_whatever_order_it_stands() -> None:
    """Against a slow reading of the same conditions: ask, look at all answers, ask again."""
    one = space(**TANGLED)
    other = space(**reversed_at_any_depth(TANGLED))
    assert set(one.parameters) == set(other.parameters)
    seen = set()
    for parameters, recipe in asked(one, 150):
        assert other.suggest(FixedTrial(parameters)).recipe == recipe
        expected: set[str] = set()
        while True:
            reached = {
                name
                for name, occurrences in one.models["own"].occurrences.items()
                for occurrence in occurrences
                if (occurrence.site is None or occurrence.site in recipe.sites)
                and all(
                    all(n in expected and parameters[n] in v for n, v in c.values.items())
                    != c.unless
                    for c in occurrence.conditions
                )
            }
            if reached == expected:
                break
            expected = reached
        assert set(parameters) == expected
        seen |= expected
    assert seen == set(one.parameters)


def test_every_combination_that_a_condition_asks_for_is_a_corner() -> None:
    """The options of three choices go round together: only two of the eight are met by chance."""
    three = {"a": "sgd", "b": "float16", "c": "at_once"}
    template: dict[str, Any] = {
        "finetuning": {**FINETUNING, "optimizer": {**OPTIMIZER, "tie": "a"}},
        "biases": {"choice": ["float16", "float32"], "tie": "b"},
        "pruning": {"schedule": {"choice": ["cubic", "at_once"], "tie": "c"}},
        "sites": {"decoder": {"sparsity": {"low": 0.1, "high": 0.5, "when": three}}},
    }
    space(**template)
    template["sites"]["decoder"]["sparsity"]["high"] = 1.5
    with pytest.raises(UserError, match=r"space\.sites\.decoder\.sparsity: got 1\.5"):
        space(**template)
    template["sites"]["decoder"]["sparsity"] = {"choice": [0.5], "when": three, "otherwise": 1.5}
    with pytest.raises(UserError, match=r"space\.sites\.decoder\.sparsity: got 1\.5"):
        space(**template)


def test_the_sites_that_only_narrow_layers_have_are_looked_at_with_both_ends() -> None:
    one = {"low": 0.1, "high": 1.5}
    with pytest.raises(UserError, match=r"projection\.sparsity: got 1\.5"):
        space(
            layers={"projection": {"low": 3, "high": 16}}, sites={"*.projection": {"sparsity": one}}
        )


def test_a_row_to_start_from_is_held_to_the_conditions() -> None:
    one = space(**TANGLED)
    row = {"biases": "linear", "biases.linear.bits": 5, "finetuning.optimizer": "adam"}
    assert one.start(row) == row
    with pytest.raises(UserError, match=r"no parameter finetuning\.optimizer"):
        one.start({**row, "biases.linear.bits": 4})


# --- settings for any model --------------------------------------------------------------------

RANK = {"low": 0.02, "high": 1.0, "of": "rank", "log": True}
DEEP = ModelSettings(layers=3, hidden=(24, 16, 8), embedding=16, tied=False)
WIDTHS = {"foreach": "layer", "low": 0.25, "high": 0.75, "of": "units"}


@pytest.mark.parametrize("model", [MODEL, DEEP])
def test_foreach_makes_a_list_of_one_value_a_layer(model: ModelSettings) -> None:
    one = space(model, layers={"projection": WIDTHS})
    names = [f"layers.projection.{layer}" for layer in range(model.layers)]
    assert distributions(one) == dict.fromkeys(names, FloatDistribution(0.25, 0.75))
    for parameters, recipe in asked(one, 20):
        widths = tuple(
            round(parameters[name] * units) for name, units in zip(names, model.units, strict=True)
        )
        saving = Recipe.model_validate({"layers": {"projection": widths}})
        assert recipe.layers == saving.layers.canonical(model, WORDS)
        assert isinstance(recipe.layers.projection, tuple)
    assert len({recipe.layers.projection for _, recipe in asked(one, 20)}) > 1


def test_whatever_is_asked_for_may_be_asked_for_of_each_layer() -> None:
    one = space(layers={"projection": {"foreach": "layer", "ordered": [0, 2, 5], "tie": "w"}})
    assert distributions(one) == dict.fromkeys(["w.0", "w.1"], IntDistribution(0, 2))
    for parameters, recipe in asked(one, 20):
        widths = tuple((0, 2, 5)[parameters[f"w.{layer}"]] for layer in (0, 1))
        assert (recipe.layers.projection or (0, 0)) == widths


def test_a_condition_holds_for_the_list_of_all_layers() -> None:
    one = space(
        layers={"projection": {**WIDTHS, "when": {"biases": "float16"}}},
        biases={"choice": ["float16", "float32"]},
    )
    for parameters, recipe in asked(one, 10):
        projected = recipe.biases.kind == "float16"
        assert len(parameters) == (3 if projected else 1)
        assert (recipe.layers.projection is not None) == projected


def test_foreach_shares_settings_among_the_sites_of_a_layer_or_of_a_kind() -> None:
    zeros = {"sparsity": {"low": 0.1, "high": 0.9}}
    for settings, groups in (
        (
            {"foreach": "layer", **zeros},
            {"*.embedding": 1, "*.0": 2, "*.1": 2, "*.2": 2, "*.decoder": 1},
        ),
        (
            {"foreach": "kind", **zeros},
            {"*.embedding": 1, "*.input": 3, "*.recurrent": 3, "*.decoder": 1},
        ),
        (
            {"foreach": "kind", "tie": "all", **zeros},
            {"all.embedding": 1, "all.input": 3, "all.recurrent": 3, "all.decoder": 1},
        ),
    ):
        one = space(DEEP, sites={"*": settings})
        for parameters, recipe in asked(one, 3):
            shared = [site.sparsity for site in recipe.sites.values()]
            counts = {name: shared.count(value) for name, value in parameters.items()}
            assert counts == {f"{group}.sparsity": count for group, count in groups.items()}


def test_sites_that_layers_make_belong_to_their_layer() -> None:
    one = space(
        layers={"projection": 4},
        sites={"lstm.*": {"tie": "of", "foreach": "layer", "bits": STEP}},
    )
    for parameters, recipe in asked(one, 3):
        assert set(parameters) == {"of.0.bits.step", "of.1.bits.step"}
        assert recipe.sites["lstm.1.projection"] == recipe.sites["lstm.1.input"]


def test_a_dot_names_what_a_group_shares() -> None:
    zeros = {"low": 0.1, "high": 0.9, "when": {".structure": "dense"}}
    structure = {"choice": ["dense", {"kind": "svd", "rank": 2}]}
    one = space(sites={"lstm.*": {"foreach": "kind", "sparsity": zeros, "structure": structure}})
    for parameters, _ in asked(one, 10):
        for kind in ("input", "recurrent"):
            dense = parameters[f"lstm.*.{kind}.structure"] == "dense"
            assert (f"lstm.*.{kind}.sparsity" in parameters) == dense


@pytest.mark.parametrize("model", [MODEL, DEEP])
def test_a_rank_may_be_a_share_of_what_each_site_can_have(model: ModelSettings) -> None:
    one = space(model, sites={"*": {"tie": "all", "structure": {"kind": "svd", "rank": RANK}}})
    assert distributions(one) == {"all.structure.rank": FloatDistribution(0.02, 1.0, log=True)}
    ranks = set()
    for parameters, recipe in asked(one, 30):
        written = {
            site: {"structure": {"kind": "svd", "rank": max(1, round(share * min(shape)))}}
            for share in [parameters["all.structure.rank"]]
            for site, shape in model.site_shapes(WORDS).items()
        }
        assert recipe == resolve(Recipe.model_validate({"sites": written}), model, WORDS)
        ranks |= {site.structure.plain().get("rank") for site in recipe.sites.values()}
    assert len(ranks) > 4


def test_a_share_is_of_the_site_that_the_layers_leave() -> None:
    one = space(
        layers={"embedding": {"low": 4, "high": 16}},
        sites={
            "embedding": {
                "structure": {"kind": "svd", "rank": {"low": 0.5, "high": 0.5, "of": "columns"}}
            }
        },
    )
    for parameters, recipe in asked(one, 20):
        width = parameters["layers.embedding"]
        plain = recipe.sites["embedding"].structure.plain()
        assert plain["rank"] == max(1, round(width / 2))


def test_a_share_of_nothing_is_one() -> None:
    one = space(layers={"embedding": {"low": 0, "high": 0.01, "of": "embedding"}})
    assert [recipe.layers.embedding for _, recipe in asked(one, 3)] == [1, 1, 1]


WRONG: dict[str, tuple[ModelSettings, dict[str, Any], list[str]]] = {
    "foreach of something else": (
        MODEL,
        {"layers": {"projection": {**WIDTHS, "foreach": "kind"}}},
        ["space.layers.projection.foreach", "'kind'", "layer"],
    ),
    "foreach of sites by something else": (
        MODEL,
        {"sites": {"lstm.*": {"foreach": "gate", "sparsity": 0.5}}},
        ["space.sites.lstm.*.foreach", "'gate'", "layer, kind"],
    ),
    "foreach within the settings of a site": (
        MODEL,
        {"sites": {"decoder": {"sparsity": {"foreach": "layer", "low": 0.1, "high": 0.2}}}},
        ["space.decoder.sparsity.foreach", "beside all"],
    ),
    "foreach within foreach": (
        MODEL,
        {"layers": {"projection": {"foreach": "layer", "choice": [WIDTHS]}}},
        ["space.layers.projection.0", "foreach"],
    ),
    "a share above one": (
        MODEL,
        {"layers": {"projection": {**WIDTHS, "high": 8}}},
        ["space.layers.projection.0", "8", "between 0 and 1"],
    ),
    "a share below zero": (
        MODEL,
        {"layers": {"projection": {**WIDTHS, "low": -0.1}}},
        ["space.layers.projection.0", "-0.1", "between 0 and 1"],
    ),
    "a share in steps": (
        MODEL,
        {"layers": {"projection": {**WIDTHS, "step": 1}}},
        ["space.layers.projection.0", "step"],
    ),
    "a share of what a site does not have": (
        MODEL,
        {
            "sites": {
                "*": {"structure": {"kind": "svd", "rank": {"low": 0, "high": 1, "of": "units"}}}
            }
        },
        ["space.embedding.structure.rank.of", "'units'", "rank, rows, columns"],
    ),
    "a share of the units where the layers have unlike numbers of them": (
        DEEP,
        {"layers": {"projection": {"low": 0.2, "high": 0.8, "of": "units"}}},
        ["space.layers.projection.of", "'units'", "embedding"],
    ),
    "one tie over a share and a fraction": (
        MODEL,
        {
            "layers": {"embedding": {"low": 0.1, "high": 0.9, "of": "embedding", "tie": "x"}},
            "sites": {"decoder": {"sparsity": {"low": 0.1, "high": 0.9, "tie": "x"}}},
        },
        ["space.x", "embedding"],
    ),
    "a list of so many widths that another model has": (
        DEEP,
        {"layers": {"projection": [{"low": 2, "high": 5}, 0]}},
        ["layers.projection", "3 in all"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_the_model_is_refused(case: str) -> None:
    model, template, said = WRONG[case]
    with pytest.raises(UserError) as error:
        Space(template, model, WORDS)
    for part in said:
        assert part in str(error.value)


# --- several dense models ----------------------------------------------------------------------

RANGE = {"low": 2, "high": 4}
BOTH = {"choice": ["own", "deep"]}


def two(**template: Any) -> Space:
    return Space({"dense": BOTH, **template}, MODEL, WORDS, {"deep": DEEP})


def proposed(of: Space, trials: int = 30) -> list[tuple[dict[str, Any], Proposal]]:
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    found = []
    for _ in range(trials):
        trial = study.ask()
        proposal = of.suggest(trial)
        found.append((dict(trial.params), proposal))
    return found


def test_the_dense_model_is_chosen_and_the_rest_is_asked_as_it_has_layers_and_sites() -> None:
    settings = {"structure": {"kind": "svd", "rank": RANK}, "sparsity": {"low": 0.1, "high": 0.9}}
    template = {
        "layers": {"projection": WIDTHS},
        "sites": {"lstm.*": {"foreach": "layer", **settings}},
    }
    both = two(**template)
    alone = {"own": Space(template, MODEL, WORDS), "deep": Space(template, DEEP, WORDS)}
    assert next(iter(both.parameters)) == "dense"
    assert both.parameters["dense"].plain() == BOTH
    seen = set()
    for parameters, proposal in proposed(both):
        chosen = parameters.pop("dense")
        seen.add(chosen)
        assert chosen == proposal.dense
        assert alone[chosen].suggest(FixedTrial(parameters)).recipe == proposal.recipe
        assert ("layers.projection.2" in parameters) == (chosen == "deep")
    assert seen == {"own", "deep"}
    assert {corner.dense for corner in both.corners} == {"own", "deep"}


def test_a_space_of_one_model_proposes_the_studys_own() -> None:
    one = space(sites={"*": {"bits": STEP}})
    assert {proposal.dense for _, proposal in proposed(one, 2)} == {"own"}
    assert "dense" not in one.parameters


def test_one_of_the_others_may_be_all_that_is_searched() -> None:
    one = Space({"dense": "deep", "sites": {"*": {"bits": STEP}}}, MODEL, WORDS, {"deep": DEEP})
    ((parameters, proposal),) = proposed(one, 1)
    assert proposal.dense == "deep"
    assert set(proposal.recipe.sites) == set(DEEP.site_shapes(WORDS))
    assert set(parameters) == {f"{site}.bits.step" for site in DEEP.site_shapes(WORDS)}


def test_a_condition_may_be_on_the_dense_model() -> None:
    both = two(
        sites={
            "decoder": {
                "sparsity": {"low": 0.1, "high": 0.9, "when": {"dense": "deep"}},
                "bits": {
                    "kind": "kmeans",
                    "bits": {
                        **{"low": 2, "high": 4},
                        "when": {"dense": ["own"], "biases": "float32"},
                        "otherwise": 6,
                    },
                },
            }
        },
        biases={"choice": ["float16", "float32"]},
    )
    seen = set()
    for parameters, _ in proposed(both):
        own, float32 = parameters["dense"] == "own", parameters["biases"] == "float32"
        seen.add((own, float32))
        assert ("decoder.sparsity" in parameters) == (not own)
        assert ("decoder.bits.bits" in parameters) == (own and float32)
    assert len(seen) == 4


def test_a_parameter_that_only_one_dense_model_has_may_be_a_condition() -> None:
    first = {"lstm.2.input.sparsity": 0.1}
    both = two(
        sites={"lstm.*": {"sparsity": {"low": 0.1, "high": 0.9}}},
        biases={"choice": ["float16"], "when": first, "otherwise": "float32"},
    )
    for parameters, proposal in proposed(both, 10):
        assert proposal.recipe.biases.kind == "float32"
        assert ("lstm.2.input.sparsity" in parameters) == (proposal.dense == "deep")
    deep = {one.recipe.biases.kind for one in both.corners if one.dense == "deep"}
    assert deep == {"float16", "float32"}


def test_a_pattern_may_be_for_one_dense_model_alone() -> None:
    both = two(sites={"lstm.2.*": {"bits": STEP}})
    for parameters, proposal in proposed(both, 10):
        assert (len(parameters) > 1) == (proposal.dense == "deep")
    with pytest.raises(UserError, match="matches no site"):
        two(sites={"lstm.3.*": {"bits": STEP}})


def test_the_dense_model_may_be_an_ordered_list_and_start_with_a_name() -> None:
    one = Space({"dense": {"ordered": ["own", "deep"]}}, MODEL, WORDS, {"deep": DEEP})
    assert one.start({"dense": "deep"}) == {"dense": 1}
    assert one.suggest(FixedTrial({"dense": 1})).dense == "deep"
    with pytest.raises(UserError, match=r"start\.dense: got 'wide'"):
        one.start({"dense": "wide"})


WRONG_MODELS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a dense model that there is not": (
        {"dense": {"choice": ["own", "wide"]}},
        ["space.dense", "wide", "own, deep"],
    ),
    "a dense model that is not chosen": ({}, ["models.deep", "space.dense"]),
    "a dense model from a range": ({"dense": {"low": 1, "high": 2}}, ["space.dense", "own, deep"]),
    "dense models as a list": ({"dense": ["own", "deep"]}, ["space.dense", "own, deep"]),
    "a dense model under a condition": (
        {"dense": {**BOTH, "when": {"biases": "float16"}, "otherwise": "own"}},
        ["space.dense", "own, deep"],
    ),
    "a dense model under another name": (
        {"dense": {**BOTH, "tie": "which"}},
        ["space.dense", "own, deep"],
    ),
    "another parameter of that name": (
        {"dense": BOTH, "biases": {"choice": ["float16"], "tie": "dense"}},
        ["space.dense", "belongs"],
    ),
    "a condition on a dense model that there is not": (
        {"dense": BOTH, "biases": {"choice": ["float16"], "when": {"dense": "wide"}}},
        ["space.biases.when.dense", "'wide'", "own", "deep"],
    ),
    "a rank that one of them cannot have": (
        {
            "dense": BOTH,
            "sites": {
                "lstm.2.input": {"structure": {"kind": "svd", "rank": {**RANGE, "high": 17}}}
            },
        },
        ["dense deep", "lstm.2.input.structure.rank", "17"],
    ),
    "two ranges under one name": (
        {
            "dense": BOTH,
            "biases": {
                "kind": "linear",
                "bits": {
                    **{**RANGE, "tie": "bits", "when": {"dense": "own"}},
                    "otherwise": {**RANGE, "high": 8, "tie": "bits"},
                },
            },
        },
        ["space.bits", "'high': 4", "'high': 8"],
    ),
}


@pytest.mark.parametrize("case", WRONG_MODELS)
def test_a_wrong_choice_of_dense_models_is_refused(case: str) -> None:
    template, said = WRONG_MODELS[case]
    with pytest.raises(UserError) as error:
        Space(template, MODEL, WORDS, {"deep": DEEP})
    for part in said:
        assert part in str(error.value)


def test_null_undoes_an_inherited_tie() -> None:
    steps = {"kind": "uniform", "step": {"low": 0.3, "high": 3.0}}
    found = space(sites={"lstm.*": {"tie": None, "foreach": None, "bits": steps}}).models[OWN]
    trial = optuna.create_study().ask()
    found.suggest(trial)
    sites = [site for site in MODEL.site_shapes(WORDS) if site.startswith("lstm.")]
    assert {name for name in trial.params if name.endswith("bits.step")} == {
        f"{site}.bits.step" for site in sites
    }
