"""Fronts, predictions and progress as JSON documents and as text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lmcore.task import PERPLEXITY, Measure
from search.describe import failure_line
from search.front import Front, Point
from search.rules.limits import Box
from search.rules.sensitivity import Effect, Effects, Predicted, spread
from search.study.study import Progress
from search.study.sureness import Sure
from search.units import format_size

if TYPE_CHECKING:
    from search.study.cache import Share

REASONS = 10  # of failures in a text
SHOWN = 12  # points of a predicted front in a table


def front_document(
    front: Front,
    baselines: Iterable[Point],
    sure: Mapping[str, Sure],
    limits: Mapping[str, Sequence[str]] = {},
) -> dict[str, Any]:
    """{"study", "front": [{"trial", "rung", "size_bytes", "valid_perplexity", "recipe", ...}],
    "baselines": [{"name", ...}]}, the measure by its own name.

    `sure` has the points that were trained again with other seeds, by name; `limits` the names for
    limits that a point is the best of, which it then has as "limits". A point of a corpus whose
    tokens spell the text has "bits_per_byte", too, one of a study with speed as an objective
    "relative_speed".
    """

    def told(point: Point) -> dict[str, Any]:
        return {
            "size_bytes": point.size_bytes,
            front.measure.key("valid"): point.valid_measure,
            **bits_in("bits_per_byte", point.bits_per_byte),
            "tokens_per_second": point.tokens_per_second,
            **speed_in(point.relative_speed),
            **({"limits": [*limits[point.name]]} if point.name in limits else {}),
            "recipe": point.recipe,
            "seeds": asdict(sure[point.name]) if point.name in sure else None,
        }

    return {
        "study": front.study,
        "front": [
            {"trial": point.trial, "rung": point.rung, **told(point)} for point in front.points
        ],
        "baselines": [{"name": point.name, **told(point)} for point in baselines],
    }


def front_table(
    front: Front,
    baselines: Iterable[Point],
    sure: Mapping[str, Sure],
    limits: Mapping[str, Sequence[str]] = {},
) -> str:
    """The front by size, then the baselines. `sure` has the points that were trained again with
    other seeds, `limits` the names for limits that a point is the best of, each by name."""
    knee = front.knee() if front.points else None
    beside = list(baselines)
    rows: list[tuple[str, ...]] = [("trial", "size", front.measure.head, "bits/byte", "speed", "")]
    for point in front.points:
        notes = [*limits.get(point.name, ()), *(["<- knee"] if point is knee else [])]
        rows.append(_row(point, "  ".join([*_seeds(sure.get(point.name)), *notes])))
    rows += [_row(point, "  ".join(limits.get(point.name, ()))) for point in beside]
    empty = {at for at in (3, 4) if not any(row[at] for row in rows[1:])}
    rows = [tuple(cell for at, cell in enumerate(row) if at not in empty) for row in rows]
    lines = aligned(rows, ">" * (len(rows[0]) - 1) + "<")
    counts = [f"{len(front.points)} on the front", f"{len(front.dominated)} dominated"]
    if front.infeasible:
        counts.append(f"{len(front.infeasible)} over max_size or max_perplexity")
    lines.append(f"{front.measure.name} on valid; {', '.join(counts)}")
    return "\n".join(lines)


def aligned(rows: Sequence[tuple[str, ...]], sides: str) -> list[str]:
    """Lines with columns as wide as their widest cell. `sides` has < or > for each column: left or
    right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _seeds(sure: Sure | None) -> list[str]:
    """ "109.21 ± 0.34 over 4 seeds, 75% on the front"; none for a point that has one seed."""
    if sure is None:
        return []
    mean, sd = sure.perplexity
    return [f"{mean:.2f} ± {sd:.2f} over {sure.seeds} seeds, {sure.on_front:.0%} on the front"]


def _row(point: Point, note: str) -> tuple[str, ...]:
    bits = "" if point.bits_per_byte is None else f"{point.bits_per_byte:.3f}"
    speed = "" if point.relative_speed is None else f"{point.relative_speed:.2f} x"
    size = format_size(point.size_bytes)
    return point.name, size, f"{point.valid_measure:.2f}", bits, speed, note


def bits_in(name: str, bits: float | None) -> dict[str, float]:
    """The entry of a document, none where there are no bits per byte."""
    return {} if bits is None else {name: bits}


def speed_in(relative_speed: float | None) -> dict[str, float]:
    """The entry of a document, none where speed is no objective."""
    return {} if relative_speed is None else {"relative_speed": relative_speed}


def in_bits(bits: float | None) -> str:
    """What follows a perplexity: ", 1.234 bits per byte"; nothing where there are none."""
    return "" if bits is None else f", {bits:.3f} bits per byte"


def effects_document(
    study: str, effects: Effects, box: Box | None, measure: Measure = PERPLEXITY
) -> dict[str, Any]:
    """{"study", "parts": part -> its settings alone, "front": the predicted one, "box": the one
    that is searched, if it is not all}."""
    return {
        "study": study,
        "size_bytes": effects.size_bytes,
        measure.key("valid"): effects.perplexity,
        "parts": {
            part: [
                {
                    "parameters": dict(effect.parameters),
                    "site_bytes": effect.site_bytes,
                    "nats": effect.nats,
                }
                for effect in settings
            ]
            for part, settings in effects.parts.items()
        },
        "front": [
            {
                "size_bytes": round(one.size_bytes),
                measure.key("valid"): effects.perplexity_of(one),
                "parameters": dict(one.parameters),
            }
            for one in effects.front
        ],
        **({"box": asdict(box)} if box else {}),
    }


def effects_table(
    effects: Effects,
    lists: Mapping[str, Sequence[Any]],
    box: Box | None = None,
    measure: Measure = PERPLEXITY,
) -> str:
    """The effect of each setting alone, then some points of the predicted front in the box.

    `lists` are the entries of the space's ordered lists; their parameters are indices.
    """
    rows = [("alone", "", "size", measure.head)]
    whole = sum(effects.dense.site_bytes.values())
    for part, settings in effects.parts.items():
        for name, effect in zip((part, *[""] * len(settings)), settings, strict=False):
            left = effects.size_bytes - whole + sum(effect.site_bytes.values())
            reached = effects.perplexity * math.exp(effect.nats)
            rows.append((name, _settings(effect, lists), format_size(left), f"{reached:.2f}"))
    front = effects.within(box.min_size_bytes, box.max_size_bytes) if box else effects.front
    shown = spread(front, SHOWN)
    points = [("predicted", "size", measure.head, "")]
    for one in shown:
        size = format_size(round(one.size_bytes))
        points.append(("", size, f"{effects.perplexity_of(one):.2f}", _settings(one, lists)))
    return "\n".join(
        [
            *aligned(rows, "<<>>"),
            "",
            *aligned(points, "<>><"),
            f"{measure.name} on valid, without training; {len(shown)} of {len(front)} points "
            "predicted" + (" in the box that is searched" if box else ""),
        ]
    )


def _settings(one: Effect | Predicted, lists: Mapping[str, Sequence[Any]]) -> str:
    """ "decoder.bits.step=0.7, rank=40"."""
    named = ((name, lists[name][v] if name in lists else v) for name, v in one.parameters)
    values = ((name, f"{v:.3g}" if isinstance(v, float) else str(v)) for name, v in named)
    return ", ".join(f"{name}={value}" for name, value in values)


def shares_document(shares: Iterable[Share]) -> dict[str, Any]:
    """{"cache": [{"what", "study", "files", "size_bytes", "unneeded_bytes"}]}."""
    return {
        "cache": [
            {
                "what": one.what,
                "study": one.study or None,
                "files": one.files,
                "size_bytes": one.size_bytes,
                "unneeded_bytes": one.unneeded_bytes,
            }
            for one in shares
        ]
    }


def shares_table(shares: Sequence[Share]) -> str:
    """A line for each thing that the cache holds files for, the largest first, and their sum."""
    rows = [("for", "study", "files", "size", "not needed")]
    for one in sorted(shares, key=lambda one: -one.size_bytes):
        free = format_size(one.unneeded_bytes) if one.unneeded else ""
        rows.append((one.what, one.study, str(one.files), format_size(one.size_bytes), free))
    files = str(sum(one.files for one in shares))
    size, unneeded = sum(s.size_bytes for s in shares), sum(s.unneeded_bytes for s in shares)
    rows.append(("all", "", files, format_size(size), format_size(unneeded)))
    return "\n".join(aligned(rows, "<<>>>"))


def progress_document(progress: Progress) -> dict[str, Any]:
    return {
        "study": progress.study,
        "trials": progress.trials,
        "complete": progress.complete,
        "infeasible": progress.infeasible,
        "running": progress.running,
        "failed": progress.failed,
        "left": progress.left,
        "median_seconds": progress.seconds,
        "repeats": progress.repeats,
        "repeats_done": progress.repeats_done,
    }


def progress_text(progress: Progress, workers: int) -> str:
    """How many trials are complete, running and failed, why, and how long the rest will take."""
    lines = [f"{progress.study}: {progress.complete} of {progress.trials} trials complete"]
    if progress.infeasible:
        lines.append(f"{progress.infeasible} of them over max_size or max_perplexity")
    if progress.running:
        lines.append(f"{progress.running} running, or stopped and to be gone on with")
    failed = Counter[str]()
    for reason, count in progress.failed.items():
        failed[failure_line(reason)] += count
    shown = failed.most_common(REASONS)
    lines += [f"{count} failed: {reason}" for reason, count in shown]
    if others := failed.total() - sum(count for _, count in shown):
        lines.append(f"{others} failed for {len(failed) - len(shown)} other reasons")
    if progress.left and not workers:
        lines.append(f"{progress.left} to go, by workers started elsewhere")
    elif progress.left and progress.seconds:
        minutes = progress.left * progress.seconds / workers / 60
        time = f"about {minutes:.0f} min" if minutes >= 1 else "less than a minute"
        lines.append(f"{progress.left} to go, {time} with {workers} worker(s)")
    if progress.repeats:
        done = f"{progress.repeats_done} of {progress.repeats}"
        lines.append(f"{done} trainings of the front with other seeds done")
    return "\n".join(lines)


def progress_line(done: Progress) -> str:
    """A study in the list of all."""
    return f"{done.study}: {done.complete} trials, {sum(done.failed.values())} failed"
