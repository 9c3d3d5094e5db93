"""Spaces: what a trial is asked for, and what is said about a space that is wrong."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial
from spaces import FINETUNING, MODEL, SITES, STEP, WORDS, asked, distributions, space

from lmcore.errors import UserError
from lmcore.model_settings import ModelSettings
from lmcore.recipe import resolve
from search.space.space import Space

# --- what is asked for -----------------------------------------------------------------------


def test_a_range_of_floats_a_range_of_whole_numbers_and_a_choice() -> None:
    one = space(
        sites={"decoder": {"sparsity": {"low": 0.0, "high": 0.5}}},
        biases={"kind": "linear", "bits": {"low": 2, "high": 6}},
        finetuning={
            **FINETUNING,
            "rate": {"low": 0.1, "high": 10.0, "log": True},
            "batch": {"low": 4, "high": 16, "step": 4},
            "optimizer": {"choice": ["sgd", "adam"]},
        },
    )
    assert distributions(one) == {
        "decoder.sparsity": FloatDistribution(0.0, 0.5),
        "biases.bits": IntDistribution(2, 6),
        "finetuning.rate": FloatDistribution(0.1, 10.0, log=True),
        "finetuning.batch": IntDistribution(4, 16, step=4),
        "finetuning.optimizer": CategoricalDistribution(("sgd", "adam")),
    }


def test_values_that_are_no_ranges_are_taken_as_they_are() -> None:
    (parameters, recipe), *_ = asked(space(sites={"decoder": {"sparsity": 0.3}}, biases="float32"))
    assert parameters == {}
    assert recipe.sites["decoder"].sparsity == 0.3
    assert recipe.biases.kind == "float32"


def test_the_suggested_values_stand_in_the_recipe() -> None:
    one = space(
        sites={"decoder": {"bits": {"kind": "kmeans", "bits": {"low": 2, "high": 6}}}},
        finetuning={**FINETUNING, "rate": {"low": 0.1, "high": 10.0, "log": True}},
    )
    seen = asked(one, 20)
    for parameters, recipe in seen:
        assert recipe.sites["decoder"].bits.plain()["bits"] == parameters["decoder.bits.bits"]
        assert recipe.finetuning
        assert recipe.finetuning.rate == parameters["finetuning.rate"]
    assert len({parameters["decoder.bits.bits"] for parameters, _ in seen}) > 1


def test_a_rank_is_asked_for_only_where_svd_is_chosen() -> None:
    structure = {"choice": ["dense", {"kind": "svd", "rank": {"low": 1, "high": 4}}]}
    one = space(sites={"embedding": {"structure": structure}})
    kinds = set()
    for parameters, recipe in asked(one, 30):
        kind = parameters["embedding.structure"]
        kinds.add(kind)
        assert recipe.sites["embedding"].structure.kind == kind
        assert ("embedding.structure.svd.rank" in parameters) == (kind == "svd")
    assert kinds == {"dense", "svd"}


def test_options_may_be_plain_values_and_nothing() -> None:
    one = space(finetuning={"choice": [None, FINETUNING]})
    seen = asked(one, 20)
    assert {recipe.finetuning is None for _, recipe in seen} == {True, False}


def test_each_site_that_a_pattern_matches_has_a_value_of_its_own() -> None:
    one = space(sites={"lstm.*": {"sparsity": {"low": 0.1, "high": 0.9}}})
    (parameters, recipe), *_ = asked(one)
    lstm = [site for site in SITES if site.startswith("lstm")]
    assert set(parameters) == {f"{site}.sparsity" for site in lstm}
    assert len(set(parameters.values())) == len(lstm)
    for site in lstm:
        assert recipe.sites[site].sparsity == parameters[f"{site}.sparsity"]
    assert recipe.sites["decoder"].sparsity == 0


def test_a_tie_at_the_site_shares_all_its_values() -> None:
    settings = {
        "tie": "inputs",
        "sparsity": {"low": 0.1, "high": 0.9},
        "bits": {"kind": "kmeans", "bits": {"low": 2, "high": 6}},
    }
    (parameters, recipe), *_ = asked(space(sites={"lstm.*.input": settings}))
    assert set(parameters) == {"inputs.sparsity", "inputs.bits.bits"}
    assert recipe.sites["lstm.0.input"] == recipe.sites["lstm.1.input"]


def test_a_tie_at_a_range_shares_that_value_alone() -> None:
    settings = {
        "sparsity": {"low": 0.1, "high": 0.9},
        "bits": {"kind": "kmeans", "bits": {"low": 2, "high": 6, "tie": "levels"}},
    }
    sites = {"lstm.0.input": settings, "decoder": settings}
    (parameters, recipe), *_ = asked(space(sites=sites))
    assert set(parameters) == {"levels", "lstm.0.input.sparsity", "decoder.sparsity"}
    bits = [recipe.sites[site].bits for site in sites]
    assert bits[0] == bits[1]
    assert recipe.sites["decoder"].sparsity != recipe.sites["lstm.0.input"].sparsity


def test_a_tie_at_a_choice_shares_the_option() -> None:
    bits = {"choice": ["float16", {"kind": "linear", "bits": 8}], "tie": "code"}
    one = space(sites={"embedding": {"bits": bits}, "decoder": {"bits": bits}})
    for parameters, recipe in asked(one, 10):
        assert set(parameters) == {"code"}
        assert recipe.sites["embedding"].bits == recipe.sites["decoder"].bits


@pytest.mark.parametrize("exact_first", [True, False])
def test_an_exact_name_is_taken_before_a_pattern(exact_first: bool) -> None:
    sites = {"*": {"sparsity": 0.2}, "decoder": {"sparsity": 0.6}}
    if exact_first:
        sites = dict(reversed(sites.items()))
    (_, recipe), *_ = asked(space(sites=sites))
    assert recipe.sites["decoder"].sparsity == 0.6
    assert recipe.sites["embedding"].sparsity == 0.2


def test_an_earlier_pattern_is_taken_before_a_later_one() -> None:
    sites = {"lstm.*.input": {"sparsity": 0.2}, "lstm.0.*": {"sparsity": 0.6}}
    (_, recipe), *_ = asked(space(sites=sites))
    assert recipe.sites["lstm.0.input"].sparsity == 0.2
    assert recipe.sites["lstm.0.recurrent"].sparsity == 0.6
    assert recipe.sites["lstm.1.recurrent"].sparsity == 0


def test_a_tied_model_has_no_decoder_to_ask_for() -> None:
    tied = ModelSettings(layers=1, hidden=16, embedding=16, tied=True)
    one = space(tied, sites={"*": {"sparsity": {"low": 0.1, "high": 0.9}}})
    assert "decoder.sparsity" not in distributions(one)
    with pytest.raises(UserError, match=r"space\.sites\.decoder: matches no site"):
        space(tied, sites={"decoder": {"sparsity": 0.5}})


def test_the_template_is_left_as_it_was() -> None:
    template = {"sites": {"*": {"tie": "all", "sparsity": {"low": 0.1, "high": 0.9}}}}
    before = copy.deepcopy(template)
    one = Space(template, MODEL, WORDS)
    asked(one, 3)
    assert template == before


def test_an_empty_space_is_one_recipe() -> None:
    assert asked(space())[0][0] == {}


# --- what is wrong is found before any trial ---------------------------------------------------


def svd_of(rank: Any) -> dict[str, Any]:
    return {"structure": {"kind": "svd", "rank": rank}}


LEVELS = {"kind": "kmeans", "bits": {"low": 2, "high": 9}}
NESTED = {"choice": [{"kind": "uniform", "step": {"low": 0.5, "high": 2.0}}, LEVELS, "float16"]}

WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a part that is no part of a recipe": ({"sitez": {}}, ["space.sitez"]),
    "a setting that a site does not have": (
        {"sites": {"decoder": {"sparsness": 0.5}}},
        ["space.sites.decoder.sparsness"],
    ),
    "a setting that a codec does not have": (
        {"sites": {"decoder": {"bits": {"kind": "linear", "bitz": 3}}}},
        ["space.sites.decoder.bits", "bitz"],
    ),
    "an unknown kind": (
        {"sites": {"decoder": {"bits": {"kind": "linar", "bits": 3}}}},
        ["space.sites.decoder.bits", "linar", "linear", "kmeans"],
    ),
    "a range that is none": (
        {"sites": {"decoder": {"sparsity": {"low": 0.1, "hihg": 0.5}}}},
        ["space.sites.decoder.sparsity", "hihg"],
    ),
    "low above high": (
        {"sites": {"decoder": {"sparsity": {"low": 0.5, "high": 0.1}}}},
        ["space.decoder.sparsity", "0.5", "0.1"],
    ),
    "low above high in whole numbers": (
        {"biases": {"kind": "linear", "bits": {"low": 6, "high": 2}}},
        ["space.biases.bits", "6", "2"],
    ),
    "log from zero": (
        {"sites": {"decoder": {"sparsity": {"low": 0.0, "high": 0.5, "log": True}}}},
        ["space.decoder.sparsity", "0.0", "above 0"],
    ),
    "log from below zero": (
        {"finetuning": {**FINETUNING, "rate": {"low": -1.0, "high": 2.0, "log": True}}},
        ["space.finetuning.rate", "-1.0", "above 0"],
    ),
    "a step with floats": (
        {"sites": {"decoder": {"sparsity": {"low": 0.0, "high": 0.5, "step": 0.1}}}},
        ["space.decoder.sparsity", "step"],
    ),
    "a step of nothing": (
        {"finetuning": {**FINETUNING, "batch": {"low": 4, "high": 16, "step": 0}}},
        ["space.finetuning.batch", "step", "0"],
    ),
    "a step that is no whole number": (
        {"finetuning": {**FINETUNING, "batch": {"low": 4, "high": 16, "step": 1.5}}},
        ["space.finetuning.batch", "step", "1.5"],
    ),
    "a step with log": (
        {"finetuning": {**FINETUNING, "batch": {"low": 4, "high": 16, "step": 2, "log": True}}},
        ["space.finetuning.batch", "step", "log"],
    ),
    "an end that is no number": (
        {"sites": {"decoder": {"sparsity": {"low": "a", "high": 0.5}}}},
        ["space.decoder.sparsity", "'a'", "number"],
    ),
    "an end that is a truth value": (
        {"sites": {"decoder": {"sparsity": {"low": 0.0, "high": True}}}},
        ["space.decoder.sparsity", "True", "number"],
    ),
    "a choice that is no list": (
        {"sites": {"decoder": {"bits": {"choice": "float16"}}}},
        ["space.decoder.bits", "float16", "list"],
    ),
    "a choice of nothing": (
        {"sites": {"decoder": {"bits": {"choice": []}}}},
        ["space.decoder.bits", "[]", "list"],
    ),
    "an ordered list that is none": (
        {"sites": {"decoder": {"sparsity": {"ordered": 0.5}}}},
        ["space.decoder.sparsity", "0.5", "ordered takes a list"],
    ),
    "an ordered list of one value twice": (
        {"sites": {"decoder": {"sparsity": {"ordered": [0.5, 0.5]}}}},
        ["space.decoder.sparsity", "[0.5, 0.5]", "different"],
    ),
    "an entry of an ordered list that no recipe takes": (
        {"sites": {"decoder": {"sparsity": {"ordered": [0.5, 0.9, 1.5, 0.95]}}}},
        ["space.sites.decoder.sparsity", "1.5", "less than 1"],
    ),
    "an ordered list and a choice in one": (
        {"sites": {"decoder": {"sparsity": {"ordered": [0.5], "choice": [0.5]}}}},
        ["space.sites.decoder.sparsity"],
    ),
    "one tie over a choice and an ordered list": (
        {
            "sites": {
                "embedding": {"sparsity": {"choice": [0.1, 0.2], "tie": "zeros"}},
                "decoder": {"sparsity": {"ordered": [0.1, 0.2], "tie": "zeros"}},
            }
        },
        ["space.zeros", "choice", "ordered"],
    ),
    "a condition on what there is not": (
        {"biases": {"choice": ["float16"], "when": {"finetuning.rait": 1}, "otherwise": "float32"}},
        ["space.biases.when", "no parameter finetuning.rait", "there are biases"],
    ),
    "a condition on a setting that is no parameter": (
        {
            "biases": {"choice": ["float16"], "when": {"finetuning.rate": 1.0}},
            "finetuning": FINETUNING,
        },
        ["space.biases.when", "no parameter finetuning.rate"],
    ),
    "a condition on an option that there is not": (
        {
            "sites": {
                "decoder": {
                    "bits": NESTED,
                    "sparsity": {"low": 0.1, "high": 0.2, "when": {".bits": "linear"}},
                }
            }
        },
        ["space.decoder.sparsity.when.decoder.bits", "'linear'", "uniform"],
    ),
    "a condition on a number beyond its range": (
        {
            "finetuning": {
                **FINETUNING,
                "batch": {"low": 4, "high": 8},
                "clip": {"low": 0.1, "high": 0.2, "when": {"finetuning.batch": [4, 9]}},
            }
        },
        ["space.finetuning.clip.when.finetuning.batch", "9", "4 and 8"],
    ),
    "a condition of nothing": (
        {"biases": {"choice": ["float16"], "when": {}}},
        ["space.biases.when", "values by parameter"],
    ),
    "a condition that is a name": (
        {"biases": {"choice": ["float16"], "when": "finetuning"}},
        ["space.biases.when", "'finetuning'", "values by parameter"],
    ),
    "a condition for nothing": (
        {"biases": {"when": {"biases": "float16"}, "otherwise": "float16"}},
        ["space.biases", "beside `when`"],
    ),
    "an otherwise without a when": (
        {"biases": {"choice": ["float16"], "otherwise": "float32"}},
        ["space.biases.when", "values by parameter"],
    ),
    "a dot outside of sites": (
        {"finetuning": {**FINETUNING, "clip": {"low": 0.1, "high": 0.2, "when": {".batch": 1}}}},
        ["space.finetuning.clip.when", ".batch", "full name"],
    ),
    "an entry of a list that may be left out": (
        {
            "sites": {
                "decoder": {
                    "pattern": [{"low": 1, "high": 4, "when": {"decoder.sparsity": 0.1}}, 1]
                }
            }
        },
        ["space.decoder.pattern.0", "otherwise"],
    ),
    "an option that may be left out": (
        {"biases": {"choice": [{"kind": "linear", "bits": 8, "when": {"biases": "linear"}}]}},
        ["space.biases.linear", "otherwise"],
    ),
    "conditions that exclude each other": (
        {
            "biases": {
                "choice": [
                    "float16",
                    {
                        "kind": "linear",
                        "bits": {
                            "low": 2,
                            "high": 4,
                            "when": {"biases": "float16"},
                            "otherwise": 8,
                        },
                    },
                ]
            }
        },
        ["space.biases.linear.bits.when", "biases = float16 never holds"],
    ),
    "a condition that never holds under another": (
        {
            "finetuning": {
                **FINETUNING,
                "optimizer": {"choice": ["sgd", "adam"]},
                "clip": {"low": 0.1, "high": 0.2, "when": {"finetuning.optimizer": "sgd"}},
                "batch": {
                    "low": 4,
                    "high": 8,
                    "when": {"finetuning.optimizer": "adam", "finetuning.clip": 0.1},
                },
            }
        },
        ["space.finetuning.batch.when", "never holds"],
    ),
    "a condition on itself": (
        {"biases": {"choice": ["float16", "float32"], "when": {"biases": "float16"}}},
        ["biases waits for biases", "circle"],
    ),
    "two conditions that wait for each other": (
        {
            "biases": {"choice": ["float16", "float32"], "when": {"finetuning.batch": 4}},
            "finetuning": {
                **FINETUNING,
                "batch": {"low": 4, "high": 8, "when": {"biases": "float16"}},
            },
        },
        ["finetuning.batch waits for biases waits for finetuning.batch", "circle"],
    ),
    "layers that wait for a site": (
        {
            "layers": {"embedding": {"low": 4, "high": 8, "when": {"decoder.bits": "float16"}}},
            "sites": {"decoder": {"bits": {"choice": ["float16", "float32"]}}},
        },
        ["layers waits for decoder.bits waits for layers", "circle"],
    ),
    "settings of a space under a condition": (
        {"when": {"biases": "float16"}, "biases": {"choice": ["float16"]}},
        ["space.when: there is no such setting"],
    ),
    "two options of one name": (
        {"sites": {"decoder": {"bits": {"choice": ["float16", {"kind": "float16"}]}}}},
        ["space.decoder.bits", "float16", "different"],
    ),
    "two options of one kind": (
        {
            "sites": {
                "decoder": {
                    "bits": {"choice": [{"kind": "linear", "bits": b} for b in (2, 3)]},
                }
            }
        },
        ["space.decoder.bits", "linear", "different"],
    ),
    "an option that is a list": (
        {"finetuning": {**FINETUNING, "optimizer": {"choice": [["sgd"], ["adam"]]}}},
        ["finetuning.optimizer", "['sgd']"],
    ),
    "a high end that no recipe takes": (
        {"sites": {"decoder": {"sparsity": {"low": 0.1, "high": 1.5}}}},
        ["space.sites.decoder.sparsity", "1.5", "less than 1"],
    ),
    "a low end that no recipe takes": (
        {"sites": {"decoder": {"sparsity": {"low": -0.1, "high": 0.5}}}},
        ["space.sites.decoder.sparsity", "-0.1", "greater than or equal to 0"],
    ),
    "a fixed value that no recipe takes": (
        {"sites": {"decoder": {"sparsity": 1}}},
        ["space.sites.decoder.sparsity", "1", "less than 1"],
    ),
    "an end of a range inside the second option": (
        {"sites": {"decoder": {"bits": NESTED}}},
        ["space.sites.decoder.bits", "9", "8"],
    ),
    "a rank above what the matrix has": (
        {"sites": {"embedding": svd_of({"low": 4, "high": 17})}},
        ["embedding.structure.rank", "17", "16"],
    ),
    "a pattern that matches no site": (
        {"sites": {"lstm.7.*": {"sparsity": 0.5}}},
        ["space.sites.lstm.7.*", "matches no site", *SITES],
    ),
    "sites that are no mapping": ({"sites": ["decoder"]}, ["space.sites"]),
    "sites left empty": ({"sites": None}, ["space.sites"]),
    "a site that is no mapping": ({"sites": {"decoder": "dense"}}, ["space.sites.decoder"]),
    "a site left empty": ({"sites": {"decoder": None}}, ["space.sites.decoder"]),
    "one tie over two ranges": (
        {
            "sites": {
                "embedding": {"sparsity": {"low": 0.1, "high": 0.2, "tie": "zeros"}},
                "decoder": {"sparsity": {"low": 0.5, "high": 0.9, "tie": "zeros"}},
            }
        },
        ["space", "zeros"],
    ),
    "one tie over two kinds of values": (
        {
            "sites": {"embedding": {"sparsity": {"low": 0.1, "high": 0.2, "tie": "shared"}}},
            "finetuning": {**FINETUNING, "batch": {"low": 4, "high": 8, "tie": "shared"}},
        },
        ["space", "shared"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_space_is_refused_with_the_setting_what_it_got_and_what_it_takes(case: str) -> None:
    template, said = WRONG[case]
    with pytest.raises(UserError) as error:
        Space(template, MODEL, WORDS)
    for part in said:
        assert part in str(error.value)


def test_every_option_of_a_choice_within_an_option_is_looked_at() -> None:
    """The second inner option is wrong, and stands in the first of two outer options."""
    schedule = {"choice": [{"kind": "linear"}, {"kind": "stepped", "hold": 1, "factor": 7}]}
    first = {**FINETUNING, "schedule": schedule}
    with pytest.raises(UserError, match="factor: got 7"):
        space(finetuning={"choice": [first, None]})


def test_what_lies_between_ends_that_are_recipes_is_one_too() -> None:
    rank = {"kind": "svd", "rank": {"low": 1, "high": 16}}
    one = space(
        sites={
            "*": {"structure": {"choice": ["dense", rank]}, "sparsity": {"low": 0.0, "high": 0.99}},
            "decoder": {"bits": {"choice": ["float16", {"kind": "linear", "bits": 8}]}},
        },
    )
    for _, recipe in asked(one, 50):
        assert set(recipe.sites) == set(SITES)


# --- values to start from ----------------------------------------------------------------------

START: dict[str, Any] = {
    "sites": {
        "embedding": {
            "structure": {"choice": ["dense", {"kind": "svd", "rank": {"low": 2, "high": 8}}]}
        }
    },
    "finetuning": {
        **FINETUNING,
        "rate": {"low": 0.1, "high": 10.0, "log": True},
        "batch": {"low": 4, "high": 16, "step": 4},
    },
}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"finetuning.rate": 0.1},
        {"finetuning.rate": 10, "finetuning.batch": 12},
        {"embedding.structure": "dense"},
        {"embedding.structure": "svd", "embedding.structure.svd.rank": 8},
    ],
)
def test_values_within_the_space_may_start_it(values: dict[str, Any]) -> None:
    one = space(**START)
    assert one.start(values) == values
    study = optuna.create_study(directions=["minimize"] * 2)
    study.enqueue_trial(values)
    trial = study.ask()
    one.suggest(trial)
    assert {name: trial.params[name] for name in values} == values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"finetuning.rate": 11.0}, r"start\.finetuning\.rate: got 11\.0.*0\.1 and 10\.0"),
        ({"finetuning.rate": 0}, r"start\.finetuning\.rate: got 0.*0\.1 and 10\.0"),
        ({"finetuning.rate": math.nan}, r"start\.finetuning\.rate: got nan"),
        ({"finetuning.rate": "5"}, r"start\.finetuning\.rate: got '5'"),
        ({"finetuning.rate": True}, r"start\.finetuning\.rate: got True"),
        ({"finetuning.batch": 5}, r"start\.finetuning\.batch: got 5"),
        ({"finetuning.batch": 8.5}, r"start\.finetuning\.batch: got 8\.5"),
        ({"finetuning.batch": 20}, r"start\.finetuning\.batch: got 20.*4 and 16"),
        ({"embedding.structure": "tucker"}, r"start\.embedding\.structure: got 'tucker'.*svd"),
        (
            {"embedding.structure.svd.rank": 4},
            r"no parameter embedding\.structure\.svd\.rank .*; there are .*finetuning\.rate",
        ),
        ({"finetuning.rait": 1.0}, r"no parameter finetuning\.rait .*finetuning\.rate"),
    ],
)
def test_values_outside_the_space_may_not(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        space(**START).start(values)


def test_a_fixed_trial_gives_the_recipe_of_its_values() -> None:
    one = space(**START)
    values = {
        "embedding.structure": "svd",
        "embedding.structure.svd.rank": 3,
        "finetuning.rate": 2.0,
        "finetuning.batch": 8,
    }
    recipe = one.suggest(FixedTrial(values)).recipe
    assert recipe.sites["embedding"].structure.plain() == {"kind": "svd", "rank": 3}
    assert recipe.finetuning
    assert (recipe.finetuning.rate, recipe.finetuning.batch) == (2.0, 8)
    assert re.fullmatch("[0-9a-f]{16}", recipe.key)


# --- layers, zeros and energies ----------------------------------------------------------------

TIED = MODEL.model_copy(update={"tied": True})


def test_a_width_is_a_range_and_its_sites_are_asked_for_where_they_are() -> None:
    one = space(layers={"projection": {"low": 3, "high": 16}}, sites={"*": {"bits": STEP}})
    assert distributions(one)["layers.projection"] == IntDistribution(3, 16)
    wide, narrow = (
        FixedTrial({"layers.projection": width, **{f"{s}.bits.step": 1.0 for s in sites}})
        for width, sites in ((16, SITES), (3, [*SITES, "lstm.0.projection", "lstm.1.projection"]))
    )
    assert one.suggest(wide).recipe.layers.projection is None
    assert tuple(one.suggest(wide).recipe.sites) == SITES
    recipe = one.suggest(narrow).recipe
    assert recipe.layers.projection == (3, 3)
    assert set(recipe.sites) == {*SITES, "lstm.0.projection", "lstm.1.projection"}
    assert {site.bits.kind for site in recipe.sites.values()} == {"uniform"}


def test_each_layer_may_have_a_range_of_its_own() -> None:
    one = space(layers={"projection": [{"low": 2, "high": 5}, 0]})
    assert distributions(one) == {"layers.projection.0": IntDistribution(2, 5)}
    assert {recipe.layers.projection for _, recipe in asked(one, 20)} == {
        (width, 0) for width in (2, 3, 4, 5)
    }


def test_a_tie_spans_sites_that_layers_make() -> None:
    sites = {"*.projection": {"tie": "maps", "bits": STEP}, "*": {"bits": "float16"}}
    one = space(TIED, layers={"projection": 4, "embedding": {"low": 3, "high": 5}}, sites=sites)
    names = set(distributions(one))
    assert names == {"layers.embedding", "maps.bits.step"}
    for params, recipe in asked(one, 10):
        steps = {
            site: s.bits.plain()["step"] for site, s in recipe.sites.items() if "projection" in site
        }
        assert set(steps.values()) == {params["maps.bits.step"]}
        # as wide as the last projection, the tied embedding needs no projection of the decoder's
        assert ("decoder.projection" in steps) == (params["layers.embedding"] != 4)


def test_a_pattern_may_name_what_layers_can_make_and_nothing_else() -> None:
    space(TIED, sites={"decoder.projection": {"sparsity": 0.5}})
    space(layers={"projection": 4}, sites={"*.projection": {"sparsity": 0.5}})
    for model, pattern in ((MODEL, "decoder.projection"), (TIED, "decoder"), (MODEL, "*.2.*")):
        with pytest.raises(UserError, match="matches no site"):
            space(model, sites={pattern: {"sparsity": 0.5}})


def test_whatever_is_drawn_of_layers_and_ranks_is_a_recipe() -> None:
    """A rank that a narrower site cannot have is no rank, not an error in the 400th trial."""
    rank = {"low": 2, "high": 16}
    chain = {"kind": "tensor_train", "rank": {"low": 2, "high": 8}}
    one = space(
        TIED,
        layers={
            "projection": {"choice": [None, {"low": 1, "high": 16, "log": True}]},
            "embedding": {"low": 2, "high": 16},
        },
        sites={
            "*": {
                "structure": {"choice": ["dense", {"kind": "svd", "rank": rank}, chain]},
                "sparsity": {"low": 0.0, "high": 0.99},
                "pattern": {"choice": ["weights", "rows"]},
            }
        },
        pruning={"scope": {"choice": ["site", "all"]}},
    )
    drawn = [recipe for _, recipe in asked(one, 60)]
    assert len({recipe.layers.projection is None for recipe in drawn}) == 2
    assert {recipe.pruning.is_shared for recipe in drawn} == {False, True}
    for recipe in drawn:
        assert resolve(recipe, TIED, WORDS) == recipe


def test_an_energy_is_a_range_below_its_rank() -> None:
    energy = {"kind": "svd", "rank": {"energy": {"low": 0.5, "high": 0.95}}}
    one = space(sites={"embedding": {"structure": energy}})
    name = "embedding.structure.rank.energy"
    assert distributions(one) == {name: FloatDistribution(0.5, 0.95)}
    recipe = one.suggest(FixedTrial({name: 0.7})).recipe
    assert recipe.sites["embedding"].structure.plain() == {"kind": "svd", "rank": {"energy": 0.7}}
    chosen = space(sites={"embedding": {"structure": {"choice": ["dense", energy]}}})
    assert set(distributions(chosen)) <= {
        "embedding.structure",
        "embedding.structure.svd.rank.energy",
    }
    with pytest.raises(UserError, match="energy"):
        space(
            sites={
                "decoder": {"structure": {**energy, "rank": {"energy": {"low": 0.5, "high": 2.0}}}}
            }
        )


def test_fractions_of_ranks_and_zeros_are_ranges_too() -> None:
    one = space(
        sites={
            "decoder": {
                "structure": {"kind": "activation_svd", "rank": {"low": 0.1, "high": 0.9}},
                "sparsity": {"low": 0.1, "high": 0.9},
                "pattern": [{"low": 1, "high": 4}, 1],
            }
        },
        pruning={"schedule": "cubic", "until": {"low": 0.3, "high": 0.9}},
        finetuning=FINETUNING,
    )
    params, recipe = asked(one)[0]
    assert set(params) == {
        *("decoder.structure.rank", "decoder.sparsity", "decoder.pattern.0", "pruning.until"),
    }
    assert recipe.pruning.plain()["until"] == params["pruning.until"]
    assert recipe.sites["decoder"].sparsity == params["decoder.sparsity"]
    rank = recipe.sites["decoder"].structure.plain()["rank"]
    assert rank == int(params["decoder.structure.rank"] * WORDS * 16 / (WORDS + 16))


def test_the_strength_of_group_lasso_is_a_range() -> None:
    units = {
        "strength": {"low": 1e-4, "high": 1e-2, "log": True},
        "embedding": {"choice": [False, True]},
        "training": {**FINETUNING, "epochs": 2},
    }
    one = space(layers={"units": units})
    assert set(distributions(one)) == {"layers.units.strength", "layers.units.embedding"}
    (params, recipe), *_ = asked(one)
    assert recipe.layers.units
    assert recipe.layers.units.strength == params["layers.units.strength"]
