"""Run a study's jobs with several worker processes, and look after them."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

import optuna
from tqdm import tqdm

from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import device
from lmcore.settings import parse
from lmcore.training_settings import check_text
from search.bench.dense import DenseCheckpoint, DenseCheckpoints, find_dense, train_dense
from search.bench.workbench import Workbench
from search.config import DENSE_BASELINE, SweepConfig
from search.process import interruptible
from search.rules.sensitivity import Sensitivity
from search.space.space import OWN
from search.store.outage import Patience
from search.store.slots import Ended, Holding, Slots, worker_name
from search.store.store import Store
from search.study.effects import known_effects, measure_effects
from search.study.seeds import seeds_of
from search.study.study import (
    PRIOR,
    SEEDS,
    bury,
    create,
    ended_trials,
    keep_limits,
    sampler,
    space_of,
)
from search.terminal import training_bar
from search.work.alive import WORKERS, forget
from search.work.worker import work

POLL_SECONDS = 0.5


def sweep(config: SweepConfig, corpus: Corpus, store: Store) -> optuna.Study:
    """Bring the study to `trials` trials in total, or work on it for `max_hours`.

    Everything that can be wrong with the settings is found before any training. The study and its
    slots are made here, then the workers are started, and what one leaves behind that dies is free
    for the others at once. Ctrl-C ends the workers after the update at hand; what they were at is
    gone on with by the next sweep, or by workers elsewhere.
    """
    _check(config, corpus)
    words = len(corpus.vocabulary)
    seeds = list(seeds_of(config, space_of(config, words), words, store))
    study = create(config, store, corpus)
    keep_limits(study, config.limits)
    dense = {name: _dense(config, name, corpus) for name in config.dense_names}
    known, names = store.baselines(config.study), (*config.models, *config.baselines)
    missing = [name for name in (DENSE_BASELINE, *names) if name not in known]
    slots = Slots(store.engine, config.study, config.trials, config.storage.lease)
    slots.provide(missing, ended_trials(study))
    if study.user_attrs.get(SEEDS) != config.seeds.plain():
        for parameters in seeds:
            study.enqueue_trial(parameters, skip_if_exists=True)
        study.set_user_attr(SEEDS, config.seeds.plain())
    if isinstance(config.prior, Sensitivity):
        begin_with(config, config.prior, corpus, store, study, dense[OWN])
    if config.workers and slots.open():
        _Crew(config, slots, dense, config.deadline).run()
    if not slots.open():
        bury(study, slots)
    return study


def _dense(config: SweepConfig, name: str, corpus: Corpus) -> DenseCheckpoint:
    """The checkpoint of that name, trained where it is not at hand."""
    one = config.of(name)
    known = find_dense(one, corpus)
    if known is not None:
        return known
    title = "" if name == OWN else f" {name}"
    with training_bar(f"dense model{title} of {config.study}") as observe:
        return train_dense(one, corpus, observe)


def begin_with(
    config: SweepConfig,
    prior: Sensitivity,
    corpus: Corpus,
    store: Store,
    study: optuna.Study,
    dense: DenseCheckpoint,
) -> None:
    """Enqueue what the prior chooses of the study's own dense model, once."""
    if PRIOR in study.user_attrs:
        return
    space = space_of(config, len(corpus.vocabulary))
    bench = Workbench.of(config, corpus, dense.load())
    asked = (config.study, space.own(), bench, store, prior.settings)
    effects = known_effects(*asked) or measure_effects(*asked)
    own = space.start({"dense": OWN} if space.dense else {})
    for parameters in prior.chosen(effects.front, config.limits.max_size_bytes):
        study.enqueue_trial({**own, **parameters}, skip_if_exists=True)
    study.set_user_attr(PRIOR, prior.plain())


def _check(config: SweepConfig, corpus: Corpus) -> None:
    """Raises UserError for any setting that a trial or a baseline would stumble over."""
    words = len(corpus.vocabulary)
    space = space_of(config, words)
    if isinstance(config.prior, Sensitivity):
        space.own()
    for corner in space.corners:
        _check_trainings(corner.recipe, corpus, "space")
    check_text(config.training, len(corpus.train), "training")
    for name, one in config.models.items():
        check_text(one.training, len(corpus.train), f"models.{name}.training")
    for parameters in config.start:
        space.start(parameters)
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


class _Crew:
    """The workers of a sweep, and the bar over what they do."""

    def __init__(
        self, config: SweepConfig, slots: Slots, dense: DenseCheckpoints, deadline: float | None
    ) -> None:
        self.config, self.slots, self.dense, self.deadline = config, slots, dense, deadline
        self.context = multiprocessing.get_context("spawn")
        self.processes: dict[str, BaseProcess] = {}
        self.stop = threading.Event()
        self.patiently = Patience(config.storage.lease, config.storage.shown, self.stop.is_set)
        self.said = {(one.kind, one.name) for one in slots.ended()}
        self.before = len(self.said)
        self.began: set[str] = set()  # the workers that were seen at work
        self.stillborn = 0  # in a row, of those that never were

    def run(self) -> None:
        with (
            interruptible(self.stop),
            tqdm(
                total=self.slots.open(),
                desc=self.config.study,
                bar_format="{desc} |{bar:30}| {n:.1f}/{total} [{elapsed}<{remaining}] {postfix}",
                mininterval=1 if sys.stderr.isatty() else 20,
            ) as bar,
        ):
            try:
                for index in range(self.config.workers):
                    self._start(index)
                while self.processes:
                    if self.stop.wait(POLL_SECONDS):
                        self._end()
                    self.patiently(self._tell, bar)
                    self._replace()
            finally:
                self._end()
            self.patiently(self._tell, bar)

    def _start(self, index: int) -> None:
        name = worker_name()
        arguments = (self.config, index, name, self.dense, self.deadline)
        process = self.context.Process(target=work, args=arguments, name=str(index), daemon=True)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # until it has a handler of its own
        process.start()
        signal.signal(signal.SIGINT, before)
        self.processes[name] = process

    def _replace(self) -> None:
        """Start another worker for each that has died, and free what it held."""
        for name, process in list(self.processes.items()):
            if process.is_alive():
                continue
            del self.processes[name]
            if process.exitcode == 0 or self.stop.is_set():
                continue
            self.began |= {one.worker for one in self.patiently(self.slots.held)}
            self.patiently(self.slots.free, name)
            forget(self.config.folder / WORKERS, name)
            if process.exitcode == 1:
                raise UserError("a worker cannot go on; it has said why")
            self.stillborn = 0 if name in self.began else self.stillborn + 1
            if self.stillborn >= self.config.attempts:
                raise UserError(
                    f"{self.stillborn} workers in a row died at their start "
                    f"(exit code {process.exitcode})"
                )
            self._start(int(process.name))

    def _end(self) -> None:
        """Let the workers that are left come to an end."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join()

    def _tell(self, bar: tqdm) -> None:
        """Show what is done, and a line for each that has just ended."""
        for one in self.slots.ended():
            if (one.kind, one.name) not in self.said:
                self.said.add((one.kind, one.name))
                if one.outcome:
                    bar.write(f"{_label(one)}: {one.outcome}", file=sys.stderr)
        held = self.slots.held()
        self.began |= {one.worker for one in held}
        bar.n = len(self.said) - self.before + sum(one.fraction for one in held)
        bar.set_postfix_str(", ".join(_label(one) for one in held), refresh=False)
        bar.update(0)


def _label(one: Ended | Holding) -> str:
    """ "trial 17", "control"."""
    if one.kind == "baseline":
        return one.name
    return "a new trial" if one.trial is None else f"trial {one.trial}"
