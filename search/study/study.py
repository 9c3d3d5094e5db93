"""A study: created once, resumed at will, its trials run by worker processes.

It is an ordinary Optuna study with two objectives, size in bytes and validation perplexity, that
any of Optuna's tools opens. A trial that was running when its process died is taken over by the
next sweep, with the parameters it had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import hydra.utils
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.files import content_key
from search.config import StudyConfig
from search.rules.limits import Limits
from search.space.space import Space
from search.store.slots import Slots
from search.store.store import Store

ATTRIBUTE = "lmpareto"  # one JSON attribute a trial: key, recipe, failure, duplicate, surplus
PRIOR = "lmpareto_prior"  # the study's attribute that says what was enqueued of a prior
SEEDS = "lmpareto_seeds"  # and of seeds
CORPUS = "lmpareto_corpus"  # the kind of corpus that it is about
LIMITS = "lmpareto_limits"  # those of its last sweep


def identity(config: StudyConfig, corpus: Corpus) -> dict[str, Any]:
    """What a study may not change once it has begun."""
    models = {name: one.plain() for name, one in config.models.items()}
    return {
        "corpus": corpus.key,
        "model": config.model.plain(),
        "training": config.training.plain(),
        **({"models": models} if models else {}),  # came later
        "space": config.space,
        "seed": config.seed,
    }


def space_of(config: StudyConfig, words: int) -> Space:
    """The space of the settings, for a vocabulary of so many words."""
    models = {name: one.model for name, one in config.models.items()}
    return Space(config.space, config.model, words, models)


def create(config: StudyConfig, store: Store, corpus: Corpus) -> optuna.Study:
    """The study of the config, made where it does not exist.

    Since it was begun, ordered lists in its space may have grown at their ends, and dense models
    have come. Raises UserError where anything else changed.
    """
    space = space_of(config, len(corpus.vocabulary))
    study = optuna.create_study(
        storage=store.optuna,
        study_name=config.study,
        directions=["minimize", "minimize"],
        load_if_exists=True,
    )
    wanted, begun = identity(config, corpus), check_begun(config, study, corpus)
    if begun is None:
        study.set_metric_names(["size_bytes", "valid_perplexity"])
        waiting = [row.system_attrs.get("fixed_params") for row in study.get_trials()]
        for parameters in map(space.start, config.start):
            if parameters in waiting:  # another sweep begins the study, too
                waiting.remove(parameters)
            else:
                study.enqueue_trial(parameters)
        study.set_user_attr(CORPUS, config.corpus.kind)
        study.set_user_attr(ATTRIBUTE, wanted)
    elif begun != wanted:  # ordered lists have grown, and with them the dense models perhaps
        store.widen(config.study, {name: len(of) for name, of in space.lists.items()})
        study.set_user_attr(ATTRIBUTE, wanted)
    return study


def check_begun(config: StudyConfig, study: optuna.Study, corpus: Corpus) -> dict[str, Any] | None:
    """The settings that the study was begun with, None where it was only made. Raises UserError
    where they are not those of the config, but for what may grow."""
    begun: dict[str, Any] | None = study.user_attrs.get(ATTRIBUTE)
    if begun is None:
        return None
    wanted = identity(config, corpus)
    if "models" in wanted:
        begun = {"models": {}, **begun}
    if changed := list(_differences(begun, wanted)):
        raise UserError(
            f"study {config.study} was begun with other settings: {'; '.join(changed[:3])}. "
            f"Start one of another name with these: name={config.study}_2"
        )
    return begun


def join(config: StudyConfig, store: Store, corpus: Corpus) -> optuna.Study:
    """The study that a sweep began, or let grow, with these very settings; else UserError."""
    study = find(config, store)
    if check_begun(config, study, corpus) != identity(config, corpus):
        raise UserError(
            f"study {config.study} does not know these settings yet; "
            f"lmpareto sweep with the same settings and workers=0 tells it"
        )
    return study


def find(config: StudyConfig, store: Store) -> optuna.Study:
    """The study of that name; UserError where it has not begun."""
    try:
        return optuna.load_study(study_name=config.study, storage=store.optuna)
    except KeyError:
        raise UserError(
            f"there is no study {config.study} in {store.settings.shown}; "
            f"lmpareto sweep with the same settings begins it"
        ) from None


def sampler(config: StudyConfig, worker: int | str, started: int) -> optuna.samplers.BaseSampler:
    """The configured sampler, its seed a function of the study's, the worker and the start."""
    seed = int(content_key(config.seed, worker, started), 16) % 2**31
    made: optuna.samplers.BaseSampler = hydra.utils.instantiate(config.sampler, seed=seed)
    return made


@dataclass(frozen=True)
class Progress:
    """How far a study is."""

    study: str
    trials: int  # wanted in total
    complete: int
    infeasible: int  # of the complete ones
    failed: dict[str, int]  # reason -> how many
    running: int
    seconds: float  # the median a complete trial took

    @property
    def finished(self) -> int:
        return self.complete + sum(self.failed.values())

    @property
    def left(self) -> int:
        return max(0, self.trials - self.finished)


def progress(study: optuna.Study, trials: int) -> Progress:
    """Count the trials that take a slot."""
    rows = [row for row in study.get_trials(deepcopy=False) if takes_slot(row)]
    complete = [row for row in rows if row.state == TrialState.COMPLETE]
    failed = [row for row in rows if row.state == TrialState.FAIL]
    running = sum(row.state == TrialState.RUNNING for row in rows)
    seconds = sorted(row.duration.total_seconds() for row in complete if row.duration)
    return Progress(
        study=study.study_name,
        trials=trials,
        complete=len(complete),
        infeasible=len(infeasible(study) & {row.number for row in complete}),
        failed=dict(Counter(attribute(row, "failure") or "unknown" for row in failed)),
        running=running,
        seconds=seconds[len(seconds) // 2] if seconds else 0.0,
    )


def attribute(row: FrozenTrial, name: str) -> Any:
    """One of ours of a trial, None where it has none."""
    return row.user_attrs.get(ATTRIBUTE, {}).get(name)


def takes_slot(row: FrozenTrial) -> bool:
    """Whether the trial is one of those that the study is to have: an equal recipe proposed again
    is not, nor one that was asked for in vain, by a worker that died or lost the answer."""
    return not (attribute(row, "duplicate") or attribute(row, "surplus"))


def keep_limits(study: optuna.Study, limits: Limits) -> None:
    """What the study's trials are judged by from now on, whatever they were begun under."""
    if study.user_attrs.get(LIMITS) != asdict(limits):
        study.set_user_attr(LIMITS, asdict(limits))


def infeasible(study: optuna.Study) -> frozenset[int]:
    """The numbers of the complete trials over a limit of the study's last sweep."""
    limits = Limits(**study.user_attrs.get(LIMITS, {}))
    rows = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return frozenset(row.number for row in rows if limits.broken(*row.values))


def complete_keys(study: optuna.Study) -> dict[int, str]:
    """Trial number -> key of its measurement, for the complete trials that are no repeats."""
    rows = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return {row.number: attribute(row, "key") for row in rows if takes_slot(row)}


def ended_trials(study: optuna.Study) -> list[int]:
    """The trials that take a slot and have ended."""
    rows = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return [row.number for row in rows if takes_slot(row)]


def orphans(study: optuna.Study, slots: Slots, worker: str) -> list[int]:
    """The running trials that have no slot and will get none; see `Slots.orphans`."""
    rows = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return slots.orphans([row.number for row in rows], worker)


def bury(study: optuna.Study, slots: Slots, worker: str = "") -> None:
    """Fail the running trials that there is no slot for."""
    for number in orphans(study, slots, worker):
        with suppress(UpdateFinishedTrialError):  # another does so, too
            row = study.get_trials(deepcopy=False)[number]
            optuna.trial.Trial(study, row._trial_id).set_user_attr(ATTRIBUTE, {"surplus": True})
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """What changed, but for ordered lists of the space that begin as they did, and dense models
    that have come: the space has to name them."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old if path == "models" else {*old, *new}):
            yield from _differences(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and _begins_as(old, new, path):
        for index, (before, now) in enumerate(zip(old, new, strict=False)):
            yield from _differences(before, now, f"{path}.{index}")
    elif old != new:
        yield f"{path} was {old!r}, is {new!r}"


def _begins_as(old: list[Any], new: list[Any], path: str) -> bool:
    """Whether a list may be compared entry by entry: it is as long as it was, or may have grown."""
    grows = path.startswith("space.") and path.endswith(".ordered")
    return len(old) == len(new) or (grows and len(old) < len(new))
