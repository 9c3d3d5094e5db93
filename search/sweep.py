"""Run a study's trials with several worker processes, and look after them."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from queue import Empty

import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState
from tqdm import tqdm

from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.files import content_key
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import device
from lmcore.settings import parse
from lmcore.training import check_text
from search.config import SweepConfig
from search.dense import DenseCheckpoint, find_dense, train_dense
from search.space import Space
from search.store import Store
from search.study import ATTRIBUTE, DENSE_BASELINE, attribute, create, progress, sampler
from search.terminal import interruptible, training_bar
from search.units import format_size
from search.worker import Advanced, Began, Board, Ended, Message, Refused, work


def sweep(config: SweepConfig, corpus: Corpus, store: Store) -> optuna.Study:
    """Bring the study to `trials` trials in total, or work on it for `max_hours`.

    Everything that can be wrong with the settings is found before any training. Ctrl-C ends the
    workers after the update at hand; what they were at is taken over by the next sweep.
    """
    _check(config, corpus)
    with _alone(config):
        study = create(config, store, corpus)
        dense = find_dense(config, corpus)
        if dense is None:
            with training_bar(f"dense model of {config.study}") as observe:
                dense = train_dense(config, corpus, observe)
        deadline = time.time() + config.max_hours * 3600 if config.max_hours else None
        todo = None
        # a second round only for what a worker left behind when it died
        while (one := _Sweep(config, store, study, dense, deadline)).todo not in (0, todo):
            one.run()
            if deadline and time.time() > deadline:
                break
            todo = one.todo
    return study


def _check(config: SweepConfig, corpus: Corpus) -> None:
    """Raises UserError for any setting that a trial or a baseline would stumble over."""
    words = len(corpus.vocabulary)
    space = Space(config.space, config.model, words)
    for recipe in space.corners:
        _check_trainings(recipe, corpus, "space")
    check_text(config.training, len(corpus.train), "training")
    for parameters in config.start:
        space.check(parameters)
    for name, data in config.baselines.items():
        if name == DENSE_BASELINE:
            raise UserError(f"baselines.{name}: this name belongs to the dense model itself")
        baseline = resolve(parse(Recipe, data, f"baselines.{name}"), config.model, words)
        _check_trainings(baseline, corpus, f"baselines.{name}")
    device(config.device)
    try:
        made = sampler(config, 0, 0)
    except Exception as error:
        # whatever a sampler's constructor, or hydra's look-up of it, has to say
        raise UserError(f"sampler: {error}") from None
    if not isinstance(made, optuna.samplers.BaseSampler):
        raise UserError(f"sampler: got {config.sampler}; its _target_ is a sampler of Optuna's")


def _check_trainings(recipe: Recipe, corpus: Corpus, where: str) -> None:
    """Raises UserError where the text is too short for what a recipe trains."""
    if recipe.layers.units:
        units = recipe.layers.units.training
        check_text(units, len(corpus.train), f"{where}.layers.units.training")
    if recipe.finetuning:
        check_text(recipe.finetuning, len(corpus.train), f"{where}.finetuning")


@contextmanager
def _alone(config: SweepConfig) -> Iterator[None]:
    """One sweep a study at a time on this machine."""
    name = f"{config.study}-{content_key(config.storage.url)}.lock"
    folder = config.folder / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"study {config.study} is being swept by another process") from None
    try:
        yield
    finally:
        lock.release()


class _Sweep:
    def __init__(
        self,
        config: SweepConfig,
        store: Store,
        study: optuna.Study,
        dense: DenseCheckpoint,
        deadline: float | None,
    ) -> None:
        self.config, self.store, self.study, self.dense = config, store, study, dense
        self.context = multiprocessing.get_context("spawn")
        rows = study.get_trials(deepcopy=False)
        left_running = [row for row in rows if row.state == TrialState.RUNNING]
        before = progress(study, config.trials)
        self.board = Board(self.context, max(0, before.left - len(left_running)), deadline)
        known = store.baselines(config.study)
        missing = [name for name in (DENSE_BASELINE, *config.baselines) if name not in known]
        for name in missing:
            self.board.jobs.put(("baseline", name))
        for row in left_running:
            self.board.jobs.put(("resume", row._trial_id))
        self.todo = len(missing) + len(left_running) + self.board.slots.value
        self.done = 0
        self.at: dict[int, Began] = {}
        self.fractions: dict[int, float] = {}
        self.useful: set[int] = set()  # workers that ended a job

    def run(self) -> None:
        with (
            interruptible(self.board.stop),
            tqdm(
                total=self.todo,
                desc=self.config.study,
                bar_format="{desc} |{bar:30}| {n:.1f}/{total} [{elapsed}<{remaining}] {postfix}",
                mininterval=1 if sys.stderr.isatty() else 20,
            ) as bar,
        ):
            processes = {worker: self._start(worker) for worker in range(self.config.workers)}
            while processes:
                self._listen(bar)
                for worker, process in list(processes.items()):
                    if process.is_alive():
                        continue
                    del processes[worker]
                    if process.exitcode and self._bury(worker, process.exitcode):
                        processes[worker] = self._start(worker)
            self._listen(bar)

    def _start(self, worker: int) -> BaseProcess:
        started = len(self.study.get_trials(deepcopy=False))
        arguments = (self.config, worker, started, self.dense, self.board)
        process = self.context.Process(target=work, args=arguments, daemon=True)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # from its first moment on
        process.start()
        signal.signal(signal.SIGINT, before)
        return process

    def _listen(self, bar: tqdm) -> None:
        """Take all messages that are there, waiting a moment for the first."""
        timeout = 0.5
        while True:
            try:
                message = self.board.messages.get(timeout=timeout)
            except Empty:
                break
            timeout = 0.01
            self._hear(message, bar)
        bar.n = self.done + sum(self.fractions.values())
        bar.set_postfix_str(", ".join(began.label for began in self.at.values()), refresh=False)
        bar.update(0)

    def _hear(self, message: Message, bar: tqdm) -> None:
        match message:
            case Began(worker):
                self.at[worker] = message
                self.fractions[worker] = 0.0
            case Advanced(worker, fraction):
                self.fractions[worker] = fraction
            case Ended(worker, label, measured, failure):
                self.useful.add(worker)
                self.at.pop(worker, None)
                self.fractions.pop(worker, None)
                if measured or failure:
                    self.done += 1
                    self._tell(bar, label, _outcome(message))
            case Refused(reason):
                self.board.stop.set()
                raise UserError(reason)

    def _tell(self, bar: tqdm, label: str, outcome: str) -> None:
        bar.write(f"{label}: {outcome}", file=sys.stderr)

    def _bury(self, worker: int, exitcode: int) -> bool:
        """Fail the trial of a worker that died; whether to start another in its place."""
        began = self.at.pop(worker, None)
        self.fractions.pop(worker, None)
        if began is None and worker in self.useful:
            return not self.board.stop.is_set()
        if began is None:
            raise UserError(f"worker {worker} died (exit code {exitcode}) before its first job")
        if began.trial is not None:
            row = self.study.get_trials(deepcopy=False)[began.trial]
            failure = f"its process died (exit code {exitcode}): out of memory?"
            ours = {"key": attribute(row, "key"), "failure": failure}
            self.store.optuna.set_trial_user_attr(row._trial_id, ATTRIBUTE, ours)
            self.study.tell(began.trial, state=TrialState.FAIL)
        self.done += 1
        return not self.board.stop.is_set()


def _outcome(message: Ended) -> str:
    if message.measured is None:
        return f"failed: {(message.failure or '').strip().splitlines()[-1]}"
    size = format_size(message.measured.size_bytes)
    return f"{size}, perplexity {message.measured.valid_perplexity:.2f}"
