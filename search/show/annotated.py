"""A study as Optuna's dashboard is to see it: attributes one by one, notes, files and limits.

lmpareto stores one JSON attribute a trial, since each attribute is a transaction. The dashboard
shows attributes one by one, so they are computed when it asks for them. Nothing is written: studies
of any age have them, a database that may not be written is enough, and no sweep becomes slower.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from lmcore.data import measure_of
from lmcore.methods import methods_of
from lmcore.task import Measure
from search.config import SPEED, StudyConfig
from search.describe import failure_line
from search.front import Point, front_of
from search.measurement import Measurement, best_of
from search.show.dashboard_notes import (
    export_command,
    note_attributes,
    study_note,
    trial_note,
)
from search.study.begun import CORPUS, objectives_in
from search.study.context import StudyContext
from search.study.note import ATTRIBUTE, TrialNote
from search.study.study import limits_of

OURS = "lmpareto"  # how the names of our attributes begin
ALL_NOTED = 1_000  # trials up to which each has a note: the dashboard looks at all notes for each
FEW = 500  # trials, up to which a database is asked for each by its number
Files = Mapping[int, Measurement]  # rung -> measurement


class ReadOnlyError(Exception):
    """What is raised where the dashboard would change something."""


class AnnotatedStorage(BaseStorage):
    """One study, for reading. Its trials have what `trial_attributes` says."""

    def __init__(self, context: StudyContext[StudyConfig]) -> None:
        self.context, self.study = context, context.study
        self.inner = get_storage(context.store.optuna)
        self.bundles = context.config.folder / "bundles"
        self._lock = threading.Lock()
        self._files: dict[int, Files] = {}
        self._ended: dict[int, FrozenTrial] = {}  # annotated once, since they do not change

    # --- trials --------------------------------------------------------------------------------

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        rows = self.inner.get_all_trials(study_id, deepcopy=False)
        with self._lock:
            new = [row.number for row in rows if row.number not in self._ended]
            wanted = new if len(new) <= FEW else None
            self._files |= self.context.store.files(self.study.study_name, wanted)
            found = []
            for row in rows:
                shown = self._ended.get(row.number) or self._annotated(row)
                if row.state.is_finished():
                    self._ended[row.number] = shown
                found.append(shown)
        return [one for one in found if states is None or one.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        row = self.inner.get_trial(trial_id)
        return self.get_all_trials(self.study._study_id)[row.number]

    def _annotated(self, row: FrozenTrial) -> FrozenTrial:
        note, files = TrialNote.of(row), self._files.get(row.number, {})
        if not files and note.key and (found := self.context.store.measurement(note.key)):
            files = {0: found}  # studies of earlier versions have no rungs
        theirs = {name: one for name, one in row.user_attrs.items() if name != ATTRIBUTE}
        return FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=row.values,
            datetime_start=row.datetime_start,
            datetime_complete=row.datetime_complete,
            params=row.params,
            distributions=row.distributions,
            user_attrs={
                **theirs,
                **trial_attributes(self.study.study_name, row, note, files, self._measure),
            },
            system_attrs={
                **row.system_attrs,
                "constraints": list(row.constraints.values()),  # as Optuna before 5 stored them
                **self._artifacts(row.number, files),
            },
            intermediate_values={rung: one.valid_measure for rung, one in files.items()},
            trial_id=row._trial_id,
        )

    def _artifacts(self, number: int, files: Files) -> dict[str, str]:
        """The bundles of the trial that the cache has. An artifact's name in the store is the key
        of its measurement."""
        found = {}
        for rung, one in files.items():
            if bundle_of(self.bundles, one.key).exists():
                meta = {
                    "artifact_id": one.key,
                    "filename": f"trial_{number}_rung_{rung}.lmb",
                    "mimetype": "application/octet-stream",
                    "encoding": None,
                }
                found[f"artifacts:{one.key}"] = json.dumps(meta)
        return found

    # --- the study -----------------------------------------------------------------------------

    def get_all_studies(self) -> list[FrozenStudy]:
        study_id = self.study._study_id
        return [
            FrozenStudy(
                study_name=self.study.study_name,
                direction=None,
                directions=self.get_study_directions(study_id),
                user_attrs=self.get_study_user_attrs(study_id),
                system_attrs=self.get_study_system_attrs(study_id),
                study_id=study_id,
            )
        ]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        stored = self.inner.get_study_user_attrs(study_id)
        limits = limits_of(self.study)
        ours = {
            "corpus": stored.get(CORPUS),
            "max_size": limits.max_size_bytes,
            "max_perplexity": limits.max_perplexity,
        }
        theirs = {name: one for name, one in stored.items() if not name.startswith(OURS)}
        return {**theirs, **{name: one for name, one in ours.items() if one is not None}}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """With notes, except where somebody has stored one."""
        stored: dict[str, Any] = dict(self.inner.get_study_system_attrs(study_id))
        trials = self.get_all_trials(study_id)
        name, points = self.study.study_name, self._points(trials)
        front = front_of(name, points, self._measure)
        on_front = {point.trial for point in front.points}
        notes = note_attributes(None, study_note(front, len(points)))
        for one in trials:
            if one.number in self._files and (len(trials) <= ALL_NOTED or one.number in on_front):
                text = trial_note(name, one.number, self._files[one.number], self._measure)
                notes |= note_attributes(one._trial_id, text)
        return {**notes, **stored}

    @property
    def _measure(self) -> Measure:
        return measure_of(self.study.user_attrs.get(CORPUS, ""))

    def _points(self, trials: Sequence[FrozenTrial]) -> list[Point]:
        limits, found = limits_of(self.study), []
        speed = SPEED in objectives_in(self.study.user_attrs)
        for one in trials:
            for rung, file in self._files.get(one.number, {}).items():
                size, perplexity = file.size_bytes, file.valid_measure
                feasible = not limits.broken(size, perplexity)
                name = f"{one.number} rung {rung}"
                point = Point(name, one.number, size, perplexity, None, None, "", feasible)
                found.append(replace(point, relative_speed=file.relative_speed if speed else None))
        return found

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.inner.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.inner.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.inner.get_study_directions(study_id)

    # --- what would write ----------------------------------------------------------------------

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        _refuse()

    def delete_study(self, study_id: int) -> None:
        _refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        _refuse()

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        _refuse()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        _refuse()

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        _refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse()


def _refuse() -> NoReturn:
    raise ReadOnlyError


def trial_attributes(
    study: str, row: FrozenTrial, note: TrialNote, files: Files, measure: Measure
) -> dict[str, float | int | str | bool]:
    """What the dashboard's table has of a trial. Size, perplexity and the rest are those of its
    best file; what is not known is left out."""
    found: dict[str, float | int | str | bool] = {}
    if files:
        best = best_of(files.values())
        rung = next(rung for rung, one in files.items() if one is best)
        found |= {
            "MB": best.size_bytes / 10**6,
            measure.head: best.valid_measure,
            "epochs": (best.recipe.get("finetuning") or {}).get("epochs", 0),
            "rung": rung,
            "last rung": max(files),
            "methods": "+".join(methods_of(best.recipe)),
            "export": export_command(study, row.number),
        }
    if note.failure:
        found["failure"] = failure_line(note.failure)
    if note.duplicate:
        found["duplicate"] = True
    return found


def bundle_of(folder: Path, key: str) -> Path:
    """The file of a measurement, as `bench.workbench` names it."""
    return folder / f"{key}.lmb"
