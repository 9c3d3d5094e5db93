"""How a study begins: the settings that it may not change later, and its first trials.

Three sources give trials before the sampler decides: the study's own `start` rows, its seeds
(recipes, and the fronts of other studies) and its prior.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from lmcore.begun_with import beginning_of
from lmcore.data import Data
from lmcore.errors import UserError
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import device
from lmcore.settings import Settings, parse
from lmcore.training_settings import ImportedSettings
from search.bench.dense import DenseCheckpoint
from search.config import DENSE_BASELINE, PLANE, StudyConfig, SweepConfig
from search.rules.limits import Box
from search.rules.sensitivity import Sensitivity
from search.space.space import OWN
from search.study.begun import BEGUN, CORPUS, SETTINGS, check_kept, kept
from search.study.context import StudyContext, WorkContext
from search.study.effects import affordable, known_effects, measure_effects
from search.study.prediction import FIXED, parameters_of, searched
from search.study.seeds import seeds_of
from search.study.study import (
    check_ours,
    ended_trials,
    keep_box,
    keep_limits,
    metric_names,
    sampler,
)

FILES = ("start", "vectors")  # the settings of a training that are paths, or names of files

# names of the study's attributes in Optuna
PRIOR = "lmpareto_prior"  # the prior whose trials were enqueued, with what it chose among
SEEDS = "lmpareto_seeds"  # the seeds whose trials were enqueued


def begin(context: WorkContext[SweepConfig]) -> dict[str, DenseCheckpoint]:
    """Begin the study, or go on with it: its slots and its first trials exist afterwards.

    Returns the dense models by name, trained where they were not yet. Raises UserError for any
    setting that a trial would stumble over, before anything is trained.
    """
    config = context.config
    check_settings(context)
    seeds = _new_seeds(context)
    study = create(context)
    keep_limits(study, config.limits)
    checkpoints = {name: context.checkpoint(name) for name in config.dense_names}
    measured = context.store.baselines(context.name)
    baselines = (DENSE_BASELINE, *config.models, *config.baselines)
    missing = [name for name in baselines if name not in measured]
    context.slots.provide(missing, ended_trials(study))
    enqueue_seeds(context, seeds)
    box = context.box(checkpoints[OWN])
    keep_box(study, box)
    enqueue_prior(context, config.limits.max_size_bytes, box)
    return checkpoints


def _new_seeds(context: WorkContext[SweepConfig]) -> list[dict[str, Any]]:
    """The parameter values of the seeds; none where the same `seeds` were enqueued before. The
    studies that they came from may be gone by now."""
    begun = context.store.attributes(context.name) or {}
    return [] if begun.get(SEEDS) == context.config.seeds.plain() else list(seeds_of(context))


def identity(context: StudyContext[StudyConfig]) -> dict[str, Any]:
    """The settings that a study may not change once it has begun, as plain data."""
    config = context.config
    models = {
        name: {"model": one.model.plain(), "training": _training(one.training)}
        for name, one in config.models.items()
    }
    return {
        "corpus": context.corpus.key,
        "model": config.model.plain(),
        "training": _training(config.training),
        **({"models": models} if models else {}),  # studies of one model have no such entry
        "space": config.space,
        "seed": config.seed,
        # nor have studies of size and perplexity alone
        **({"objectives": list(config.objectives)} if config.has_speed else {}),
    }


def _training(training: Settings) -> dict[str, Any]:
    """The settings of a training, its files by their names: they may lie elsewhere now. What is in
    them tells dense models apart."""
    plain = training.plain()
    return plain | {name: Path(plain[name]).name for name in FILES if plain.get(name)}


def create(context: WorkContext[StudyConfig]) -> optuna.Study:
    """The study of the settings, which are kept with it. A study that does not exist is made, and
    its `start` rows are enqueued.

    A study that exists may have grown: its space by entries at the ends of ordered lists, and its
    `models` by new dense models. Raises UserError where any other setting of `identity` changed.
    """
    study = optuna.create_study(
        storage=context.store.optuna,
        study_name=context.name,
        directions=["minimize"] * len(context.config.objectives),
        load_if_exists=True,
    )
    check_kept(context.name, study.user_attrs)
    wanted, begun = identity(context), check_begun(context, study)
    check_ours(study, context.config.objectives)
    if begun is None:
        measure = context.config.corpus.task.measure
        study.set_metric_names(metric_names(context.config.objectives, measure))
        waiting = [row.system_attrs.get(FIXED) for row in study.get_trials()]
        for parameters in map(context.space.start, context.config.start):
            if parameters in waiting:  # another sweep begins the same study
                waiting.remove(parameters)
            else:
                study.enqueue_trial(parameters)
        study.set_user_attr(CORPUS, context.config.corpus.kind)
        study.set_user_attr(BEGUN, wanted)
    elif begun != wanted:  # the study has grown
        lengths = {name: len(of) for name, of in context.space.lists.items()}
        context.store.widen(context.name, lengths)
        study.set_user_attr(BEGUN, wanted)
    settings = kept(context.config)
    if study.user_attrs.get(SETTINGS) != settings:
        study.set_user_attr(SETTINGS, settings)
    return study


def check_begun(context: StudyContext[StudyConfig], study: optuna.Study) -> dict[str, Any] | None:
    """The settings that the study was begun with. None where the study exists but has not begun.

    Raises UserError where the settings have changed in a way that `create` does not allow.
    """
    begun: dict[str, Any] | None = study.user_attrs.get(BEGUN)
    if begun is None:
        return None
    wanted = identity(context)
    if "models" in wanted:
        begun = {"models": {}, **begun}
    before, now = ({"objectives": list(PLANE)} | one for one in (begun, wanted))
    if changed := list(_differences(before, now)):
        name = context.name
        raise UserError(
            f"study {name} was begun with other settings: {'; '.join(changed[:3])}. "
            f"Start one of another name with these: name={name}_2"
        )
    return begun


def join(context: WorkContext[StudyConfig]) -> optuna.Study:
    """The study, for a worker. Raises UserError unless a sweep has begun it with these settings."""
    if check_begun(context, context.study) != identity(context):
        raise UserError(
            f"study {context.name} does not know these settings yet; "
            f"lmpareto sweep with the same settings and workers=0 adds them"
        )
    return context.study


def enqueue_seeds(context: WorkContext[StudyConfig], seeds: Sequence[Mapping[str, Any]]) -> None:
    """Enqueue the parameter values of the seeds, unless the same `seeds` were enqueued before."""
    plain = context.config.seeds.plain()
    if context.study.user_attrs.get(SEEDS) != plain:
        for parameters in seeds:
            context.study.enqueue_trial(dict(parameters), skip_if_exists=True)
        context.study.set_user_attr(SEEDS, plain)


def enqueue_prior(
    context: WorkContext[StudyConfig], max_size_bytes: int | None, box: Box | None = None
) -> None:
    """Enqueue what the prior chooses for the study's own dense model among the recipes that are
    searched, once for each box and largest size that the study is swept with."""
    prior, study = context.config.prior, context.study
    if not isinstance(prior, Sensitivity):
        return
    wanted = {**prior.plain(), "box": asdict(box)} if box else prior.plain()
    wanted |= {} if max_size_bytes is None else {"max_size_bytes": max_size_bytes}
    if study.user_attrs.get(PRIOR) == wanted:
        return
    bench = context.bench()
    effects = known_effects(context, bench, prior.settings) or measure_effects(
        context, bench, prior.settings, affordable(context)
    )
    chosen = prior.chosen(searched(effects, box, max_size_bytes))
    for parameters in parameters_of(context, chosen):
        study.enqueue_trial(parameters, skip_if_exists=True)
    study.set_user_attr(PRIOR, wanted)


def check_settings(context: StudyContext[StudyConfig]) -> None:
    """Raises UserError for any setting with which a trial or a baseline would fail."""
    config, corpus = context.config, context.corpus
    if isinstance(config.prior, Sensitivity):
        context.space.own()
    for corner in context.space.corners:
        _check_trainings(corner.recipe, corpus, "space")
    trainings = {"training": config.training}
    trainings |= {f"models.{name}.training": one.training for name, one in config.models.items()}
    for where, training in trainings.items():
        if not isinstance(training, ImportedSettings):
            corpus.check(training, where)
            beginning_of(training)
    for parameters in config.start:
        context.space.start(parameters)
    for name, data in config.baselines.items():
        if name == DENSE_BASELINE:
            raise UserError(f"baselines.{name}: this name belongs to the dense model itself")
        baseline = parse(Recipe, data, f"baselines.{name}")
        _check_trainings(
            resolve(baseline, context.model, context.words), corpus, f"baselines.{name}"
        )
    device(config.device)
    try:
        sampler(config, 0, 0)
    except UserError:
        raise
    except Exception as error:
        # a sampler's constructor, and Hydra's look-up of it, may raise anything
        raise UserError(_no_sampler(config.sampler, error)) from None


def _no_sampler(settings: Mapping[str, Any], error: Exception) -> str:
    """Why these settings make no sampler, and what would."""
    target = settings.get("_target_")
    kind = optuna.samplers.__dict__.get(str(target).removeprefix("optuna.samplers."))
    if kind is None:
        return f"sampler._target_: there is no {target!r}; try optuna.samplers.TPESampler"
    takes = ", ".join(inspect.signature(kind).parameters)
    return f"sampler: {error.__cause__ or error}; {kind.__name__} takes {takes}"


def _check_trainings(recipe: Recipe, corpus: Data, where: str) -> None:
    """Raises UserError where the data are too few for a recipe's trainings."""
    if recipe.layers.units:
        corpus.check(recipe.layers.units.training, f"{where}.layers.units.training")
    if recipe.finetuning:
        corpus.check(recipe.finetuning, f"{where}.finetuning")


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """A line for each setting that changed.

    Ordered lists that grew and new dense models are no changes. For a new dense model to be chosen,
    a list in the space must grow as well.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old if path == "models" else {*old, *new}):
            yield from _differences(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and _begins_as(old, new, path):
        for index, (before, now) in enumerate(zip(old, new, strict=False)):
            yield from _differences(before, now, f"{path}.{index}")
    elif old != new:
        yield f"{path} was {old!r}, is {new!r}"


def _begins_as(old: list[Any], new: list[Any], path: str) -> bool:
    """Whether to compare two lists entry by entry: the new one is as long, or has validly grown."""
    grows = path.startswith("space.") and path.endswith(".ordered")
    return len(old) == len(new) or (grows and len(old) < len(new))
