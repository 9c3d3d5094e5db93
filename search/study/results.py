"""The results of a study, from the database or from the folder of a published study."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from lmcore.data import measure_of
from lmcore.errors import UserError
from lmcore.files import write_atomic, write_json
from lmcore.methods import methods_of
from lmcore.settings import Settings
from lmcore.task import Measure
from search.config import PLANE, SPEED, Objective, StudyConfig
from search.front import Front, Point, front_of
from search.measurement import Measurement, best_of
from search.names import check_name
from search.rules.limits import Box
from search.rules.sensitivity import Effects
from search.store.trials import StoredTrial
from search.study.begun import CORPUS, box_in, objectives_in
from search.study.context import StudyContext
from search.study.published import (
    LARGEST,
    RECORDS,
    WRONG,
    attributes_in,
    bundles_in,
    folder_of,
    lines_in,
    measurement_in,
    said,
)
from search.study.study import check_ours, complete_keys, limits_of
from search.units import format_ranges

PREDICTED = "predicted.json"

_POINTS = TypeAdapter(list[tuple[float, float]])


@dataclass(frozen=True)
class Results:
    """All that a study has measured: the files of its trials, by trial and rung, and its baselines,
    by name.

    Each file has a name. "17" is the best file of trial 17, the one of the lowest perplexity.
    "17 rung 0" is another file of that trial, at the rung 0. A name of `bundles` is a second name
    of the best file of at most so many bytes.
    """

    study: str
    corpus: str  # the kind of the corpus
    files: Mapping[int, Mapping[int, Measurement]]
    baselines: Mapping[str, Measurement]
    predicted: Sequence[tuple[float, float]] = ()  # bytes and perplexity, before any training
    infeasible: frozenset[str] = frozenset()  # names of files over a limit of the last sweep
    objectives: tuple[Objective, ...] = PLANE
    bundles: Mapping[str, int] = field(default_factory=dict)  # name -> most bytes
    box: Box | None = None  # of the last sweep

    @property
    def measure(self) -> Measure:
        """What the files are judged by."""
        return measure_of(self.corpus)

    @cached_property
    def trials(self) -> Mapping[int, Measurement]:
        """Trial -> the measurement of its best file."""
        return {trial: best_of(rungs.values()) for trial, rungs in self.files.items()}

    @cached_property
    def front(self) -> Front:
        """The front of all measured files. Off the front, a trial has one point, its best file."""
        front = front_of(self.study, self._points, self.measure)
        return replace(
            front,
            dominated=tuple(point for point in front.dominated if point.of_best),
            infeasible=tuple(point for point in front.infeasible if point.of_best),
        )

    @property
    def beside(self) -> list[Point]:
        """The baselines as points, by name."""
        return [self._point(name, one) for name, one in sorted(self.baselines.items())]

    @cached_property
    def best(self) -> Front:
        """The front of all measured files and the baselines."""
        return front_of(self.study, [*self.front.points, *self.beside], self.measure)

    def within(self, bundle: str) -> Point:
        """The point that a name of `bundles` names: of the lowest perplexity among those of at most
        so many bytes. Raises UserError where none is that small."""
        try:
            return self.best.best_within(self.bundles[bundle])
        except UserError as error:
            raise UserError(f"bundles.{bundle}: {error}") from None

    @cached_property
    def limits(self) -> Mapping[str, Sequence[str]]:
        """Name of a file -> the names of `bundles` that name it. Where no file is small enough yet,
        a name names none."""
        sizes = [point.size_bytes for point in self.best.plane]
        found: dict[str, list[str]] = {}
        for bundle, most in self.bundles.items():
            if any(size <= most for size in sizes):
                found.setdefault(self.within(bundle).name, []).append(bundle)
        return found

    def named(self) -> Iterator[tuple[str, int, int, Measurement]]:
        """The name, the trial, the rung and the measurement of every file of a trial."""
        for trial, rungs in self.files.items():
            for rung, one in rungs.items():
                best = one is self.trials[trial]
                yield str(trial) if best else f"{trial} rung {rung}", trial, rung, one

    def measured(self, name: str) -> Measurement:
        """The measurement of the file of that name, or of the baseline."""
        return self.baselines[name] if name in self.baselines else self._measured[name]

    def find(self, trial: int | str, rung: int | None = None) -> Point:
        """The point of a trial's best file, of its file at a rung, of a baseline, or that a name of
        `bundles` names.

        Raises UserError where there is no such file; the message says what there is.
        """
        if isinstance(trial, str) and not trial.isdigit():
            return self._find_named(trial, rung)
        number = int(trial)
        if number not in self.files:
            known = format_ranges(sorted(self.files)) if self.files else "none yet"
            raise UserError(f"{self.study} has no measured trial {number}; it has {known}")
        for point in self._points:
            if point.trial == number and (point.of_best if rung is None else point.rung == rung):
                return point
        raise UserError(
            f"trial {number} of {self.study} was not measured at rung {rung}; "
            f"it was at {format_ranges(sorted(self.files[number]))}"
        )

    def _find_named(self, name: str, rung: int | None) -> Point:
        if name not in self.baselines and name not in self.bundles:
            beside, limits = ", ".join(self.baselines) or "nothing", ", ".join(self.bundles)
            raise UserError(
                f"trial: got {name}; it takes a number, or the name of a baseline: {beside}"
                f"{f', or of a limit: {limits}' if limits else ''}"
            )
        if rung is not None:
            kind = "a baseline" if name in self.baselines else "the name of one file"
            raise UserError(f"rung: {name} is {kind}, and only trials have rungs")
        if name in self.baselines:
            return self._point(name, self.baselines[name])
        return self.within(name)

    @cached_property
    def _measured(self) -> Mapping[str, Measurement]:
        return {name: one for name, _, _, one in self.named()}

    @cached_property
    def _points(self) -> Sequence[Point]:
        return [self._point(name, one, trial, rung) for name, trial, rung, one in self.named()]

    def _point(
        self, name: str, measured: Measurement, trial: int | None = None, rung: int | None = None
    ) -> Point:
        return Point(
            name=name,
            trial=trial,
            rung=rung,
            size_bytes=measured.size_bytes,
            valid_measure=measured.valid_measure,
            tokens_per_second=measured.tokens_per_second,
            recipe=measured.recipe,
            method="+".join(methods_of(measured.recipe)),
            feasible=name not in self.infeasible,
            bits_per_byte=measured.bits_per_byte,
            # another study may have timed the same file
            relative_speed=measured.relative_speed if SPEED in self.objectives else None,
        )


def results_of(context: StudyContext[StudyConfig]) -> Results:
    """The study's results. Raises UserError where it is neither in the database nor published."""
    if (published := published_of(context)) is not None:
        return read_results(context.config, published)
    return results_from(context, context.trials())


def results_from(context: StudyContext[StudyConfig], trials: Iterable[StoredTrial]) -> Results:
    """The results of a study in the database, which has these trials."""
    name, store, study = context.name, context.store, context.study
    objectives = objectives_in(study.user_attrs)
    check_ours(study, objectives)
    files, ended, baselines = store.files(name), complete_keys(trials), store.baselines(name)
    # studies of earlier versions have no rungs: a trial has the one file of its note
    alone = {trial: key for trial, key in ended.items() if trial not in files}
    found = store.measurements([*alone.values(), *baselines.values()])
    if others := [trial for trial, key in alone.items() if key not in found]:
        raise UserError(
            f"study {name}: lmpareto has no measurement of trial {others[0]}; another program has "
            f"added it, and can delete it"
        )
    files |= {trial: {0: found[key]} for trial, key in alone.items()}
    results = Results(
        study=name,
        # studies of earlier versions did not store the kind
        corpus=study.user_attrs.get(CORPUS, context.config.corpus.kind),
        files=dict(sorted(files.items())),
        baselines={one: found[key] for one, key in baselines.items() if key in found},
        predicted=_predicted(store.effects(name)),
        objectives=objectives,
        bundles=_bundles_of(context.config, folder_of(name)),
        box=box_in(study.user_attrs),
    )
    limits = limits_of(study)
    over = (
        file
        for file, _, _, one in results.named()
        if limits.broken(one.size_bytes, one.valid_measure)
    )
    return replace(results, infeasible=frozenset(over))


def _predicted(effects: Effects | None) -> list[tuple[float, float]]:
    if effects is None:
        return []
    return [(one.size_bytes, effects.perplexity_of(one)) for one in effects.front]


def write_records(results: Results, path: Path) -> None:
    """Write one JSON document a line: {"name": "17", "trial": 17, "rung": 2, and the measurement}
    for each file of a trial, {"name": "control", and the measurement} for each baseline. A file
    over a limit has {"feasible": false}."""
    lines = [
        {"name": name, "trial": trial, "rung": rung}
        | ({"feasible": False} if name in results.infeasible else {})
        | one.plain(results.measure)
        for name, trial, rung, one in results.named()
    ]
    lines += [
        {"name": name, **one.plain(results.measure)} for name, one in results.baselines.items()
    ]
    write_atomic(path, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    if results.predicted:
        write_json(path.with_name(PREDICTED), [list(point) for point in results.predicted])


def published_of(context: StudyContext[StudyConfig]) -> Path | None:
    """The folder of the published study, None where the study is in the database or is neither."""
    folder = folder_of(context.name)
    return folder if folder and not context.store.has_study(context.name) else None


class _Place(Settings):
    """What a published line says of a file beside its measurement."""

    trial: Annotated[int, Field(ge=0, lt=LARGEST)] | None
    rung: Annotated[int, Field(ge=0, lt=LARGEST)]
    feasible: bool


def read_results(config: StudyConfig, folder: Path) -> Results:
    """The results in the folder of a published study. Raises UserError where a file is damaged."""
    path, attributes = folder / RECORDS, attributes_in(folder)
    files: dict[int, dict[int, Measurement]] = {}
    baselines, over = {}, set()
    for name, place, measured in lines_in(path, _record):
        if not place.feasible:
            over.add(name)
        if place.trial is None:
            baselines[name] = measured
        else:
            files.setdefault(place.trial, {})[place.rung] = measured
    return Results(
        study=config.study,
        corpus=attributes.get(CORPUS, config.corpus.kind),
        files=files,
        baselines=baselines,
        predicted=_read_predicted(path.with_name(PREDICTED)),
        infeasible=frozenset(over),
        objectives=objectives_in(attributes),
        bundles=_bundles_of(config, folder),
        box=box_in(attributes),
    )


def _bundles_of(config: StudyConfig, published: Path | None) -> Mapping[str, int]:
    """The names for limits in the settings, else those that the study was published with."""
    return config.bundles or (bundles_in(published) if published else {})


def _read_predicted(path: Path) -> list[tuple[float, float]]:
    try:
        return _POINTS.validate_python(json.loads(path.read_bytes())) if path.exists() else []
    except (*WRONG, OSError) as error:
        raise UserError(f"{path} is no predicted front of a study: {said(error)}") from None


def _record(row: dict[str, Any]) -> tuple[str, _Place, Measurement]:
    """The name, the place and the measurement of a published line."""
    name = check_name(row.pop("name"))  # publishing names a file by it
    # earlier versions published the last file of each trial, without its rung
    place = _Place(
        trial=row.pop("trial", int(name) if name.isdigit() else None),
        rung=row.pop("rung", 0),
        feasible=row.pop("feasible", True),
    )
    return name, place, measurement_in(row)
