"""One process of a sweep: asks the study for trials and measures them, until there are no more."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from multiprocessing.queues import Queue
from queue import Empty
from time import time
from typing import Any

import optuna
from filelock import FileLock
from optuna.trial import TrialState

from lmcore.corpus import load_corpus
from lmcore.errors import UserError
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import prepare
from lmcore.settings import parse
from lmcore.training import DivergedError, Observer, TrainingRecord
from search.config import SweepConfig
from search.dense import DENSE, DenseCheckpoint
from search.fidelity import Look
from search.space import Space
from search.store import Store
from search.study import ATTRIBUTE, DENSE_BASELINE, attribute, find, sampler
from search.terminal import quiet_optuna
from search.trial import Measurement, Workbench

MOST_REPEATS = 20  # equal recipes in a row after which a space counts as exhausted


class StoppedError(Exception):
    """The sweep is to end; the trial at hand stays as it is and is taken over by the next."""


@dataclass(frozen=True)
class Began:
    """A worker turned to a job: "trial 17", "control"."""

    worker: int
    label: str
    trial: int | None = None


@dataclass(frozen=True)
class Advanced:
    """The fraction of its job that a worker has done."""

    worker: int
    fraction: float


@dataclass(frozen=True)
class Ended:
    """A worker is through with its job: with a result, a failure, or neither (a repeat)."""

    worker: int
    label: str
    measured: Measurement | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Refused:
    """A worker cannot go on, for a reason the person can mend: the sweep ends."""

    message: str


Message = Began | Advanced | Ended | Refused


class Board:
    """What the workers of a sweep share: jobs to do first, slots left, when to stop."""

    def __init__(self, context: SpawnContext, slots: int, deadline: float | None) -> None:
        self.jobs: Queue[tuple[str, Any]] = context.Queue()
        self.messages: Queue[Message] = context.Queue()
        self.slots = context.Value("i", slots)
        self.stop = context.Event()
        self.deadline = deadline

    def claim(self) -> bool:
        """Take one slot, if any is left."""
        with self.slots.get_lock():
            self.slots.value -= 1
            if self.slots.value >= 0:
                return True
            self.slots.value = 0
            return False

    def give_back(self) -> None:
        with self.slots.get_lock():
            self.slots.value += 1


def work(
    config: SweepConfig, worker: int, started: int, dense: DenseCheckpoint, board: Board
) -> None:
    """The process's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    quiet_optuna()
    prepare(config.threads)
    try:
        _Worker(config, worker, started, dense, board).run()
    except StoppedError:
        pass
    except UserError as error:
        board.messages.put(Refused(str(error)))


class _Worker:
    def __init__(
        self, config: SweepConfig, worker: int, started: int, dense: DenseCheckpoint, board: Board
    ) -> None:
        self.config, self.worker, self.board = config, worker, board
        corpus = load_corpus(config.corpus, config.folder)
        self.space = Space(config.space, config.model, len(corpus.vocabulary))
        self.words = len(corpus.vocabulary)
        self.bench = Workbench.of(config, corpus, dense.load())
        self.dense = dense.size_bytes, dense.valid_perplexity
        self.store = Store(config.storage)
        self.study = find(config, self.store)
        self.study.sampler = sampler(config, worker, started)
        # on SQLite two that ask at once can be given the same enqueued trial
        self.asking = FileLock(config.folder / "locks" / f"{config.study}.ask")
        self.parent = multiprocessing.parent_process()
        self.repeats = 0

    def run(self) -> None:
        for kind, what in self._jobs():
            match kind:
                case "baseline":
                    self._baseline(what)
                case "resume":
                    self.study.get_trials(deepcopy=False)  # Optuna's cache must know the trial
                    self._trial(optuna.trial.Trial(self.study, what))
                case "new":
                    with self.asking:
                        trial = self.study.ask()
                    self._trial(trial)

    def _jobs(self) -> Iterator[tuple[str, Any]]:
        while not self._stopping():
            try:
                yield self.board.jobs.get(timeout=0.1)
                continue
            except Empty:
                pass
            late = self.board.deadline is not None and time() > self.board.deadline
            if late or self.repeats >= MOST_REPEATS or not self.board.claim():
                return
            yield "new", None

    def _baseline(self, name: str) -> None:
        data = DENSE if name == DENSE_BASELINE else self._baseline_recipe(name)
        recipe = resolve(data, self.config.model, self.words)
        self._say(Began(self.worker, name))
        measured, failure = self._measured(recipe)
        if measured:
            self.store.keep_baseline(self.config.study, name, measured.key)
        self._say(Ended(self.worker, name, measured, failure))

    def _baseline_recipe(self, name: str) -> Recipe:
        return parse(Recipe, self.config.baselines[name], f"baselines.{name}")

    def _trial(self, trial: optuna.trial.Trial) -> None:
        label = f"trial {trial.number}"
        self._say(Began(self.worker, label, trial.number))
        ladder = self.config.fidelity.ladder(self.space.suggest(trial))
        ours: dict[str, Any] = {"asked": self.bench.key(ladder[-1]), "recipe": ladder[-1].plain()}
        if (key := self._known(ours["asked"], trial.number)) is not None:
            known = self.store.measurement(key)
            assert known is not None
            trial.set_user_attr(ATTRIBUTE, ours | {"key": key, "duplicate": True})
            self._tell(trial, known, None)
            self.repeats += 1
            self.board.give_back()
            self._say(Ended(self.worker, label))
            return
        self.repeats = 0
        trial.set_user_attr(ATTRIBUTE, ours)
        measured, failure = self._climb(trial.number, ladder)
        reached = {"key": measured.key, "recipe": measured.recipe} if measured else {}
        ended = {"failure": failure} if failure else {}
        trial.set_user_attr(ATTRIBUTE, ours | reached | ended)
        self._tell(trial, measured, failure)
        self._say(Ended(self.worker, label, measured, failure))

    def _climb(self, trial: int, ladder: list[Recipe]) -> tuple[Measurement | None, str | None]:
        """The measurement at the highest rung that the trial reached; why there is none, or why it
        did not get through the one above."""
        reached: Measurement | None = None
        for rung, recipe in enumerate(ladder):
            goes_on = rung + 1 < len(ladder)
            measured, failure = self._measured(recipe, goes_on)
            if measured is None:
                return reached, failure
            reached = measured
            self.store.keep_rung(self.config.study, trial, rung, measured.key)
            if goes_on:
                mine = Look(trial, rung, measured.size_bytes, measured.valid_perplexity)
                looks = self.store.looks(self.config.study)
                if not self.config.fidelity.goes_on(mine, looks, self.dense):
                    break
        return reached, None

    def _tell(
        self, trial: optuna.trial.Trial, measured: Measurement | None, failure: str | None
    ) -> None:
        if measured:
            values = [float(measured.size_bytes), measured.valid_perplexity]
            self.study.tell(trial.number, values)
        else:
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _known(self, asked: str, number: int) -> str | None:
        """The key of what an earlier complete trial of the same recipe came to."""
        for row in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            key: str = attribute(row, "key")
            # earlier studies trained all trials to the end, and noted no more than that
            if (attribute(row, "asked") or key) == asked and row.number != number:
                return key
        return None

    def _measured(
        self, recipe: Recipe, goes_on: bool = False
    ) -> tuple[Measurement | None, str | None]:
        """The recipe's measurement, known or made now; or the reason why there is none."""
        known = self.store.measurement(self.bench.key(recipe))
        if known:
            return known, None
        try:
            measured = self.bench.measure(recipe, self._observer(), goes_on)
        except (StoppedError, UserError):
            raise
        except DivergedError as error:
            return None, f"diverged: {error}"
        except MemoryError:
            return None, "out of memory"
        except Exception as error:
            # one broken recipe must not end a long search: its traceback is its reason
            if "out of memory" in str(error) or "not enough memory" in str(error):
                return None, "out of memory"
            return None, traceback.format_exc()
        self.store.keep(measured)
        return measured, None

    def _observer(self) -> Observer:
        told = 0.0

        def observe(record: TrainingRecord, updates: int) -> None:
            nonlocal told
            if self._stopping():
                raise StoppedError
            if time() - told > 1:
                told = time()
                self._say(Advanced(self.worker, record.updates / updates))

        return observe

    def _stopping(self) -> bool:
        orphaned = self.parent is not None and not self.parent.is_alive()
        return orphaned or self.board.stop.is_set()

    def _say(self, message: Message) -> None:
        self.board.messages.put(message)
