"""Fronts and progress as JSON documents and as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from search.front import Front, Point
from search.study import Progress
from search.units import format_size


def front_document(front: Front) -> dict[str, Any]:
    """{"study", "front": [{"trial", "size_bytes", "valid_perplexity", "recipe", ...}]}."""
    return {
        "study": front.study,
        "front": [
            {
                "trial": point.trial,
                "size_bytes": point.size_bytes,
                "valid_perplexity": point.valid_perplexity,
                "tokens_per_second": point.tokens_per_second,
                "recipe": point.recipe,
            }
            for point in front.points
        ],
    }


def front_table(front: Front, baselines: Iterable[Point]) -> str:
    """The front by size, then what was measured beside the search."""
    knee = front.knee() if front.points else None
    rows = [("trial", "size", "perplexity", "")]
    rows += [_row(point, "<- knee" if point is knee else "") for point in front.points]
    rows += [_row(point, "") for point in baselines]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        f"{row[0]:>{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    ]
    others = len(front.dominated)
    lines.append(f"perplexity on valid; {len(front.points)} on the front, {others} dominated")
    return "\n".join(lines)


def _row(point: Point, note: str) -> tuple[str, str, str, str]:
    return point.name, format_size(point.size_bytes), f"{point.valid_perplexity:.2f}", note


def progress_document(progress: Progress) -> dict[str, Any]:
    return {
        "study": progress.study,
        "trials": progress.trials,
        "complete": progress.complete,
        "running": progress.running,
        "failed": progress.failed,
        "left": progress.left,
        "median_seconds": progress.seconds,
    }


def progress_text(progress: Progress, workers: int) -> str:
    """How many trials are done, running, failed and why, and how long the rest will take."""
    lines = [f"{progress.study}: {progress.complete} of {progress.trials} trials complete"]
    if progress.running:
        lines.append(f"{progress.running} running, or stopped and to be gone on with")
    for reason, count in progress.failed.items():
        lines.append(f"{count} failed: {reason.strip().splitlines()[-1]}")
    if progress.left and progress.seconds:
        minutes = progress.left * progress.seconds / workers / 60
        lines.append(f"{progress.left} to go, about {minutes:.0f} min with {workers} worker(s)")
    return "\n".join(lines)
