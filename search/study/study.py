"""A study while it runs: its progress, its sampler, and which of its trials count.

A study is an ordinary Optuna study with two objectives, size in bytes and validation perplexity, or
three: the inverse of the speed relative to the dense model. Any of Optuna's tools opens it. If a
process dies while its trial is running, another worker goes on with that trial and its parameters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState

from lmcore.errors import UserError
from lmcore.files import content_key
from lmcore.task import Measure
from search.config import Objective, StudyConfig
from search.measurement import Measurement
from search.rules.limits import Box, Limits
from search.store.slots import Slots
from search.store.trials import StoredTrial
from search.study.begun import BOX, LIMITS
from search.study.note import TrialNote


def sampler(config: StudyConfig, worker: int | str, started: int) -> optuna.samplers.BaseSampler:
    """The configured sampler. Its seed is a function of the study's seed, the worker, and how many
    trials the study had `started` before.

    Raises UserError where a `_target_` is no sampler: the settings may come from a database that
    somebody else wrote, and Hydra would call anything.
    """
    import hydra.utils

    if "_target_" not in config.sampler:
        raise UserError("sampler: it takes a _target_, as in optuna.samplers.TPESampler")
    for target in _targets(config.sampler):
        if not issubclass(hydra.utils.get_class(target), optuna.samplers.BaseSampler):
            raise UserError(f"sampler._target_: {target} is no sampler of Optuna's")
    seed = int(content_key(config.seed, worker, started), 16) % 2**31
    made: optuna.samplers.BaseSampler = hydra.utils.instantiate(config.sampler, seed=seed)
    return made


def _targets(settings: Any) -> Iterator[str]:
    """What Hydra would call for these settings, whatever they are nested in."""
    if isinstance(settings, Mapping):
        yield from (str(value) for name, value in settings.items() if name == "_target_")
        settings = settings.values()
    elif not isinstance(settings, list):
        return
    for one in settings:
        yield from _targets(one)


def metric_names(objectives: Iterable[Objective], measure: Measure) -> list[str]:
    """What Optuna's tools call the objectives."""
    names = {"size": "size_bytes", "perplexity": measure.key("valid"), "speed": "inverse_speed"}
    return [names[one] for one in objectives]


@dataclass(frozen=True)
class Progress:
    """How many trials of a study are complete, failed, running and left."""

    study: str
    trials: int  # that the study is to have
    complete: int
    infeasible: int  # of the complete ones
    failed: dict[str, int]  # reason -> how many
    running: int
    seconds: float  # the median of the complete trials
    repeats: int = 0  # trainings of the front with other seeds that it is to have
    repeats_done: int = 0

    @property
    def finished(self) -> int:
        return self.complete + sum(self.failed.values())

    @property
    def left(self) -> int:
        return max(0, self.trials - self.finished)


def progress(study: optuna.Study, trials: int) -> Progress:
    """The progress of a study that is to have `trials` trials, without duplicates and orphans."""
    noted = [(row, TrialNote.of(row)) for row in study.get_trials(deepcopy=False)]
    rows = [(row, note) for row, note in noted if note.takes_slot]
    complete = [row for row, _ in rows if row.state == TrialState.COMPLETE]
    reasons = [note.failure or "unknown" for row, note in rows if row.state == TrialState.FAIL]
    running = sum(row.state == TrialState.RUNNING for row, _ in rows)
    seconds = sorted(row.duration.total_seconds() for row in complete if row.duration)
    ended = len(complete) + len(reasons)
    return Progress(
        study=study.study_name,
        trials=max(trials, ended),  # earlier versions did not store how many there are to be
        complete=len(complete),
        infeasible=len(infeasible(study) & {row.number for row in complete}),
        failed=dict(Counter(reasons)),
        running=running,
        seconds=seconds[len(seconds) // 2] if seconds else 0.0,
    )


def values_of(measured: Measurement, objectives: Iterable[str]) -> list[float]:
    """What Optuna minimises, one value an objective."""
    speed = measured.relative_speed
    known = {
        "size": float(measured.size_bytes),
        "perplexity": measured.valid_measure,
        "speed": 1 / speed if speed else math.inf,
    }
    return [known[one] for one in objectives]


def keep_limits(study: optuna.Study, limits: Limits) -> None:
    """Store the limits by which all trials of the study are judged from now on."""
    if study.user_attrs.get(LIMITS) != asdict(limits):
        study.set_user_attr(LIMITS, asdict(limits))


def keep_box(study: optuna.Study, box: Box | None) -> None:
    """Store the box that the study is searched in from now on."""
    stored = {} if box is None else asdict(box)
    if study.user_attrs.get(BOX, {}) != stored:
        study.set_user_attr(BOX, stored)


def limits_of(study: optuna.Study) -> Limits:
    """The limits of the study's last sweep; none for a study of another program."""
    return Limits(**study.user_attrs.get(LIMITS, {}))


def infeasible(study: optuna.Study) -> frozenset[int]:
    """The numbers of the complete trials over a limit of the study's last sweep."""
    limits = limits_of(study)
    if limits == Limits():
        return frozenset()
    rows = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return frozenset(row.number for row in rows if limits.broken(*row.values[:2]))


def check_ours(study: optuna.Study, objectives: Sequence[str]) -> None:
    """Raises UserError where another program has made the study for other objectives."""
    if study.directions != [StudyDirection.MINIMIZE] * len(objectives):
        raise UserError(
            f"study {study.study_name} was not made by lmpareto: its objectives are not "
            f"{' and '.join(objectives)}, each to be minimized; choose another name"
        )


def complete_keys(rows: Iterable[StoredTrial]) -> dict[int, str]:
    """Trial number -> key of the measurement in its note, for the complete trials that are no
    duplicates."""
    complete = (row for row in rows if row.state == TrialState.COMPLETE)
    notes = {row.number: TrialNote.of(row) for row in complete}
    return {number: note.key or "" for number, note in notes.items() if note.takes_slot}


def ended_trials(study: optuna.Study) -> list[int]:
    """The trials that take a slot and have ended."""
    rows = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return [row.number for row in rows if TrialNote.of(row).takes_slot]


def live_trial(study: optuna.Study, number: int) -> optuna.trial.Trial:
    """The trial of that number, to go on with. Optuna has no public way to it but `ask`."""
    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def orphans(study: optuna.Study, slots: Slots, worker: str) -> list[int]:
    """The numbers of the study's orphans; see `Slots.orphans`."""
    rows = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return slots.orphans([row.number for row in rows], worker)


def bury(study: optuna.Study, slots: Slots, worker: str = "") -> None:
    """Tell Optuna that the study's orphans have failed."""
    for number in orphans(study, slots, worker):
        with suppress(UpdateFinishedTrialError):  # another worker did so first
            TrialNote(surplus=True).write(live_trial(study, number))
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
