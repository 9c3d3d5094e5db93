"""The parts of a space measured alone, and the front that they predict."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any, cast

import optuna
import pytest

from lmcore.bundle import load
from lmcore.model import LanguageModel
from lmcore.model_settings import ModelSettings
from lmcore.recipe import Recipe, resolve
from lmcore.sites import site_of
from search.bench.dense import DENSE
from search.bench.workbench import Workbench
from search.rules.limits import Box
from search.rules.sensitivity import LAYERS, Effect, Effects, Sensitivity, predicted_front, spread
from search.show.tables import effects_table
from search.space.model_space import ModelSpace
from search.space.parts import alone, bindings_of, parts_of, settings_of
from search.space.space import Space
from search.study.beginning import PRIOR, enqueue_prior
from search.study.context import StudyContext, WorkContext
from search.study.effects import LEAST, MAKING, affordable, known_effects, measure_effects
from search.study.prediction import searched
from search.study.results import results_of
from studies import Sweep, settings, sweep_here

MODEL = ModelSettings(layers=2, hidden=16, embedding=16, tied=False)
STEP = {"low": 0.3, "high": 3.0, "log": True}


def space(**template: Any) -> ModelSpace:
    return Space(template, MODEL, 50).own()


def uniform(**more: Any) -> dict[str, Any]:
    return {"kind": "uniform", "step": {**STEP}, **more}


# --- the arithmetic ----------------------------------------------------------------------------


def some_effects(seed: int, parts: int = 3, settings: int = 4) -> Effects:
    draw = random.Random(seed)
    sites = {f"part{part}": 1000 * (part + 1) for part in range(parts)}

    def effect(name: str, number: int) -> Effect:
        site_bytes = {**sites, name: draw.randrange(100, sites[name])}
        return Effect(draw.random(), site_bytes, ((name, number),))

    shapes = [
        Effect(draw.random(), {n: size // (1 + k) for n, size in sites.items()}, ((LAYERS, k),))
        for k in range(2)
    ]
    found = {name: [effect(name, number) for number in range(settings)] for name in sites}
    return Effects(Effect(0.0, sites), 500 + sum(sites.values()), 50.0, {LAYERS: shapes, **found})


@pytest.mark.parametrize("seed", range(20))
def test_the_predicted_front_is_that_of_all_sums(seed: int) -> None:
    """By adding up every combination."""
    effects = some_effects(seed)
    shapes, *parts = effects.parts.values()
    sums = []
    for shape, *chosen in itertools.product(shapes, *parts):
        size: float = effects.size_bytes - sum(effects.dense.site_bytes.values())
        for site, whole in shape.site_bytes.items():
            share = math.prod(
                one.site_bytes[site] / effects.dense.site_bytes[site] for one in chosen
            )
            size += whole * share
        sums.append((size, shape.nats + sum(one.nats for one in chosen)))
    best = sorted(
        one for one in sums if not any(o != one and o[0] <= one[0] and o[1] <= one[1] for o in sums)
    )
    found = [(one.size_bytes, one.nats) for one in effects.front]
    assert [pytest.approx(one) for one in best] == found


def test_every_point_of_the_front_says_how_it_is_reached() -> None:
    for one in some_effects(0).front:
        assert [name for name, _ in one.parameters] == [LAYERS, "part0", "part1", "part2"]


def test_a_spread_has_both_ends_and_lies_evenly() -> None:
    front = some_effects(1, settings=12).front
    some = spread(front, 5)
    assert (some[0], some[-1]) == (front[0], front[-1])
    assert len(some) <= 5
    assert [one.size_bytes for one in some] == sorted(one.size_bytes for one in some)
    assert spread(front, len(front)) == front


def test_starts_are_within_the_limit_and_the_box() -> None:
    effects = some_effects(2, settings=8)
    front = effects.front
    first, last = len(front) // 3, 2 * len(front) // 3
    prior = Sensitivity(starts=50)
    most = math.ceil(front[last].size_bytes)
    assert prior.chosen(searched(effects, None, most)) == front[: last + 1]
    box = Box(front[first].size_bytes, front[-1].size_bytes, 1.0)
    assert prior.chosen(searched(effects, box, None)) == front[first:]
    assert prior.chosen(searched(effects, box, most)) == front[first : last + 1]
    assert prior.chosen(searched(effects, Box(1.0, 2.0, 100.0), None)) == []


def test_with_nothing_to_add_the_front_is_the_dense_model() -> None:
    dense = Effect(0.0, {"decoder": 1000})
    (one,) = predicted_front(dense, 10, [dense], [])
    assert (one.size_bytes, one.nats, one.parameters) == (1010, 0.0, ())


# --- the parts of a space ----------------------------------------------------------------------


def test_parameters_of_a_site_are_one_part() -> None:
    of = space(
        sites={
            "decoder": {
                "structure": {"choice": ["dense", {"kind": "svd", "rank": {"low": 1, "high": 8}}]},
                "bits": uniform(),
            },
            "embedding": {"sparsity": {"low": 0.1, "high": 0.9}},
        },
        finetuning={
            "epochs": 1,
            "rate": {"low": 0.1, "high": 1.0},
            "dropout": {"kind": "sequence", "rate": 0.1},
        },
    )
    decoder, embedding = parts_of(of)
    assert set(decoder.parameters) == {
        "decoder.structure",
        "decoder.structure.svd.rank",
        "decoder.bits.step",
    }
    assert decoder.acts_on == ("decoder",)
    assert (embedding.parameters, embedding.acts_on) == (("embedding.sparsity",), ("embedding",))


def test_a_tie_makes_one_part_of_its_sites() -> None:
    of = space(sites={"lstm.*": {"tie": "lstm", "bits": uniform()}, "decoder": {"bits": uniform()}})
    assert [part.acts_on for part in parts_of(of)] == [
        ("decoder",),
        tuple(f"lstm.{layer}.{kind}" for layer in (0, 1) for kind in ("input", "recurrent")),
    ]


BOUND = {"low": 0.02, "high": 0.2, "tie": "rounding"}


def test_a_parameter_that_binds_parts_is_in_none() -> None:
    """Nor one that acts in training alone, which binds nothing, either."""
    price = {"low": 1e-7, "high": 1e-5, "tie": "price"}
    bits = uniform(rounding=BOUND, rate_penalty=price)
    of = space(sites={"decoder": {"bits": bits}, "embedding": {"bits": bits}})
    assert [part.parameters for part in parts_of(of)] == [
        ("decoder.bits.step",),
        ("embedding.bits.step",),
    ]
    assert bindings_of(of) == {"rounding": 0.02}


def test_what_reshapes_the_layers_comes_first() -> None:
    of = space(layers={"embedding": {"low": 4, "high": 16}}, sites={"*": {"bits": uniform()}})
    first, *others = parts_of(of)
    assert (first.parameters, first.acts_on) == (("layers.embedding",), (LAYERS,))
    assert len(others) == 6


def test_settings_have_every_option_and_spread_over_each_range() -> None:
    of = space(
        sites={
            "decoder": {
                "structure": {"choice": ["dense", {"kind": "svd", "rank": {"low": 1, "high": 16}}]},
                "bits": uniform(),
            }
        }
    )
    (part,) = parts_of(of)
    found = settings_of(of, part, 16)
    assert len(found) == 16
    assert {one["decoder.structure"] for one in found} == {"dense", "svd"}
    for low, high in ((0.3, 0.6), (0.6, 1.5), (1.5, 3.0)):
        assert any(low <= one["decoder.bits.step"] <= high for one in found)
    ranks = [
        one["decoder.structure.svd.rank"] for one in found if "decoder.structure.svd.rank" in one
    ]
    assert len(ranks) == 8
    assert min(ranks) <= 4 <= 12 <= max(ranks)


# --- measured, and begun with ------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    bits = uniform(rounding=BOUND)
    sites = {"decoder": {"bits": bits}, "embedding": {"bits": bits}}
    folder = tmp_path_factory.mktemp("sensitivity")
    base = settings(folder).space
    return sweep_here(settings(folder, space={**base, "sites": sites}, trials=1))


@pytest.fixture(scope="module")
def effects(swept: Sweep) -> Effects:
    return measure_effects(swept.context, swept.context.bench(), 3)


def test_an_effect_is_what_the_part_does_to_the_dense_model(effects: Effects) -> None:
    assert set(effects.parts) == {"decoder", "embedding"}
    for part, measured in effects.parts.items():
        assert len(measured) == 3
        for effect in measured:
            for site, size in effect.site_bytes.items():
                same = size == effects.dense.site_bytes[site]
                assert same == (site != part), site
        by_step = sorted(measured, key=lambda effect: dict(effect.parameters)[f"{part}.bits.step"])
        assert [e.site_bytes[part] for e in by_step] == sorted(
            (e.site_bytes[part] for e in measured), reverse=True
        )


def test_an_effect_is_that_of_its_file(swept: Sweep, effects: Effects, tmp_path: Path) -> None:
    """The recipe written and scored as a trial is: the same bytes, and nearly the same nats."""
    bench, space = swept.context.bench(), swept.context.space.own()
    bench.folder = tmp_path
    part = next(part for part in parts_of(space) if part.name == "decoder")
    first, *_ = effects.parts["decoder"]
    base = alone(space, None, {}, resolve(DENSE, space.model, space.words))
    recipe = alone(space, part, dict(first.parameters), base)
    measured = bench.measure(resolve(recipe, space.model, space.words))
    leaves = load(bench.path(measured.key)).parts.leaves
    assert first.site_bytes == {
        **effects.dense.site_bytes,
        "decoder": sum(sum(leaves[name]) for name in leaves if site_of(name) == "decoder"),
    }
    nats = math.log(measured.valid_measure / effects.perplexity)
    assert first.nats == pytest.approx(nats, rel=0.2, abs=0.01)


def test_the_same_parts_give_the_same_effects(swept: Sweep, effects: Effects) -> None:
    assert measure_effects(swept.context, swept.context.bench(), 3) == effects


def test_a_sweep_begins_with_the_predicted_front_once(swept: Sweep, effects: Effects) -> None:
    prior = Sensitivity(starts=4)
    for _ in range(2):
        enqueue_prior(swept.context.but(prior=prior), max_size_bytes=None)
    waiting = [row.system_attrs["fixed_params"] for row in swept.study.get_trials()[1:]]
    chosen = prior.chosen(effects.front)
    assert waiting == [{"rounding": 0.02, **dict(one.parameters)} for one in chosen]
    assert swept.study.user_attrs[PRIOR] == prior.plain()
    limit = round(effects.front[len(effects.front) // 2].size_bytes)
    for _ in range(2):  # what is searched has changed: the same prior chooses anew
        enqueue_prior(swept.context.but(prior=prior), max_size_bytes=limit)
    more = [row.system_attrs["fixed_params"] for row in swept.study.get_trials()[1:]]
    assert len(more) == len({str(one) for one in more}) > len(waiting)


def test_the_predicted_front_is_among_the_results(swept: Sweep, effects: Effects) -> None:
    found = results_of(swept.context).predicted
    assert found == [(one.size_bytes, effects.perplexity_of(one)) for one in effects.front]


def test_the_prediction_is_near_for_what_is_gentle(
    swept: Sweep, effects: Effects, tmp_path: Path
) -> None:
    """Both sites at their gentlest setting: what the parts say together is nearly so."""
    best = effects.front[-1]
    bench = swept.context.bench()
    bench.folder = tmp_path
    recipe = swept_recipe(swept, dict(best.parameters))
    measured = bench.measure(recipe)
    assert measured.valid_measure == pytest.approx(effects.perplexity_of(best), rel=0.02)
    assert measured.size_bytes == pytest.approx(best.size_bytes, rel=0.02)


def swept_recipe(swept: Sweep, parameters: dict[str, Any]) -> Recipe:
    trial = optuna.trial.FixedTrial({"rounding": 0.02, **parameters, "finetuning.rate": 0.005})
    return swept.context.space.own().suggest(trial).model_copy(update={"finetuning": None})


def test_what_was_measured_of_another_space_is_no_prior(tmp_path: Path) -> None:
    """Nor what belongs to another dense model; but more settings of this one are welcome."""
    begun = sweep_here(settings(tmp_path, trials=1))
    mine, bench = begun.context, begun.context.bench()
    bits = {"kind": "linear", "bits": {"low": 2, "high": 8}}
    theirs = WorkContext(settings(tmp_path, space={"sites": {"*": {"tie": "all", "bits": bits}}}))
    measure_effects(theirs, bench, 3)
    assert known_effects(mine, bench, 4) is None
    prior = Sensitivity(settings=4, starts=2)
    enqueue_prior(mine.but(prior=prior), max_size_bytes=None)
    waiting = [row.system_attrs["fixed_params"] for row in begun.study.get_trials()[1:]]
    assert [set(one) for one in waiting] == [{"all.bits.step"}] * 2
    finer = measure_effects(mine, bench, 7)
    for most in (3, 7, 9):
        assert known_effects(mine, bench, most) == finer


# --- what it costs -------------------------------------------------------------------------------


class Counting:
    """A bench that counts the tokens that its comparisons read."""

    def __init__(self, bench: Workbench) -> None:
        self.bench, self.tokens = bench, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bench, name)

    def comparison(self, base: LanguageModel) -> Any:
        compare = self.bench.comparison(base)

        def counted(model: LanguageModel, most: float) -> tuple[float, int]:
            nats, read = compare(model, most)
            self.tokens.append(read)
            return nats, read

        return counted


def test_a_prior_costs_what_it_may(swept: Sweep, effects: Effects) -> None:
    """Fewer tokens, then fewer settings, but each part is measured at two and on a window."""
    context, space = swept.context, swept.context.space.own()
    rich, poor, broke = (Counting(context.bench()) for _ in range(3))
    measure_effects(context, cast(Workbench, rich), 6)
    measure_effects(context, cast(Workbench, poor), 6, 3 * MAKING)
    assert 4 < len(poor.tokens) < len(rich.tokens) == 12
    shapes = space.model.site_shapes(space.words)
    weights = {site: math.prod(shape) for site, shape in shapes.items()}
    each = (weights["decoder"] + weights["embedding"]) / 2 / sum(weights.values())
    assert len(poor.tokens) * each * MAKING + sum(poor.tokens) <= 3 * MAKING
    measure_effects(context, cast(Workbench, broke), 6, 1.0)
    assert len(broke.tokens) == 4
    assert max(broke.tokens) <= LEAST


def test_a_prior_may_cost_a_twentieth_of_what_trials_cost_at_least(tmp_path: Path) -> None:
    """Each trial makes and reads its file before training and after a quarter of an epoch."""
    finetuning = {"epochs": 1, "rate": 0.01, "dropout": {"kind": "sequence", "rate": 0.1}}
    space = {"sites": {"*": {"bits": {"kind": "uniform", "step": 0.7}}}, "finetuning": finetuning}
    climbing = {"kind": "front", "rungs": [0, 0.25]}
    for fidelity, rungs, epochs in ((climbing, 2, 0.25), ("whole", 1, 1.0)):
        context = StudyContext(settings(tmp_path, trials=40, space=space, fidelity=fidelity))
        train, valid = len(context.corpus.train), len(context.corpus.valid)
        trial = rungs * (MAKING + valid) + 3 * epochs * train
        assert affordable(context) == pytest.approx(40 * trial / 20)


def test_a_table_of_few_points_says_how_many() -> None:
    found = some_effects(1, parts=1, settings=3)
    assert len(found.front) < 12
    said = effects_table(found, {}).splitlines()[-1]
    assert f"{len(found.front)} of {len(found.front)} points predicted" in said


def test_a_table_says_what_is_at_a_place_of_a_list() -> None:
    part = Effect(0.1, {"decoder": 50}, (("zeros", 2), ("step", 0.71234)))
    found = Effects(Effect(0.0, {"decoder": 100}), 120, 90.0, {"decoder": [part]})
    said = effects_table(found, {"zeros": (0.0, 0.3, 0.6)})
    assert said.count("zeros=0.6, step=0.712") == 2
