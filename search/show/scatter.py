"""The size-perplexity plane as text, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from search.front import Point
from search.show.literature import LiteraturePoint
from search.show.plane import PlotRecord, coordinates, view_of
from search.units import format_size

WIDTH, HEIGHT = 80, 20  # characters and lines of the plane with its labels
LEAST_WIDTH, LEAST_HEIGHT = 30, 8
SMALLEST, LARGEST = -300, 300  # powers of ten that are still floats, and steps between them
MOST_NAMED = 4  # baselines; of more, only their number is said
APART = 2, 1  # blanks between labels: characters along, lines above each other


class Mark(NamedTuple):
    """What a kind of point is drawn as, with all characters and with those of ASCII."""

    full: str
    ascii: str


DOMINATED, INFEASIBLE, LITERATURE = Mark("·", "."), Mark("×", "x"), Mark("+", "+")
FRONT, BASELINE, KNEE = Mark("●", "o"), Mark("■", "#"), Mark("◆", "@")


@dataclass(frozen=True)
class Axis:
    """A log axis from `low` to `high`, above zero, of so many characters."""

    low: float
    high: float
    cells: int

    def cell(self, value: float) -> int | None:
        """The character that a value lies in, None outside the axis. Neighbours share no value: the
        upper end of a character belongs to the next one, but the axis' own to the last."""
        if not self.low <= value <= self.high:
            return None
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return min(int(share * self.cells), self.cells - 1)

    def ticks(self, label: Callable[[float], str], room: Callable[[str], int]) -> dict[int, str]:
        """Cell -> label of round values, as many as fit: those of one step, whose labels lie apart
        and differ. `room` says how many cells a label needs. An axis without two round values has
        its ends."""
        best: dict[int, str] = {}
        for values in _round_values(self.low, self.high):
            placed = {cell: label(v) for v in values if (cell := self.cell(v)) is not None}
            if len(placed) == len(values) > len(best) and _apart(placed, room):
                best = placed
        if len(best) < 2:
            best = {0: label(self.low), self.cells - 1: label(self.high)}
        return best


def _round_values(low: float, high: float) -> Iterator[list[float]]:
    """The values between `low` and `high` of one step, for one step after the other: powers of ten,
    some between them, and multiples of 1, 2 or 5 times a power."""
    first = max(math.floor(math.log10(low)), SMALLEST)
    last = min(math.ceil(math.log10(high)), LARGEST)
    for decades in (24, 12, 6, 3, 2, 1):
        powers = range(math.ceil(first / decades) * decades, last + 1, decades)
        yield [10.0**p for p in powers if low <= 10.0**p <= high]
    for between in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(range(1, 10))):
        values = (d * 10.0**power for power in range(first, last + 1) for d in between)
        yield [value for value in values if low <= value <= high]
    for power in range(first - 3, last):
        for digit in (1, 2, 5):
            step = digit * 10.0**power
            if (high - low) / step <= 40:
                yield [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _apart(placed: dict[int, str], room: Callable[[str], int]) -> bool:
    if len(set(placed.values())) < len(placed):
        return False
    ends = -math.inf
    for cell, text in sorted(placed.items()):
        begins = cell - (room(text) - 1) // 2
        if begins < ends:
            return False
        ends = begins + room(text)
    return True


def placed(record: PlotRecord, across: Axis, up: Axis) -> dict[tuple[int, int], Mark]:
    """(Column, row from below) -> the mark there. Where several points share a character, the one
    that matters most is seen: the pick, then baselines, the front, the literature, infeasible
    points, dominated ones."""
    kinds: list[tuple[Iterable[Point | LiteraturePoint], Mark]] = [
        (record.dominated, DOMINATED),
        (record.infeasible, INFEASIBLE),
        (record.literature, LITERATURE),
        (record.front, FRONT),
        (record.baselines, BASELINE),
        ([record.pick] if record.pick else [], KNEE),
    ]
    found = {}
    for points, mark in kinds:
        for size, perplexity in map(coordinates, points):
            column, row = across.cell(size), up.cell(perplexity)
            if column is not None and row is not None:
                found[column, row] = mark
    return found


def scatter(
    record: PlotRecord, width: int = WIDTH, height: int = HEIGHT, ascii: bool = False
) -> list[str]:
    """The plane in `width` characters and `height` lines, and below it what the marks mean.

    Both axes are logarithmic and have labels at round values. What lies far from the front is not
    seen (see `view_of`); the last line counts it. Without any point there is one line that says so.
    """
    own = (*record.front, *record.dominated, *record.infeasible, *record.baselines)
    if not own:
        return [f"{record.study} has no measured model to draw"]
    width, height = max(width, LEAST_WIDTH), max(height, LEAST_HEIGHT)
    view, rows = view_of(record), height - 3
    up = Axis(*view.perplexity, rows)
    heights = up.ticks(lambda value: f"{value:.6g}", lambda text: 1 + APART[1])
    gutter = max(map(len, heights.values()))
    across = Axis(*view.size_bytes, width - gutter - 2)
    widths = across.ticks(lambda v: format_size(round(v)), lambda text: len(text) + APART[0])
    marks = placed(record, across, up)
    line, corner, tick, cross = "|+-+" if ascii else "│└─┴"
    lines = [record.measure.head.rjust(gutter)]
    for row in reversed(range(rows)):
        drawn = [_character(marks.get((column, row)), ascii) for column in range(across.cells)]
        lines.append(f"{heights.get(row, ''):>{gutter}} {line}{''.join(drawn)}".rstrip())
    base = "".join(cross if cell in widths else tick for cell in range(across.cells))
    lines.append(f"{'':{gutter}} {corner}{base}")
    lines.append(_labels(widths, gutter + 2, width))
    seen = sum(_is_seen(point, across, up) for point in own)
    return [*lines, *_legend(record, set(marks.values()), len(own) - seen, width, ascii)]


def _is_seen(point: Point, across: Axis, up: Axis) -> bool:
    size, perplexity = coordinates(point)
    return across.cell(size) is not None and up.cell(perplexity) is not None


def _character(mark: Mark | None, ascii: bool) -> str:
    return " " if mark is None else mark.ascii if ascii else mark.full


def _labels(widths: dict[int, str], indent: int, width: int) -> str:
    """The labels of the lower axis, each below its tick, moved inwards at the ends."""
    line = [" "] * width
    for cell, text in widths.items():
        begin = min(max(0, indent + cell - (len(text) - 1) // 2), width - len(text))
        line[begin : begin + len(text)] = text
    return "".join(line).rstrip()


def _legend(
    record: PlotRecord, shown: set[Mark], unseen: int, width: int, ascii: bool
) -> Iterator[str]:
    """What each mark that is drawn means, in lines of at most `width` characters where words allow
    that."""
    names = [point.name for point in record.baselines]
    baselines = ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} baselines"
    meanings = {
        FRONT: "front",
        KNEE: "knee",
        DOMINATED: "dominated",
        INFEASIBLE: "over a limit",
        LITERATURE: "published, on test",
        BASELINE: baselines,
    }
    parts = [
        f"{_character(mark, ascii)} {text}" for mark, text in meanings.items() if mark in shown
    ]
    if unseen:
        parts.append(f"{unseen} outside")
    yield from _wrapped(parts, width)


def _wrapped(parts: Sequence[str], width: int) -> Iterator[str]:
    line = ""
    for part in parts:
        if line and len(line) + 2 + len(part) > width:
            yield line
            line = ""
        line = f"{line}  {part}" if line else part
    yield line
