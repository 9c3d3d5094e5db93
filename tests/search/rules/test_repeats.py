"""What follows from trainings with other seeds, against every draw of one seed of each point."""

from __future__ import annotations

import math
from itertools import product
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.rules.repeats import Points, Seed, attainment, mean_and_sd, shares_on_front

NUMBERS = st.integers(1, 5).map(float)
SEEDS = st.lists(
    st.builds(Seed, NUMBERS, st.one_of(NUMBERS, st.sampled_from([math.inf, math.nan]))),
    min_size=1,
    max_size=3,
)
POINTS = st.lists(SEEDS, max_size=4).map(lambda found: dict(zip("abcd", found, strict=False)))


def draws(points: Points) -> list[dict[str, Seed]]:
    return [dict(zip(points, drawn, strict=True)) for drawn in product(*points.values())]


def finite(seed: Seed) -> bool:
    return math.isfinite(seed.perplexity)


def attains(drawn: dict[str, Seed], size: float, perplexity: float) -> bool:
    return any(finite(s) and s[0] <= size and s[1] <= perplexity for s in drawn.values())


def within(stairs: list[tuple[float, float]], size: float, perplexity: float) -> bool:
    return any(x <= size and y <= perplexity for x, y in stairs)


@given(POINTS)
def test_the_share_on_the_front_is_that_of_all_draws(points: Points) -> None:
    every = draws(points)
    for name, share in shares_on_front(points, points).items():
        stays = [
            finite(drawn[name])
            and not any(
                finite(s) and s != drawn[name] and s[0] <= drawn[name][0] and s[1] <= drawn[name][1]
                for s in drawn.values()
            )
            for drawn in every
        ]
        assert share == pytest.approx(sum(stays) / len(stays))


@given(POINTS)
def test_the_bands_are_where_any_half_and_all_of_the_draws_attain(points: Points) -> None:
    bands, every = attainment(points), draws(points)
    for size, perplexity in product(range(7), range(7)):
        share = fmean(attains(drawn, size, perplexity) for drawn in every)
        assert within(bands["best"], size, perplexity) == (share > 0)
        assert within(bands["median"], size, perplexity) == (share >= 0.5 and bool(points))
        assert within(bands["worst"], size, perplexity) == (share == 1)
    for stairs in bands.values():
        assert stairs == sorted(stairs)
        assert [y for _, y in stairs] == sorted({y for _, y in stairs}, reverse=True)


def test_a_point_that_was_trained_once_has_no_spread() -> None:
    assert mean_and_sd([3.0]) == (3.0, 0.0)
    assert mean_and_sd([3.0, 5.0]) == pytest.approx((4.0, stdev([3.0, 5.0])))
    assert all(map(math.isnan, mean_and_sd([3.0, math.inf])))


def test_a_point_that_the_rest_of_the_study_dominates_in_some_seeds_loses_these() -> None:
    points = {"a": [Seed(4, 4), Seed(4, 6)], "b": [Seed(3, 5)], "c": [Seed(9, 1)]}
    assert shares_on_front(points, ["a"]) == {"a": 0.5}


def test_perplexities_that_no_float_can_square_have_no_spread() -> None:
    assert all(map(math.isnan, mean_and_sd([1e308, 1e308, 1.0])))
    assert mean_and_sd([1.0, 3.0]) == (2.0, math.sqrt(2))
