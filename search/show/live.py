"""A sweep while it runs, as lines for a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmcore.task import PERPLEXITY, Measure
from search.rules.fidelity import Look
from search.rules.sensitivity import spread
from search.screen import Size, gauge, sparkline
from search.show.tables import aligned
from search.terminal import Pace, progress_line
from search.units import format_size

if TYPE_CHECKING:
    from rich.text import Text

MOST_POINTS = 10  # of the front
GAUGE, COURSE = 20, 24  # characters of a worker's bar and of the hypervolume's course


@dataclass(frozen=True)
class AtWork:
    """A worker and what it works on: `rung` is the one that its trial climbs to, None for what has
    no rungs; `fraction` is how much of the training up to there is done."""

    worker: str
    doing: str
    rung: int | None = None
    fraction: float = 0.0


@dataclass(frozen=True)
class Live:
    """A sweep at one moment. `hypervolume` has a value after each file that was measured, of which
    the first `before` are from earlier sweeps. `front` is by size."""

    study: str
    pace: Pace
    at_work: Sequence[AtWork] = ()
    front: Sequence[Look] = ()
    hypervolume: Sequence[float] = ()
    before: int = 0
    failed: int = 0
    measure: Measure = PERPLEXITY


def frame(live: Live, size: Size) -> list[Text]:
    """The lines to draw, no more than the screen has: how far the sweep is, how the hypervolume
    grew, who does what, and some points of the front."""
    head = [progress_line(live.study, live.pace, size), _growth(live, size)]
    left = size.lines - len(head)
    points = min(len(live.front), MOST_POINTS)
    for_front = min(points + 2, max(left // 2, left - len(live.at_work) - 1)) if points else 0
    return [*head, *_workers(live, size, left - for_front), *_front(live, for_front)][: size.lines]


def _growth(live: Live, size: Size) -> Text:
    from rich.text import Text

    volumes = live.hypervolume
    if not volumes:
        line = Text("no file measured yet", "dim")
    else:
        grown = volumes[-1] - (volumes[live.before - 1] if live.before else 0.0)
        line = Text.assemble("hypervolume ", (f"{volumes[-1]:.3f}", "bold"), f", {grown:+.3f} now")
        if not size.ascii:
            line.append(f" {sparkline(volumes, COURSE)}", "green")
    if live.failed:
        line.append(f", {live.failed} failed", "red")
    return line


def _workers(live: Live, size: Size, lines: int) -> list[Text]:
    """A blank line, then a line each; the last one counts those for whom there is none."""
    from rich.text import Text

    room = lines - 1
    if not live.at_work or room < 1:
        return []
    shown = live.at_work if len(live.at_work) <= room else live.at_work[: room - 1]
    texts = aligned([(one.worker, one.doing, _rung(one)) for one in shown], "<<<") if shown else []
    width = max(map(len, texts), default=0)
    found = [Text()]
    for one, text in zip(shown, texts, strict=True):
        line = Text(text)
        if one.fraction:
            done, left = gauge(one.fraction, GAUGE, size.ascii)
            line.pad_right(width - len(text) + 2)
            line.append(done, "cyan").append(left, "dim").append(f" {one.fraction:4.0%}")
        found.append(line)
    if more := len(live.at_work) - len(shown):
        found.append(Text(f"and {more} more at work", "dim"))
    return found


def _rung(one: AtWork) -> str:
    return "" if one.rung is None else f"rung {one.rung}"


def _front(live: Live, lines: int) -> list[Text]:
    """A blank line, a head, and a line for each of some points, both ends among them."""
    from rich.text import Text

    room = lines - 2
    if room < min(2, len(live.front)):
        return []
    shown = spread(live.front, room)
    rows = [(f"front of {len(live.front)}", "", "size", live.measure.head)]
    for one in shown:
        size, perplexity = format_size(one.size_bytes), f"{one.perplexity:.2f}"
        rows.append((f"trial {one.trial}", f"rung {one.rung}", size, perplexity))
    head, *points = aligned(rows, "<<>>")
    return [Text(), Text(head, "bold"), *map(Text, points)]
