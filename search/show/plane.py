"""The size-perplexity plane: what is drawn in it, how much of it is seen, and where labels fit."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lmcore.task import PERPLEXITY, Measure
from search.front import Front, Point, useful
from search.show.literature import LiteraturePoint, literature_points
from search.show.style import MUTED

WIDTH, HEIGHT = 1000, 640
LEFT, RIGHT, TOP, BOTTOM = 76, 226, 84, 62
LABEL_SIZE = 11
MOST_NAMED = 12  # baselines; more are told apart by method instead
Box = tuple[float, float, float, float]  # left, top, right, bottom
SIDES = (
    *(("middle", "right"), ("middle", "left"), ("top", "center"), ("bottom", "center")),
    *(("top", "right"), ("bottom", "right"), ("top", "left"), ("bottom", "left")),
)


@dataclass(frozen=True)
class PlotRecord:
    """Everything the picture shows. `pick` is the point of `front` that it points out.

    Points in `unmeasured` cannot be drawn (see `front_of`); the picture says how many there are.
    """

    study: str
    corpus: str
    front: tuple[Point, ...]
    dominated: tuple[Point, ...]
    infeasible: tuple[Point, ...]
    unmeasured: tuple[Point, ...]
    baselines: tuple[Point, ...]
    literature: tuple[LiteraturePoint, ...]
    pick: Point | None
    predicted: tuple[tuple[float, float], ...] = ()  # bytes and perplexity, before any training
    measure: Measure = PERPLEXITY


@dataclass(frozen=True)
class View:
    """What is seen of the plane at first: (low, high) in bytes and in perplexity."""

    size_bytes: tuple[float, float]
    perplexity: tuple[float, float]


def record_of(
    front: Front,
    corpus: str,
    baselines: Iterable[Point] = (),
    predicted: Iterable[tuple[float, float]] = (),
) -> PlotRecord:
    """The record to draw: the front with its knee picked, the `baselines` measured beside the
    search, the literature on `corpus`, and the front that was `predicted`, in bytes and perplexity.
    An empty front has no pick.
    """
    shown = {point.name for point in front.plane}  # of the others, speed is the merit
    dominated = [*(p for p in front.points if p.name not in shown), *front.dominated]
    others = (*front.dominated, *front.infeasible, *baselines)
    return PlotRecord(
        study=front.study,
        corpus=corpus,
        front=front.plane,
        dominated=tuple(point for point in dominated if point.measured),
        infeasible=tuple(point for point in front.infeasible if point.measured),
        unmeasured=tuple(point for point in others if not point.measured),
        baselines=tuple(point for point in baselines if point.measured),
        literature=literature_points(corpus),
        pick=front.knee() if front.points else None,
        predicted=tuple((size, perplexity) for size, perplexity in predicted),
        measure=front.measure,
    )


def view_of(record: PlotRecord) -> View:
    """What is seen at first: the front, the baselines, and the other points near them.

    Only the `useful` points of the front count, so that a few collapsed models do not press all
    others together. The other points (dominated, infeasible, literature) are near where their size
    is within a factor of 2 and their perplexity within 1.3 below or 1.15 above. Zooming out shows
    the rest. With neither front nor baselines, all points are seen. With no point at all, the view
    is 100 kB to 10 MB and perplexity 80 to 150.
    """
    baselines = record.baselines
    if len(baselines) > MOST_NAMED:
        baselines = useful(tuple(sorted(baselines, key=lambda p: p.valid_measure, reverse=True)))
    own = [coordinates(point) for point in (*useful(record.front), *baselines)]
    others = [
        coordinates(point) for point in record.dominated + record.infeasible + record.literature
    ]
    if own:
        (left, right), (low, high) = (_ends(values) for values in zip(*own, strict=True))
        shown = own + [
            (size, perplexity)
            for size, perplexity in others
            if left / 2 <= size <= right * 2 and low / 1.3 <= perplexity <= high * 1.15
        ]
    else:
        shown = others or [(10**5, 80), (10**7, 150)]
    sizes, perplexities = zip(*shown, strict=True)
    return View(_padded(sizes), _padded(perplexities))


def coordinates(point: Point | LiteraturePoint) -> tuple[float, float]:
    """Where a point is drawn: (bytes, perplexity). The perplexity is that of the test text for a
    literature point, since sources state that one, and of the validation text for all others."""
    if isinstance(point, LiteraturePoint):
        return point.size_bytes, point.test_perplexity
    return point.size_bytes, point.valid_measure


def _ends(values: Iterable[float]) -> tuple[float, float]:
    values = tuple(values)
    return min(values), max(values)


def _padded(values: Iterable[float]) -> tuple[float, float]:
    """The ends of `values`, each moved out by 6 % of their distance in logs, at least by 3 %."""
    low, high = _ends(values)
    factor = max((high / low) ** 0.06, 1.03)
    return low / factor, high * factor


class Labels:
    """Places labels beside points where they hide the least. Earlier calls choose first.

    Coordinates are pixels of the first view of the 1000 x 640 picture, x rightwards, y downwards.
    """

    def __init__(self, record: PlotRecord, view: View) -> None:
        self._view = view
        marked = [self._pixels(p) for p in record.front + record.baselines + record.literature]
        self._taken = [_box(at, at, 6) for at in marked]
        steps = stairs([self._pixels(point) for point in record.front], TOP, WIDTH - RIGHT)
        self._taken += [_box(*ends, 2) for ends in pairwise(steps)]

    def beside(
        self, points: Sequence[Point | LiteraturePoint], texts: Iterable[str], colour: str
    ) -> dict[str, Any]:
        """Plotly's settings for `texts`, each beside its point.

        Labels of the study are bold and always written. A muted label is left out where more than a
        quarter of its area would be covered; the hover text still has the name.
        """
        bold = colour != MUTED
        chosen = [
            self._choose(self._pixels(p), t, bold) for p, t in zip(points, texts, strict=True)
        ]
        return {
            "text": [f"\N{NO-BREAK SPACE}{html.escape(t)}\N{NO-BREAK SPACE}" for t, _ in chosen],
            "textposition": [side for _, side in chosen],
            "textfont": {
                "color": colour,
                "size": LABEL_SIZE + bold,
                "weight": "bold" if bold else "normal",
            },
        }

    def _choose(self, at: tuple[float, float], text: str, bold: bool) -> tuple[str, str]:
        """The text, empty where it is left out, and the side of the point that it is on."""
        x, y = at
        width, height, gap = (0.6 if bold else 0.54) * LABEL_SIZE * len(text), 1.2 * LABEL_SIZE, 9
        across = {"right": x + gap, "left": x - gap - width, "center": x - width / 2}
        down = {"middle": y - height / 2, "top": y - gap - height, "bottom": y + gap}
        boxes = {
            f"{one} {other}": (across[other], down[one], across[other] + width, down[one] + height)
            for one, other in SIDES
        }
        seen = LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM
        side = min(boxes, key=lambda side: self._lost(boxes[side], seen))
        if not bold and self._lost(boxes[side], seen) > width * height / 4:
            return "", side
        self._taken.append(boxes[side])
        return text, side

    def _lost(self, box: Box, seen: bool) -> float:
        """The cost of a label's box: the square pixels that cover something, and four times those
        that leave the plane.

        For a point outside the plane it is the other way round: pixels inside the plane cost.
        """
        inside = _overlap(box, (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))
        astray = _overlap(box, box) - inside if seen else inside
        return 4 * astray + sum(_overlap(box, taken) for taken in self._taken)

    def _pixels(self, point: Point | LiteraturePoint) -> tuple[float, float]:
        size_bytes, perplexity = coordinates(point)
        x = _share(size_bytes, *self._view.size_bytes)
        y = _share(perplexity, *self._view.perplexity)
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def stairs(
    corners: Sequence[tuple[float, float]], start_y: float, end_x: float
) -> list[tuple[float, float]]:
    """The corners of the staircase through `corners`, from `start_y` down and on to `end_x`."""
    if not corners:
        return []
    (first_x, _), (_, last_y) = corners[0], corners[-1]
    steps = [at for (_, y), (x, below) in pairwise(corners) for at in ((x, y), (x, below))]
    return [(first_x, start_y), corners[0], *steps, (end_x, last_y)]


def _box(one: tuple[float, float], other: tuple[float, float], margin: float) -> Box:
    (left, right), (top, bottom) = (sorted(ends) for ends in zip(one, other, strict=True))
    return left - margin, top - margin, right + margin, bottom + margin


def _overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)
