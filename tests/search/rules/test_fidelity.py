"""Who goes on from a rung: the guarantee of the front, the orders by brute force, the ladder."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from test_training import make_settings

from lmcore.errors import UserError
from lmcore.recipe import Recipe
from lmcore.settings import Settings, parse
from search.rules.fidelity import (
    PREDICTS,
    AnyFidelity,
    Asha,
    Fidelity,
    Look,
    TowardsFront,
    Whole,
    excesses,
    predicts,
    ranked,
    rivals,
)

DENSE = (10_000, 100.0)
FRONT = TowardsFront(rungs=(0.25, 1.0))


class Holder(Settings):
    fidelity: AnyFidelity


def fidelity(data: object) -> Fidelity:
    return parse(Holder, {"fidelity": data}).fidelity


def dominates(one: Look, other: Look) -> bool:
    pairs = ((one.size_bytes, other.size_bytes), (one.perplexity, other.perplexity))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


looks = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([500, 1000, 2000, 5000, 10_000, 20_000]),
        st.sampled_from([80.0, 90.0, 100.0, 150.0, 199.0, 250.0, math.inf]),
    ),
    min_size=1,
    max_size=12,
).map(lambda rows: [Look(trial, *row) for trial, row in enumerate(rows)])


@given(looks)
def test_what_nothing_dominates_in_the_box_always_goes_on(seen: list[Look]) -> None:
    for mine in seen:
        rivals = [one for one in seen if one.rung == mine.rung and one.trial != mine.trial]
        fits = mine.size_bytes <= 10_000 and math.isfinite(mine.perplexity)
        inside = fits and mine.perplexity <= 200.0
        goes_on = FRONT.goes_on(mine, seen, DENSE)
        if inside and not any(dominates(one, mine) for one in rivals):
            assert goes_on
        if not fits:
            assert not goes_on
        assert goes_on == FRONT.goes_on(mine, rivals, DENSE)  # its own look may be among them


@given(looks)
def test_excess_is_how_far_a_look_lies_above_the_front_at_its_size(seen: list[Look]) -> None:
    finite = [one for one in seen if math.isfinite(one.perplexity)]
    found = excesses(finite)
    assert set(found) == {one.trial for one in finite}
    for mine in finite:
        excess = found[mine.trial]
        others = [one for one in finite if one is not mine and one.size_bytes <= mine.size_bytes]
        assert (excess == -math.inf) == (not others)
        if others:
            best = min(one.perplexity for one in others)
            assert mine.perplexity == pytest.approx(best * math.exp(excess))


def test_outside_the_box_only_the_best_go_on() -> None:
    """A harsh recipe is worse than the box while it has hardly been trained."""
    rule = TowardsFront(rungs=(0.25,), eta=2.0)
    harsh = Look(0, 0, 500, 250.0)
    assert rule.goes_on(harsh, [], DENSE)  # the first of all
    gentle = [Look(1 + n, 0, 1000 * (n + 1), 110.0 - n) for n in range(3)]
    assert rule.goes_on(harsh, gentle, DENSE)
    harsher = [Look(10 + n, 0, 400 - 100 * n, 240.0 + 20 * n) for n in range(3)]
    assert not rule.goes_on(harsh, [*gentle[:1], *harsher], DENSE)


def test_of_the_dominated_the_nearest_to_the_front_go_on() -> None:
    rule = TowardsFront(rungs=(0.25,), eta=2.0)
    best = [Look(0, 0, 1000, 120.0), Look(1, 0, 2000, 100.0)]
    near, far = Look(2, 0, 2000, 101.0), Look(3, 0, 2000, 130.0)
    filler = [Look(10 + n, 0, 3000, 150.0 + n) for n in range(4)]
    assert not rule.goes_on(near, best, DENSE)  # the third of three, and one of two goes on
    assert rule.goes_on(near, [*best, far, *filler], DENSE)  # the third of eight
    assert rule.goes_on(far, [*best, *filler], DENSE)
    assert not rule.goes_on(far, [*best, near, *filler[:2]], DENSE)  # the fourth of six


def test_what_is_faster_is_compared_with_what_is_as_fast() -> None:
    """A better and smaller file does not stop one that runs faster beyond the noise."""
    better = [Look(trial, 1, 1000 + trial, 80.0 + trial, speed=2.0) for trial in range(8)]
    slow, alike, fast = (Look(9, 1, 5000, 150.0, speed) for speed in (1.5, 2.15, 2.5))
    for rule in (FRONT, Asha()):
        assert not rule.goes_on(slow, [*better, slow], DENSE)
        assert not rule.goes_on(alike, [*better, alike], DENSE)
        assert rule.goes_on(fast, [*better, fast], DENSE)
        assert not rule.goes_on(Look(9, 1, 5000, 150.0), [*better, fast], DENSE)


def test_other_rungs_do_not_count() -> None:
    mine = Look(5, 0, 1000, 120.0)
    assert FRONT.goes_on(mine, [Look(0, 1, 500, 90.0)], DENSE)
    assert not FRONT.goes_on(mine, [Look(n, 0, 500, 90.0) for n in range(3)], DENSE)


def test_without_training_the_size_decides_until_the_perplexity_predicts() -> None:
    rule = TowardsFront(rungs=(0.0, 1.0))
    better = [Look(n, 0, 100, 90.0) for n in range(9)]
    harsh = Look(99, 0, 5000, 4000.0)
    assert rule.goes_on(harsh, better, DENSE)
    assert not rule.goes_on(Look(99, 0, 20_000, 90.0), better, DENSE)
    assert not rule.goes_on(Look(99, 0, 5000, math.inf), better, DENSE)
    sizes = [1000 + 7 * n % 10 for n in range(10)]
    untrained = [Look(n, 0, sizes[n], 300.0 + n) for n in range(10)]
    same = [Look(n, 2, sizes[n], 100.0 + n) for n in range(10)]
    other = [Look(n, 2, sizes[n], 200.0 - n) for n in range(10)]
    assert predicts(untrained + same)
    assert not predicts(untrained + other)
    assert not predicts(untrained + same[:9])
    assert not predicts(untrained)
    assert not predicts([])
    assert not rule.goes_on(harsh, untrained + same, DENSE)
    assert rule.goes_on(harsh, untrained + other, DENSE)


def test_that_larger_files_are_better_at_both_rungs_says_nothing() -> None:
    generator = random.Random(0)
    untrained, ended = [], []
    for n in range(30):
        size = 1000 * (n + 1)
        untrained.append(Look(n, 0, size, 300.0 * size**-0.5 * generator.uniform(0.9, 1.1)))
        ended.append(Look(n, 2, size, 100.0 * size**-0.5 * generator.uniform(0.9, 1.1)))
    tau = kendalltau([one.perplexity for one in untrained], [one.perplexity for one in ended])
    assert tau.statistic > PREDICTS
    assert not predicts(untrained + ended)
    as_ended = [Look(n, 0, 1000 * (n + 1), 3 * ended[n].perplexity) for n in range(30)]
    assert predicts(as_ended + ended)


@given(looks)
def test_the_order_of_asha_is_by_layers(seen: list[Look]) -> None:
    order = ranked(seen)
    assert sorted(order, key=lambda one: one.trial) == seen
    left = list(seen)
    layers: dict[int, int] = {}
    depth = 0
    while left:
        layer = [one for one in left if not any(dominates(other, one) for other in left)]
        layers |= {one.trial: depth for one in layer}
        left = [one for one in left if one.trial not in layers]
        depth += 1
    depths = [layers[one.trial] for one in order]
    assert depths == sorted(depths)


def test_an_epsilon_net_spreads() -> None:
    line = [Look(n, 0, 100 * (n + 1), 200.0 - 10 * n) for n in range(9)]
    assert [one.trial for one in ranked(line)][:3] == [8, 0, 4]


def test_asha_takes_the_first_of_eta() -> None:
    rule = Asha(rungs=(0.25,), eta=3.0)
    line = [Look(n, 0, 1000, 100.0 + n) for n in range(9)]
    assert [rule.goes_on(one, line, DENSE) for one in line] == [True] * 3 + [False] * 6
    assert rule.goes_on(line[8], [], DENSE)
    assert not rule.goes_on(Look(0, 0, 1000, math.inf), [], DENSE)


# --- the ladder --------------------------------------------------------------------------------


def test_a_ladder_ends_with_the_recipe_and_each_step_begins_as_the_next() -> None:
    recipe = Recipe(finetuning=make_settings(epochs=2.0))
    ladder = fidelity({"kind": "front", "rungs": [0, 0.25, 1.0, 2.0, 4.0]}).ladder(recipe)
    steps = [step.finetuning for step in ladder]
    assert steps[0] is None
    assert [step.epochs for step in steps if step] == [0.25, 1.0, 2.0]
    for lower, higher in pairwise(step for step in steps if step):
        assert lower.ends == higher.ends[: len(lower.ends)]
    assert Whole().ladder(recipe) == [recipe]
    untuned = Recipe()
    assert fidelity({"kind": "front", "rungs": [0, 1]}).ladder(untuned) == [untuned]
    short = Recipe(finetuning=make_settings(epochs=0.1))
    assert fidelity({"kind": "asha", "rungs": [0.25]}).ladder(short) == [short]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"kind": "front", "rungs": [1, 0.5]}, "ascend"),
        ({"kind": "front", "rungs": [-1]}, "rungs"),
        ({"kind": "front", "eta": 0.5}, "eta"),
        ({"kind": "asha", "eta": 1}, "eta"),
        ({"kind": "front", "worst": 0}, "worst"),
        ("best", "asha, front, whole"),
    ],
)
def test_a_wrong_rule_is_refused(data: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fidelity(data)


def test_trials_of_another_fidelity_are_no_rivals() -> None:
    """A study that was swept with `whole` first has trained files at rung 0."""
    trained = [Look(n, 0, 1000 * (n + 1), 80.0 - n, updates=100) for n in range(30)]
    untrained = [Look(100 + n, 0, 800 * (n + 1), 200.0 - n) for n in range(12)]
    assert rivals(untrained[0], [*trained, *untrained]) == untrained[1:]
    assert all(FRONT.goes_on(one, [*trained, *untrained], DENSE) for one in untrained)
    assert not predicts([*trained, *untrained])
