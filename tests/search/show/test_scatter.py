"""The plane as text: each mark where its point lies, labels apart, any measurement."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from search.front import Point, front_of
from search.show.plane import record_of, view_of
from search.show.scatter import Axis, scatter
from search.units import format_size

VALUES = st.floats(min_value=1e-3, max_value=1e15)


def point(trial: int, size: int, perplexity: float, feasible: bool = True) -> Point:
    return Point(str(trial), trial, size, perplexity, None, None, feasible=feasible)


def drawn(points: list[Point], baselines: tuple[Point, ...] = (), **more: Any) -> list[str]:
    return scatter(record_of(front_of("mine", points), "text", baselines), **more)


def plane(lines: list[str]) -> list[str]:
    """The rows inside the axes, from below."""
    rows = [line.split("│", 1)[1] for line in lines if "│" in line]
    return list(reversed(rows))


@given(low=VALUES, ratio=st.floats(1.03, 1e12), share=st.floats(0, 1), cells=st.integers(5, 90))
def test_a_value_lies_in_the_character_that_a_search_finds(
    low: float, ratio: float, share: float, cells: int
) -> None:
    axis = Axis(low, low * ratio, cells)
    value = min(max(low * ratio**share, low), low * ratio)
    edges = [math.log(low) + math.log(ratio) * n / cells for n in range(cells + 1)]
    found = [n for n in range(cells) if edges[n] - 1e-9 <= math.log(value) <= edges[n + 1] + 1e-9]
    assert axis.cell(value) in found
    assert axis.cell(low / 1.01) is None
    assert axis.cell(low * ratio * 1.01) is None


@given(low=st.floats(10, 1e8), ratio=st.floats(1.03, 1e7), cells=st.integers(30, 90))
def test_labels_of_an_axis_are_apart_in_order_and_where_their_values_lie(
    low: float, ratio: float, cells: int
) -> None:
    axis = Axis(low, low * ratio, cells)
    ticks = axis.ticks(lambda v: f"{v:.6g}", lambda text: len(text) + 2)
    assert len(ticks) >= 2
    values = [float(text) for _, text in sorted(ticks.items())]
    assert values == sorted(values)
    inner = [cell for cell in ticks if 0 < cell < cells - 1]
    for cell in inner:
        assert axis.cell(float(ticks[cell])) == cell
    for one, other in pairwise(sorted(inner)):
        assert other - one >= (len(ticks[one]) + len(ticks[other])) / 2


def test_every_mark_is_where_its_points_lie() -> None:
    """Against brute force: each character is that of the most important point inside its box."""
    draw = random.Random(3)
    points = [
        point(n, int(10 ** draw.uniform(5, 7)), 10 ** draw.uniform(2, 2.4), draw.random() > 0.2)
        for n in range(150)
    ]
    dense = Point("dense", None, 9_000_000, 101.0, None, None)
    record = record_of(front_of("mine", points), "text", [dense])
    rows, view = plane(scatter(record)), view_of(record)
    order: list[tuple[Sequence[Any], str]] = [
        ([record.pick], "◆"),
        ([dense], "■"),
        (record.front, "●"),
        (record.infeasible, "×"),
        (record.dominated, "·"),
    ]
    width = 80 - len(scatter(record)[1].split("│")[0]) - 1
    for number, row in enumerate(rows):
        for column in range(width):
            box = [
                (low * (high / low) ** (at / cells), low * (high / low) ** ((at + 1) / cells))
                for (low, high), at, cells in (
                    (view.size_bytes, column, width),
                    (view.perplexity, number, len(rows)),
                )
            ]
            inside = (
                mark
                for group, mark in order
                for one in group
                if one
                and box[0][0] <= one.size_bytes < box[0][1]
                and box[1][0] <= one.valid_measure < box[1][1]
            )
            assert row.ljust(width)[column] == next(inside, " "), (column, number)


@runs(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 10**13), st.floats(1, 1e300)), min_size=1, max_size=12),
    st.integers(30, 100),
)
def test_any_models_are_drawn_in_the_width(measured: list[tuple[int, float]], width: int) -> None:
    lines = drawn([point(n, *one) for n, one in enumerate(measured)], width=width)
    assert all(len(line) <= width for line in lines[:20])
    assert "◆" in "".join(lines)


def test_without_a_model_a_line_says_so() -> None:
    assert drawn([]) == ["mine has no measured model to draw"]
    assert drawn([point(0, 1000, math.nan)]) == drawn([])


def test_one_model_and_equal_ones_have_an_axis() -> None:
    for points in ([point(0, 123_456, 90.0)], [point(n, 123_456, 90.0) for n in range(3)]):
        lines = drawn(points)
        assert "".join(plane(lines)).strip() == "◆"
        labels = re.findall(r"[\d.]+ kB", lines[-2])
        assert len(labels) >= 2
        assert float(labels[0][:-3]) <= 123.456 <= float(labels[-1][:-3])


def test_what_is_far_away_is_counted() -> None:
    points = [point(0, 100_000, 120.0), point(1, 200_000, 100.0), point(2, 10**9, 100_000.0)]
    assert "1 outside" in drawn(points)[-1]


def test_ascii_does_without_other_characters() -> None:
    points = [point(0, 100_000, 120.0), point(1, 200_000, 100.0), point(2, 210_000, 118.0)]
    points.append(point(3, 150_000, 119.0, feasible=False))
    dense = Point("dense", None, 400_000, 99.0, None, None)
    text = "\n".join(scatter(record_of(front_of("mine", points), "text", [dense]), ascii=True))
    assert text.isascii()
    assert {"@ knee", "o front", ". dominated", "x over a limit", "# dense"} <= set(
        re.split(r"  |\n", text)
    )
    assert format_size(100_000) in text


@pytest.mark.parametrize(("low", "high"), [(1e-307, 1e-301), (90.0, 1.7e308)])
def test_an_axis_at_the_ends_of_what_floats_can_say(low: float, high: float) -> None:
    ticks = Axis(low, high, 60).ticks(lambda v: f"{v:.6g}", lambda text: len(text) + 2)
    assert len(ticks) >= 2
