"""The trials of a report as columns: one row a trial, one row a further file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from search.describe import failure_line
from search.front import Point
from search.measurement import Measurement
from search.show.report.words import Phrasebook
from search.study.history import History, TrialRecord
from search.study.results import Results

DIGITS = 6  # significant digits of a number in a column
TRIALS = (
    *("number", "state", "stopped_early", "rung", "epochs", "size_bytes", "perplexity"),
    *("tokens_per_second", "relative_speed", "seconds", "started"),
    *("method", "recipe", "values", "failure"),
)
FILES = ("trial", "rung", "epochs", "size_bytes", "perplexity", "state")


def epochs_of(recipe: Mapping[str, Any]) -> float:
    """The epochs of fine-tuning of a recipe as it was stored."""
    tuning = recipe.get("finetuning")
    return float(tuning["epochs"]) if tuning else 0.0


def number(value: Any) -> Any:
    """A number as the page has it: to `DIGITS` digits, None for NaN and infinity. All else stays as
    it is."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def states_of(results: Results) -> dict[str, str]:
    """Name of a measured file -> "front", "dominated" or "infeasible"."""
    states = {name: "dominated" for name, _, _, _ in results.named()}
    states |= dict.fromkeys(results.infeasible, "infeasible")
    return states | {point.name: "front" for point in results.front.points}


def trial_columns(history: History, book: Phrasebook) -> dict[str, list[Any]]:
    """`StudyReport.trials`."""
    front = history.results.front
    points = {p.name: p for p in (*front.points, *front.dominated, *front.infeasible)}
    states = states_of(history.results)
    return _columns(TRIALS, (_row(one, history, points, states, book) for one in history.trials))


def file_columns(history: History) -> dict[str, list[Any]]:
    """`StudyReport.files`."""
    states = states_of(history.results)
    rows = (
        (
            trial,
            rung,
            number(epochs_of(one.recipe)),
            one.size_bytes,
            number(one.valid_measure),
            states[name],
        )
        for name, trial, rung, one in history.results.named()
        if name != str(trial)
    )
    return _columns(FILES, rows)


def parameter_columns(history: History) -> dict[str, list[Any]]:
    """`StudyReport.parameters`, by name."""
    names = sorted({name for one in history.trials for name in one.parameters})
    return {name: [number(one.parameters.get(name)) for one in history.trials] for name in names}


def _row(
    one: TrialRecord,
    history: History,
    points: Mapping[str, Point],
    states: Mapping[str, str],
    book: Phrasebook,
) -> tuple[Any, ...]:
    name = str(one.number)
    point = points.get(name)
    failure = None if one.failure is None else failure_line(one.failure)
    spent = None if one.started is None or one.ended is None else one.ended - one.started
    times = (number(spent), None if one.started is None else int(one.started))
    if point is None:
        state = "duplicate" if one.duplicate else one.state
        # one that is complete without a file: another program told its values
        state = "failed" if state == "complete" else state
        return (one.number, state, False, *[None] * 6, *times, None, None, "", failure)
    best = history.results.trials[one.number]
    template, values = book.words(best.recipe)
    return (
        one.number,
        states[name],
        stopped_early(one, history.results.files[one.number]),
        point.rung,
        number(epochs_of(best.recipe)),
        point.size_bytes,
        number(point.valid_measure),
        number(point.tokens_per_second),
        number(point.relative_speed),
        *times,
        point.method,
        template,
        values,
        failure,
    )


def stopped_early(one: TrialRecord, files: Mapping[int, Measurement]) -> bool:
    """Whether a trial ended below the last rung of its ladder, and not by a failure."""
    if one.state != "complete" or one.last_rung is None or one.failure is not None:
        return False
    return max(files) < one.last_rung


def _columns(names: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row in rows:
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return columns
