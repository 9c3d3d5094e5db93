"""How a study went: every trial with its parameters, its times, its rungs and its failure.

`Results` says what was measured; the history says how, when and with what luck. Both come from the
database or from the folder of a published study.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.trial import TrialState
from pydantic import Field, TypeAdapter

from lmcore.files import write_atomic
from search.config import StudyConfig
from search.measurement import Measurement
from search.store.trials import StoredTrial
from search.study.begun import kept_in
from search.study.context import StudyContext
from search.study.note import TrialNote
from search.study.published import (
    LARGEST,
    attributes_in,
    lines_in,
    measurement_in,
    trials_in,
    write_study,
)
from search.study.results import Results, published_of, read_results, results_from
from search.study.study import Progress

State = Literal["complete", "failed", "running", "waiting"]
_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
TRIALS, REPEATS = "history.jsonl", "repeats.jsonl"  # of a published study
SURPLUS = "its worker died before it began"
Count = Annotated[int, Field(ge=0, lt=LARGEST)]
Moment = Annotated[float, Field(ge=0, lt=253402300800)]  # seconds since 1970, to the year 9999
Seconds = Annotated[float, Field(ge=0, lt=LARGEST)]
Value = bool | Annotated[int, Field(gt=-LARGEST, lt=LARGEST)] | float | str | None


@dataclass(frozen=True)
class TrialRecord:
    """A trial. Times are in seconds since 1970; None where the trial has not come to it, or where
    the study was published by a version that did not write it.

    A parameter that chooses from an ordered list is the index of the entry, as Optuna has it.
    """

    number: Count
    state: State
    parameters: Mapping[str, Value]
    started: Moment | None = None
    ended: Moment | None = None
    failure: str | None = None  # why it has no values or missed its last rung
    moved: Mapping[str, Any] = field(default_factory=dict)  # parameters that moved to fit max_size
    duplicate: bool = False
    surplus: bool = False  # its worker died, and another trial took its slot
    measured_at: Mapping[Count, Moment] = field(default_factory=dict)  # rung -> when
    last_rung: Count | None = None  # of its ladder; a trial that ended below was stopped early
    seconds: Mapping[str, Seconds] = field(default_factory=dict)  # "ask", "fit": before its files

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

    @property
    def progress(self) -> Progress:
        """How far the study came, without duplicates and orphans."""
        rows = [one for one in self.trials if one.takes_slot]
        complete = [one for one in rows if one.state == "complete"]
        failed = Counter(one.failure or "unknown" for one in rows if one.state == "failed")
        seconds = sorted(one.ended - one.started for one in complete if one.started and one.ended)
        repeats = sum(map(len, self.repeats.values()))
        return Progress(
            study=self.results.study,
            trials=max(self.trials_to_have or 0, len(complete) + failed.total()),
            complete=len(complete),
            infeasible=sum(str(one.number) in self.results.infeasible for one in complete),
            failed=dict(failed),
            running=sum(one.state == "running" for one in rows),
            seconds=seconds[len(seconds) // 2] if seconds else 0.0,
            repeats=repeats,
            repeats_done=repeats,
        )

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
    if not isinstance(stages, dict):
        return {}
    return {stage: spent for stage, spent in stages.items() if type(spent) in (int, float)}


_TRIAL = TypeAdapter(TrialRecord)


def history_of(context: StudyContext[StudyConfig]) -> History:
    """The study's history. Raises UserError where it is neither in the database nor published, and
    where it is damaged."""
    if (published := published_of(context)) is not None:
        return _read(context, published)
    rows = context.trials()
    results, store = results_from(context, rows), context.store
    times = store.measured_at(context.name)
    return History(
        results=results,
        trials=list(_records(rows, results, times)),
        repeats=dict(_named(results, store.repeats(context.name))),
        settings=kept_in(context.study.user_attrs),
        trials_to_have=context.slots.total() or None,
    )


def _records(
    rows: Sequence[StoredTrial], results: Results, times: Mapping[int, Mapping[int, float]]
) -> Iterator[TrialRecord]:
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


def _named(
    results: Results, by_file: Mapping[str, Mapping[int, Measurement]]
) -> Iterator[tuple[str, list[Measurement]]]:
    """The name of each file that has repeats, with their measurements. `by_file` has them by the
    key of the file's measurement, then by number."""
    for name, _, _, measured in results.named():
        if found := by_file.get(measured.key):
            yield name, [found[number] for number in sorted(found)]


# --- a published study -------------------------------------------------------------------------


def write_history(history: History, attributes: Mapping[str, Any], folder: Path) -> None:
    """Write what `history_of` reads of a published study, beside the files of `Results`. The
    attributes are those of the study in its database."""
    trials = [dict(_told(trial)) for trial in history.trials]
    measure = history.results.measure
    repeats = [
        {"file": name, **one.plain(measure)}
        for name, every in history.repeats.items()
        for one in every
    ]
    write_study(attributes, history.trials_to_have, history.results.bundles, folder)
    for name, lines in ((TRIALS, trials), (REPEATS, repeats)):
        write_atomic(folder / name, "".join(f"{json.dumps(line)}\n" for line in lines).encode())


def _told(trial: TrialRecord) -> Iterator[tuple[str, Any]]:
    """The fields of a trial that are not at their default."""
    blank = asdict(TrialRecord(trial.number, trial.state, {}))
    for name, value in asdict(trial).items():
        if name in ("number", "state", "parameters") or value != blank[name]:
            yield name, value


def _read(context: StudyContext[StudyConfig], folder: Path) -> History:
    """The history of a published study. Of an earlier version's, only the measured files are known.
    Repeats may be here, or in the database of whoever confirmed it."""
    results = read_results(context.config, folder)
    only_measured = [TrialRecord(number, "complete", {}) for number in sorted(results.files)]
    repeats = dict(_named(results, context.store.repeats(context.name)))
    names = {name for name, *_ in results.named()}
    for name, repeat in lines_in(folder / REPEATS, _repeat):
        # publishing that was interrupted leaves lines of files that the study had before
        if name in names and repeat not in repeats.setdefault(name, []):
            repeats[name].append(repeat)
    return History(
        results=results,
        trials=list(lines_in(folder / TRIALS, _TRIAL.validate_python)) or only_measured,
        repeats=repeats,
        settings=kept_in(attributes_in(folder)),
        trials_to_have=trials_in(folder),
    )


def _repeat(row: dict[str, Any]) -> tuple[str, Measurement]:
    return str(row.pop("file")), measurement_in(row)
