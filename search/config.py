"""What a person may set: the settings of each command, read from the groups of `conf/`."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

import lmcore
import lmcore.kinds
from lmcore.data import AnyCorpus, Split
from lmcore.errors import UserError
from lmcore.imports.layouts import Layout
from lmcore.network_settings import LANGUAGE, AnyNetwork
from lmcore.settings import PathText, Settings, later
from lmcore.training_settings import AnyTraining
from search.names import AnyName, Name, check_bundle_name, check_name
from search.rules.fidelity import AnyFidelity
from search.rules.limits import BoxSettings, Limits
from search.rules.sensitivity import AnyPrior
from search.space.space import OWN
from search.store.settings import StorageSettings
from search.units import parse_size

PUBLISHED = Path(lmcore.__file__).parent.parent / "studies"  # exists in a checkout only
DENSE_BASELINE = "dense"  # the name of the baseline that is the study's own dense model

Objective = Literal["size", "perplexity", "speed"]
PLANE: tuple[Objective, ...] = ("size", "perplexity")  # what every study minimises
SPEED: Objective = "speed"  # may be a third
OBJECTIVES = (PLANE, (*PLANE, SPEED))

Count = Annotated[int, Field(ge=1)]
Rung = Annotated[int, Field(ge=0)]


def _bytes_of(size: Any) -> int:
    try:
        return parse_size(size)
    except UserError as error:
        raise ValueError(str(error)) from None


Size = Annotated[int, BeforeValidator(_bytes_of)]  # bytes, given as "1.5 MB" or as a number


def _workers(given: Any) -> Any:
    """One message for both forms; pydantic would give one for each."""
    if given != "auto" and (type(given) is not int or given < 0):
        raise ValueError("it is auto, or a whole number from 0 on")
    return given


Workers = Annotated[int | Literal["auto"], BeforeValidator(_workers)]


def _points(given: Any) -> Any:
    """One message for all forms; pydantic would give one for each. One point needs no list."""
    points = given if isinstance(given, list | tuple) else [given]
    if not all(type(one) in (int, str) for one in points):
        raise ValueError("it is a list of trials and names of limits, as in [17,0.5MB]")
    return points


Points = Annotated[tuple[int | str, ...], BeforeValidator(_points)]


class DenseSettings(Settings):
    """A dense model and how it is trained, or which weights it was imported from."""

    model: AnyNetwork
    training: AnyTraining


class Seeds(Settings):
    """What a search tries first: recipes, and the fronts of the studies of these names."""

    recipes: list[dict[str, Any]]
    studies: list[str]


class StudySettings(Settings):
    """The settings that are kept with a study. All its later commands take them from there.

    `models` are dense models beside the study's own; `dense` in the space chooses among them all.
    `objectives` are size and perplexity, and speed where it is asked for. `box` is the part of the
    plane that is searched, None for all of it; it may change between sweeps. `bundles` are names
    for limits: each names the best model of at most so many bytes.
    """

    corpus: AnyCorpus
    model: AnyNetwork
    training: AnyTraining
    models: dict[str, DenseSettings] = Field(default_factory=dict)
    space: dict[str, Any]
    sampler: dict[str, Any]
    fidelity: AnyFidelity
    prior: AnyPrior
    baselines: dict[str, dict[str, Any]]
    start: list[dict[str, Any]]
    seeds: Seeds
    trials: Count
    seed: Annotated[int, Field(ge=0, lt=2**63)]  # as torch takes it
    objectives: tuple[Objective, ...] = PLANE
    bundles: dict[str, Size] = later({})
    box: BoxSettings | None = None

    @field_validator("objectives")
    @classmethod
    def _known_sets(cls, given: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if given not in OBJECTIVES:
            raise ValueError("it is [size, perplexity] or [size, perplexity, speed]")
        return given

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        wanted = self.corpus.task
        others = [(f"models.{name}.model", one.model) for name, one in self.models.items()]
        for name, model in [("model", self.model), *others]:
            if model.task != wanted:
                raise ValueError(
                    f"{name}: a network of the kind {model.kind} is for {model.task.name}, and "
                    f"corpus={self.corpus.kind} is for {wanted.name}; task={model.task.name} or "
                    f"task={wanted.name} chooses both"
                )
        return self

    @model_validator(mode="after")
    def _one_speed(self) -> Self:
        if self.has_speed and self.model.kind != LANGUAGE:
            raise ValueError(
                f"objectives: speed is measured of language models alone, and the kind of this "
                f"network is {self.model.kind}; leave out speed"
            )
        if self.models and self.has_speed:
            raise ValueError(
                "objectives: speed is that of a file against its dense model, so it cannot be "
                "compared between several; leave out speed, or models"
            )
        return self

    @model_validator(mode="after")
    def _names_apart(self) -> Self:
        for name in self.models:
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise ValueError(f"models.{name}: a name has letters, digits and _")
            if name in (OWN, DENSE_BASELINE, *self.baselines):
                raise ValueError(
                    f"models.{name}: this name belongs to a baseline or the study's own dense model"
                )
        for name in self.baselines:
            if name.isdigit():
                raise ValueError(f"baselines.{name}: a number names a trial")
            try:
                check_name(name)
            except ValueError as error:
                raise ValueError(f"baselines.{name}: {error}") from None
        for name in self.bundles:
            check_bundle_name(name)
            if name in (DENSE_BASELINE, *self.models, *self.baselines):
                raise ValueError(f"bundles.{name}: this name belongs to a baseline")
        return self

    @property
    def has_speed(self) -> bool:
        return SPEED in self.objectives

    @property
    def dense_names(self) -> tuple[str, ...]:
        """The study's own dense model, then the others."""
        return OWN, *self.models

    def of(self, dense: str) -> Self:
        """These settings, with the dense model of that name as the study's own."""
        if dense == OWN:
            return self
        chosen = self.models[dense]
        return self.model_copy(update={"model": chosen.model, "training": chosen.training})


class StudyConfig(StudySettings):
    """The settings that every command has: those of a study, its name, where it is stored, and how
    this machine runs the command."""

    name: Name | None
    storage: StorageSettings
    device: str
    threads: Count
    format: Literal["text", "json"]
    cache: PathText
    max_stages: Size

    @property
    def study(self) -> str:
        """The study's name. Raises UserError where none was chosen."""
        if self.name is None:
            raise UserError("name a study: study=quickstart, say, or one of your own")
        return self.name

    @property
    def folder(self) -> Path:
        """The cache folder: dense checkpoints, bundles, downloads, the default database."""
        return Path(self.cache)


class ReadingConfig(StudyConfig):
    """Of a command that writes no file: Optuna's own tools may have given its study any name."""

    name: AnyName | None


def _drawn(given: Any) -> Any:
    if given != "auto" and type(given) is not bool:
        raise ValueError("it is auto (in a terminal), true or false")
    return given


class SeveralConfig(ReadingConfig):
    studies: list[AnyName] | None  # several at once, in place of one by study=

    @property
    def names(self) -> list[str]:
        """The names of the studies. Raises UserError where none was chosen, and where they were in
        two ways."""
        if not self.studies:
            return [self.study]
        if self.name is not None:
            raise UserError("study and studies exclude each other: studies=[a,b] names them all")
        return list(dict.fromkeys(self.studies))


class FrontConfig(SeveralConfig):
    scatter: Annotated[Literal["auto"] | bool, BeforeValidator(_drawn)]


class DashboardConfig(ReadingConfig):
    port: Annotated[int, Field(ge=0, le=65535)]


class EffortConfig(StudyConfig):
    """Of a command that does jobs, each at most `attempts` times, for `max_hours`."""

    attempts: Count
    max_hours: Annotated[float, Field(gt=0)] | None

    @property
    def deadline(self) -> float | None:
        """The time after which no new trial is begun, in seconds since 1970, if work begins now."""
        return time.time() + self.max_hours * 3600 if self.max_hours else None


class WorkConfig(EffortConfig):
    max_size: Size | None
    max_perplexity: Annotated[float, Field(gt=0)] | None

    @property
    def limits(self) -> Limits:
        return Limits(self.max_size, self.max_perplexity)


class SweepConfig(WorkConfig):
    workers: Workers


class WorkerConfig(WorkConfig):
    worker: Annotated[int, Field(ge=0)]


class ConfirmConfig(EffortConfig):
    repeats: Count
    points: Points  # trials and names of limits; none: the whole front
    workers: Workers


class ExportConfig(StudyConfig):
    to: PathText
    max_size: Size | None
    max_perplexity: Annotated[float, Field(gt=0)] | None
    pick: Literal["knee", "smallest", "best"] | None
    trial: int | str | None  # a number, or the name of a baseline
    rung: Rung | None
    bundle: PathText | None
    onnx: bool
    safetensors: bool

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.rung is not None and self.trial is None:
            raise ValueError("rung: it is one of a trial's; give trial=NUMBER as well")
        chosen = ("max_size", "max_perplexity", "pick", "trial", "bundle")
        given = [name for name in chosen if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: one chooses the model")
        return self


class BuildConfig(StudyConfig):
    recipe: PathText
    dense: PathText | None
    to: PathText
    onnx: bool
    safetensors: bool


class PublishConfig(StudyConfig):
    to: PathText


class AgreedConfig(StudyConfig):
    yes: bool  # do it without asking


class RenameConfig(StudyConfig):
    to: Name


class PlotConfig(StudyConfig):
    to: PathText | None


class ReportConfig(SeveralConfig):
    to: PathText | None
    watch: bool


class InspectConfig(StudyConfig):
    bundle: PathText | None
    to: PathText | None

    @property
    def title(self) -> str:
        """What is inspected: the bundle, or the study's dense model.

        Raises UserError unless exactly one of the two is given.
        """
        if self.bundle is None and self.name is None:
            raise UserError("name a study (study=quickstart, say) or give bundle=FILE")
        if self.bundle is not None and self.name is not None:
            raise UserError(
                f"study {self.name} and bundle {self.bundle} exclude each other: "
                f"a study is inspected at its dense model, a bundle from the file alone"
            )
        return self.bundle or f"the dense model of {self.study}"


class SensitivityConfig(StudyConfig):
    settings: Annotated[int, Field(ge=2)]


class ReplayConfig(StudyConfig):
    trial: int | str  # as for export
    rung: Rung | None


class ImportConfig(StudyConfig):
    weights: PathText
    vocabulary: PathText
    layout: Layout | None
    names: dict[str, str | list[str]] | None
    words: dict[Annotated[int, Field(ge=0)], str] | None
    forget_bias: float

    @model_validator(mode="after")
    def _language(self) -> Self:
        if self.model.kind != LANGUAGE:
            raise ValueError(
                f"model: import takes language models; lmpareto train makes a network of the kind "
                f"{self.model.kind}"
            )
        return self


class EvaluateConfig(StudyConfig):
    bundle: PathText
    split: Split


class CompleteConfig(StudyConfig):
    bundle: PathText | None
    words: Count
