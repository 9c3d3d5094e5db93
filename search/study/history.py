"""How a study went: every trial with its parameters, its times, its rungs and its failure.

`Results` says what was measured; the history says how, when and with what luck. Both come from the
database or from the folder of a published study.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.trial import TrialState

from search.config import StudyConfig
from search.measurement import Measurement
from search.store.trials import StoredTrial
from search.study.begun import kept_in
from search.study.context import StudyContext
from search.study.note import TrialNote
from search.study.results import Results, published_of, read_results, results_from

State = Literal["complete", "failed", "running", "waiting"]
_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
SURPLUS = "its worker died before it began"


@dataclass(frozen=True)
class TrialRecord:
    """A trial. Times are in seconds since 1970; None where the trial has not come to it, or where
    the study was published by a version that did not write it.

    A parameter that chooses from an ordered list is the index of the entry, as Optuna has it.
    """

    number: int
    state: State
    parameters: Mapping[str, Any]
    started: float | None = None
    ended: float | None = None
    failure: str | None = None  # why it has no values or missed its last rung
    moved: Mapping[str, Any] = field(default_factory=dict)  # parameters that moved to fit max_size
    duplicate: bool = False
    surplus: bool = False  # its worker died, and another trial took its slot
    measured_at: Mapping[int, float] = field(default_factory=dict)  # rung -> when
    last_rung: int | None = None  # of its ladder; a trial that ended below was stopped early
    seconds: Mapping[str, float] = field(default_factory=dict)  # "ask", "fit": before its files

    @property
    def takes_slot(self) -> bool:
        """Whether the trial counts among those that the study is to have."""
        return not (self.duplicate or self.surplus)


@dataclass(frozen=True)
class History:
    """All trials of a study, by number, beside what they measured.

    `repeats` has the measurements of a file's recipe with other seeds, by the file's name in
    `results`. `settings` are those of the last sweep as plain data, empty where they are not known.
    What a file was made with, packages and machine, is in the `provenance` of its measurement.
    """

    results: Results
    trials: Sequence[TrialRecord]
    repeats: Mapping[str, Sequence[Measurement]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    trials_to_have: int | None = None

    def seconds_by_stage(self) -> dict[str, float]:
        """What the time of all workers went into: "ask", "fit", "build", "finetune", "write",
        "load" and "score", in seconds, each where it was recorded. A file counts once, also where
        several trials have it; repeats and baselines do not count."""
        total: Counter[str] = Counter()
        for trial in self.trials:
            total.update(trial.seconds)
        files = {one.key: one for _, _, _, one in self.results.named()}
        for one in files.values():
            total.update(seconds_of(one))
        return dict(total)


def seconds_of(measured: Measurement) -> dict[str, float]:
    """Stage -> seconds, of the making and measuring of one file; empty where it is not known."""
    stages = measured.provenance.get("seconds", {})
    return dict(stages) if isinstance(stages, dict) else {}


def history_of(context: StudyContext[StudyConfig]) -> History:
    """The study's history. Raises UserError where it is neither in the database nor published, and
    where it is damaged."""
    if (published := published_of(context)) is not None:
        results = read_results(context.config, published)
        return History(results, _only_measured(results))
    rows = context.trials()
    results, store = results_from(context, rows), context.store
    times = store.measured_at(context.name)
    return History(
        results=results,
        trials=list(_records(rows, results, times)),
        settings=kept_in(context.study.user_attrs),
        trials_to_have=context.slots.total() or None,
    )


def _records(
    rows: Sequence[StoredTrial], results: Results, times: Mapping[int, Mapping[int, float]]
) -> Iterable[TrialRecord]:
    most = max((max(rungs) for rungs in results.files.values()), default=0)
    for row in rows:
        note, files = TrialNote.of(row), results.files.get(row.number, {})
        yield TrialRecord(
            number=row.number,
            state=_STATES[row.state],
            parameters=row.parameters,
            started=row.started.timestamp() if row.started else None,
            ended=row.ended.timestamp() if row.ended else None,
            failure=_failure(row, note),
            moved=note.moved,
            duplicate=note.duplicate,
            surplus=note.surplus,
            measured_at=times.get(row.number, {}),
            last_rung=_last_rung(row, note, files, most),
            seconds=note.seconds,
        )


def _failure(row: StoredTrial, note: TrialNote) -> str | None:
    if note.failure or _STATES[row.state] != "failed" or note.duplicate:
        return note.failure
    if note.surplus:
        return SURPLUS
    return "pruned by another program" if row.state == TrialState.PRUNED else "unknown"


def _last_rung(
    row: StoredTrial, note: TrialNote, files: Mapping[int, Measurement], most: int
) -> int | None:
    """The last rung of an ended trial's ladder. Earlier versions did not store it, but the key of
    the recipe there; a trial that has no file of that key was stopped below, at most at `most`."""
    if note.last_rung is not None or not files:
        return note.last_rung
    reached = max(files)
    if note.asked is None or not row.state.is_finished():
        return None
    if any(one.key == note.asked for one in files.values()):
        return reached
    return max(most, reached + 1)


def _only_measured(results: Results) -> list[TrialRecord]:
    """The trials of a study that was published by a version without a history."""
    return [TrialRecord(number, "complete", {}) for number in sorted(results.files)]
