"""The fast front, hypervolume and knee against brute force, and what `choose` says."""

import dataclasses
import itertools
import math

import moocore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcore.errors import UserError
from search.front import Front, Point, choose, front_of, hypervolume


def point(
    trial: int | None,
    size_bytes: int,
    perplexity: float,
    name: str = "",
    speed: float | None = None,
) -> Point:
    made = Point(name or str(trial), trial, size_bytes, perplexity, None, None)
    return dataclasses.replace(made, relative_speed=speed)


@st.composite
def point_lists(
    draw: st.DrawFn, unmeasured: bool = True, speeds: tuple[float | None, ...] = (None,)
) -> list[Point]:
    """Points on a small grid, so that ties and duplicates abound; names are unique."""
    perplexities = [80.0, 90.0, 100.0, 120.0, 150.0, 200.0]
    if unmeasured:
        perplexities += [math.nan, math.inf, -math.inf, 0.0, -1.0]
    sizes = [1000, 2000, 5000, 10_000, 20_000] + [0] * unmeasured
    values = [st.sampled_from(one) for one in (sizes, perplexities, speeds)]
    rows = draw(st.lists(st.tuples(*values, st.booleans()), max_size=12))
    points = [
        point(None if outside else number, size, perplexity, f"p{number}", speed)
        for number, (size, perplexity, speed, outside) in enumerate(rows)
    ]
    return draw(st.permutations(points))


def order(p: Point) -> tuple[float, str]:
    return (math.inf if p.trial is None else p.trial, p.name)


def dominates(one: Point, other: Point) -> bool:
    if not one.measured:
        return False
    mine, others = (
        (p.size_bytes, p.valid_measure, -(p.relative_speed or 0.0)) for p in (one, other)
    )
    if any(value > limit for value, limit in zip(mine, others, strict=True)):
        return False
    return mine != others or order(one) < order(other)


@given(point_lists())
def test_the_front_is_what_nothing_dominates(points: list[Point]) -> None:
    front = front_of("s", points)
    expected = [p for p in points if p.measured and not any(dominates(q, p) for q in points)]
    assert list(front.points) == sorted(expected, key=lambda p: p.size_bytes)
    names = {p.name for p in front.points}
    rest = sorted((p for p in points if p.name not in names), key=order)
    assert [p.name for p in front.dominated] == [p.name for p in rest]
    for smaller, larger in itertools.pairwise(front.points):
        assert smaller.size_bytes < larger.size_bytes
        assert smaller.valid_measure > larger.valid_measure


@given(point_lists(speeds=(None, 0.5, 1.0, 2.0, 8.0)))
def test_with_speeds_the_front_is_what_nothing_dominates_in_all_three(points: list[Point]) -> None:
    front = front_of("s", points)
    expected = {p.name for p in points if p.measured and not any(dominates(q, p) for q in points)}
    assert {p.name for p in front.points} == expected
    assert len(front.points) + len(front.dominated) == len(points)
    without = [dataclasses.replace(p, relative_speed=None) for p in points]
    flat = front_of("s", without).points
    assert [(p.size_bytes, p.valid_measure) for p in front.plane] == [
        (p.size_bytes, p.valid_measure) for p in flat
    ]
    reference = (30_000.0, 300.0)
    assert hypervolume(points, reference) == hypervolume(without, reference)
    if front.points:
        one, other = (
            choose(each, max_size_bytes=20_000) for each in (front, front_of("s", without))
        )
        assert (one.size_bytes, one.valid_measure) == (other.size_bytes, other.valid_measure)


def test_a_speed_that_is_no_number_is_the_slowest() -> None:
    fast, none, odd = (point(n, 9, 2.0, speed=s) for n, s in enumerate((3.0, None, math.nan)))
    assert front_of("s", [odd, none, fast]).points == (fast,)


def test_ties_duplicates_and_the_unmeasured() -> None:
    tied_size = [point(0, 1000, 100.0), point(1, 1000, 90.0)]
    assert front_of("s", tied_size).points == (tied_size[1],)
    tied_perplexity = [point(0, 2000, 90.0), point(1, 1000, 90.0)]
    assert front_of("s", tied_perplexity).points == (tied_perplexity[1],)
    twice = [point(None, 1000, 90.0, "dense"), point(5, 1000, 90.0), point(3, 1000, 90.0)]
    assert front_of("s", twice) == Front("s", (twice[2],), (twice[1], twice[0]))
    assert front_of("s", [twice[1], twice[1]]).dominated == (twice[1],)
    broken = [point(0, 10, math.nan), point(1, 10, math.inf), point(2, 0, 90.0), point(3, 10, -1.0)]
    assert front_of("s", broken).points == ()
    assert [p.trial for p in front_of("s", broken).dominated] == [0, 1, 2, 3]
    assert front_of("s", []) == Front("s", (), ())


def test_what_is_over_a_limit_is_not_on_the_front() -> None:
    over = dataclasses.replace(point(0, 100, 10.0), feasible=False)
    kept = point(1, 1000, 90.0)
    front = front_of("s", [over, kept])
    assert front == Front("s", (kept,), (), (over,))
    with pytest.raises(UserError, match="all 1 models of s are over the max_size or max_perp"):
        front_of("s", [over]).knee()


REFERENCES = st.tuples(
    st.sampled_from([900, 1000, 5000, 30_000]), st.sampled_from([70.0, 100.0, 300.0])
)


@given(point_lists(), REFERENCES)
def test_hypervolume_is_the_area_of_the_dominated_cells(
    points: list[Point], reference: tuple[float, float]
) -> None:
    inside = [
        p
        for p in points
        if p.measured and p.size_bytes < reference[0] and p.valid_measure < reference[1]
    ]
    xs = sorted({math.log(p.size_bytes) for p in inside} | {math.log(reference[0])})
    ys = sorted({math.log(p.valid_measure) for p in inside} | {math.log(reference[1])})
    area = sum(
        (right - left) * (top - low)
        for left, right in itertools.pairwise(xs)
        for low, top in itertools.pairwise(ys)
        if any(math.log(p.size_bytes) <= left and math.log(p.valid_measure) <= low for p in inside)
    )
    assert hypervolume(points, reference) == pytest.approx(area, abs=1e-12)


@given(point_lists(unmeasured=False), REFERENCES)
def test_hypervolume_agrees_with_moocore(
    points: list[Point], reference: tuple[float, float]
) -> None:
    logs = [(math.log(p.size_bytes), math.log(p.valid_measure)) for p in points]
    expected = moocore.hypervolume(logs, ref=[math.log(r) for r in reference]) if logs else 0.0
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("reference", [(0, 100.0), (1000, math.nan), (math.inf, 100.0)])
def test_a_reference_point_that_is_none_is_refused(reference: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="reference point"):
        hypervolume([], reference)


@given(point_lists(unmeasured=False).filter(bool))
def test_the_knee_lies_farthest_below_the_chord(points: list[Point]) -> None:
    front = front_of("s", points)
    knee = front.knee()
    lowest = min(p.valid_measure for p in front.points)
    sane = [p for p in front.points if p.valid_measure <= 2 * lowest]
    logs = {p.name: (math.log(p.size_bytes), math.log(p.valid_measure)) for p in sane}
    (left, top), (right, low) = logs[sane[0].name], logs[sane[-1].name]
    if len(sane) < 3:
        assert knee == front.points[-1]
        return
    below = {
        name: 1 - (x - left) / (right - left) - (y - low) / (top - low)
        for name, (x, y) in logs.items()
    }
    assert below[knee.name] == pytest.approx(max(below.values()), abs=1e-12)


def test_a_front_that_bulges_has_its_knee_at_the_lowest_perplexity() -> None:
    bulge = front_of("s", [point(0, 1000, 200.0), point(1, 9000, 190.0), point(2, 10_000, 100.0)])
    assert bulge.knee().trial == 2


def test_a_collapsed_model_does_not_move_the_knee() -> None:
    points = [point(0, 2000, 110.0), point(1, 3000, 101.0), point(2, 9000, 100.0)]
    assert front_of("s", points).knee().trial == 1
    assert front_of("s", [*points, point(3, 900, 5000.0)]).knee().trial == 1


def test_the_knee_bears_perplexities_whose_logs_are_one() -> None:
    near = [point(0, 1000, math.nextafter(117.0, 118)), point(1, 2000, 117.0)]
    assert front_of("s", near).knee() in near


FRONT = front_of(
    "ptb_small",
    [
        point(12, 412_345, 130.2149),
        point(3, 800_000, 105.0),
        point(7, 4_900_000, 95.2145),
        point(4, 5_000_000, 99.0),
        point(0, 6_000_000, math.nan),
        point(None, 18_600_000, 117.0, "dense"),
    ],
)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "3"),
        ({"pick": "knee"}, "3"),
        ({"pick": "smallest"}, "12"),
        ({"pick": "best"}, "7"),
        ({"max_size_bytes": 412_345}, "12"),
        ({"max_size_bytes": 4_899_999}, "3"),
        ({"max_size_bytes": 10**9}, "7"),
        ({"max_perplexity": 1000.0}, "12"),
        ({"max_perplexity": 105.0}, "3"),
        ({"max_perplexity": 104.9}, "7"),
    ],
)
def test_choose(asked: dict[str, object], name: str) -> None:
    assert choose(FRONT, **asked).name == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"max_size_bytes": 100_000},
            "no point of ptb_small has at most 100 kB: its smallest is trial 12 with 412 kB at "
            "perplexity 130.21",
        ),
        (
            {"max_size_bytes": 412_344},
            "no point of ptb_small has at most 412344 B: its smallest is trial 12 with 412345 B "
            "at perplexity 130.21",
        ),
        (
            {"max_perplexity": 80.0},
            "no point of ptb_small has perplexity 80.00 or less: its best is trial 7 with "
            "95.21 at 4.90 MB",
        ),
        (
            {"max_perplexity": 95.21},
            "no point of ptb_small has perplexity 95.21 or less: its best is trial 7 with "
            "95.2145 at 4.90 MB",
        ),
        ({"pick": "middle"}, "there is no pick 'middle'; there are knee, smallest, best"),
        (
            {"max_size_bytes": 1, "pick": "best"},
            "max_size and pick exclude each other: give one of max_size, max_perplexity, pick",
        ),
    ],
)
def test_choose_says_what_is_wrong_and_how_near_the_front_comes(
    asked: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError) as error:
        choose(FRONT, **asked)  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize(
    "asked", [{}, {"pick": "best"}, {"max_size_bytes": 10}, {"max_perplexity": 9.0}]
)
def test_an_empty_front_has_nothing_to_choose(asked: dict[str, object]) -> None:
    with pytest.raises(UserError, match="new has no measured"):
        choose(front_of("new", []), **asked)  # type: ignore[arg-type]


def test_a_baseline_is_called_by_its_name() -> None:
    assert [p.label for p in FRONT.dominated] == ["trial 0", "trial 4", "dense"]
    assert not dataclasses.replace(FRONT.points[0], size_bytes=0).measured
