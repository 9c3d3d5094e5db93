"""All that belongs to one study, opened when it is first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar

import optuna

from lmcore.data import Data
from lmcore.errors import UserError
from lmcore.files import check_folder
from lmcore.network_settings import NetworkSettings
from search.config import ConfirmConfig, StudyConfig
from search.rules.limits import Box
from search.space.space import OWN, Space
from search.store.outage import Patience
from search.store.reader import Reader
from search.store.repeat_slots import RepeatSlots
from search.store.slots import Slots
from search.store.store import Store
from search.store.trials import StoredTrial
from search.study.begun import check_kept, text_of
from search.study.note import ATTRIBUTE
from search.study.published import attributes_in, folder_of

if TYPE_CHECKING:
    from search.bench.dense import DenseCheckpoint
    from search.bench.workbench import Workbench
    from search.measurement import Measurement

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=StudyConfig, covariant=True)


class StudyContext(Generic[C]):
    """A study's settings, its text, its space, its database and its dense models.

    Each is opened once, when it is first asked for, so a command that only reads the database
    loads neither the text nor a model. The database is read as it is. With `patience`, a database
    that is away is waited for; without it, the first failure is raised.
    """

    def __init__(self, config: C, patience: Patience | None = None) -> None:
        self.config, self.patience = config, patience

    def but(self, **settings: Any) -> Self:
        """The context with other settings, in the same database and of the same text."""
        other = type(self)(self.config.model_copy(update=settings), self.patience)
        if "store" in vars(self) and "storage" not in settings:
            other.store = self.store
        if "corpus" in vars(self) and not settings.keys() & {"corpus", "cache"}:
            other.corpus = self.corpus
        return other

    def patiently(self, do: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """The result of `do`; with patience, a database that is away is waited for."""
        return self.patience(do, *given, **named) if self.patience else do(*given, **named)

    @property
    def name(self) -> str:
        """The study's name. Raises UserError where none was chosen."""
        return self.config.study

    @cached_property
    def corpus(self) -> Data:
        """The data. Raises UserError where it cannot be read, and where the study was begun with
        another."""
        config = self.config
        if config.name is None:
            return config.corpus.load(config.folder)
        return text_of(config, self.attributes)

    @property
    def attributes(self) -> dict[str, Any]:
        """What lmpareto keeps with the study: of the database, else of its published folder; empty
        where it is in neither."""
        known = self.patiently(self.store.attributes, self.name)
        published = folder_of(self.name) if known is None else None
        return attributes_in(published) if published else known or {}

    @property
    def words(self) -> int:
        """The size of the vocabulary."""
        return len(self.corpus.vocabulary)

    @property
    def model(self) -> NetworkSettings:
        """The shape of the study's own dense model."""
        return self.shape_of(OWN)

    def shape_of(self, dense: str) -> NetworkSettings:
        """The shape of the dense model of that name."""
        return self.config.of(dense).model.completed(self.corpus)

    @cached_property
    def space(self) -> Space:
        """What the study samples. Raises UserError where a range is wrong."""
        models = {name: self.shape_of(name) for name in self.config.models}
        return Space(self.config.space, self.model, self.words, models)

    @cached_property
    def store(self) -> Reader:
        """The database, for reading. Raises UserError where it cannot be opened."""
        return self.patiently(Reader, self.config.storage)

    @cached_property
    def study(self) -> optuna.Study:
        """Optuna's study. Raises UserError where it has not begun."""
        return self.patiently(self._find)

    def _find(self) -> optuna.Study:
        if self.store.has_study(self.name):
            study = optuna.load_study(study_name=self.name, storage=self.store.optuna)
            check_kept(self.name, study.user_attrs)
            return study
        raise UserError(
            f"there is no study {self.name} in {self.store.settings.shown}; "
            f"lmpareto sweep with the same settings begins it"
        )

    def trials(self) -> list[StoredTrial]:
        """All trials of the study by number, as they are stored now. Raises UserError where it has
        not begun, and where a trial is damaged."""
        assert self.study, "its tables are of a version that is known"
        return self.patiently(self.store.trials, self.name, ATTRIBUTE)

    @cached_property
    def slots(self) -> Slots:
        """The study's slots, with as many trials in total as the settings say. Those of repeats are
        for settings of a confirmation alone."""
        config = self.config
        made = RepeatSlots if isinstance(config, ConfirmConfig) else Slots
        return made(self.store.engine, self.name, config.trials, config.storage.lease)

    def find_checkpoint(self, dense: str = OWN) -> DenseCheckpoint | None:
        """The checkpoint of the dense model of that name, None where it was not trained yet."""
        from search.bench.dense import find_dense

        return find_dense(self.config.of(dense), self.corpus)

    def need_checkpoint(self, dense: str = OWN) -> DenseCheckpoint:
        """The checkpoint of the dense model of that name. Raises UserError where there is none."""
        from search.bench.dense import need_dense

        return need_dense(self.config.of(dense), self.corpus)

    def checkpoint(self, dense: str = OWN) -> DenseCheckpoint:
        """The checkpoint of the dense model of that name, trained now where it was not before.
        Raises UserError where the cache cannot be written and where the training diverges."""
        from search.bench.dense import doubt, train_dense
        from search.terminal import training_bar

        if known := self.find_checkpoint(dense):
            return known
        check_folder(self.config.folder / "dense")
        title = "" if dense == OWN else f" {dense}"
        with training_bar(
            f"dense model{title} of {self.config.name or 'these settings'}",
            self.config.corpus.task.measure,
        ) as observe:
            checkpoint = train_dense(self.config.of(dense), self.corpus, observe)
        if said := doubt(checkpoint, self.corpus, self.config.corpus.task.measure):
            print(f"warning: {said}", file=sys.stderr)
        return checkpoint

    def box(self, checkpoint: DenseCheckpoint) -> Box | None:
        """The part of the plane that is searched, None for all of it. The checkpoint is that of the
        study's own dense model."""
        if self.config.box is None:
            return None
        dense_bytes = 4 * self.model.weights(self.words)
        return self.config.box.around(dense_bytes, checkpoint.valid_measure)

    def bench(self, checkpoint: DenseCheckpoint | None = None) -> Workbench:
        """The workbench of a checkpoint; without one, of the study's own dense model."""
        from search.bench.workbench import Workbench

        checkpoint = checkpoint or self.need_checkpoint()
        return Workbench.of(self.config, self.corpus, checkpoint.load())

    def dense_name(self, measured: Measurement) -> str:
        """The name of the dense model that a measurement started from, if it is at hand, else that
        of the study's own."""
        for name in self.config.models:
            checkpoint = self.find_checkpoint(name)
            if checkpoint and checkpoint.sha256 == measured.provenance.get("dense"):
                return name
        return OWN

    def bench_of(self, measured: Measurement) -> Workbench:
        """The workbench of the checkpoint that a measurement started from, if this study has it,
        else of the study's own. Raises UserError where that was not trained yet."""
        return self.bench(self.need_checkpoint(self.dense_name(measured)))


class WorkContext(StudyContext[C]):
    """A study that is worked on: its database is written, so it is made or brought up to date."""

    @cached_property
    def store(self) -> Store:
        """The database, for writing. Raises UserError where it cannot be opened."""
        return self.patiently(Store, self.config.storage)
