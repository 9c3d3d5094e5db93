"""Studies: resumed as they were begun, counted right, nothing trained twice, opened by Optuna."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

from lmcore.bundle import load, save
from lmcore.corpus import Corpus
from lmcore.errors import UserError
from lmcore.evaluation import score
from lmcore.model import LanguageModel
from lmcore.recipe import Recipe, resolve
from lmcore.settings import parse
from search.bench.stages import Stages
from search.bench.workbench import Workbench
from search.config import SweepConfig
from search.front import Point
from search.show.tables import progress_text
from search.space.space import Space
from search.study.beginning import create
from search.study.context import StudyContext, WorkContext
from search.study.note import ATTRIBUTE, TrialNote
from search.study.results import results_of
from search.study.study import progress, sampler
from search.work.sweep import sweep
from studies import Sweep, settings, sweep_here


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the recipes that are really built, trained and scored, as it happens."""
    keys: list[str] = []
    measure = Workbench.measure

    def counted(self: Workbench, recipe: Any, *rest: Any) -> Any:
        keys.append(self.key(recipe))
        return measure(self, recipe, *rest)

    monkeypatch.setattr(Workbench, "measure", counted)
    return keys


def changed_space(config: SweepConfig, **changed: Any) -> dict[str, Any]:
    return {**config.space, **changed}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Five trials in one process."""
    return sweep_here(settings(tmp_path_factory.mktemp("swept"), trials=5))


# --- identity ----------------------------------------------------------------------------------


def begin(config: SweepConfig) -> optuna.Study:
    return create(WorkContext(config))


def test_a_study_is_found_again_with_what_it_begun_with(tmp_path: Path) -> None:
    start = [{"finetuning.rate": 0.005}, {"finetuning.rate": 0.006}]
    config = settings(tmp_path, start=start)
    begin(config)
    again = begin(config)
    assert [row.state for row in again.trials] == [TrialState.WAITING] * 2
    assert again.metric_names == ["size_bytes", "valid_perplexity"]
    assert again.directions == [optuna.study.StudyDirection.MINIMIZE] * 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 2}, ["seed was 1, is 2"]),
        (
            {"model": {"layers": 1, "hidden": 24, "embedding": 16, "tied": False}},
            ["model.hidden was 16, is 24"],
        ),
        ({"space": {"sites": {"*": {"sparsity": 0.5}}}}, ["space.", "was", "is"]),
        (
            {"corpus": {"kind": "pydoc", "max_words": 300}},
            ["another text or vocabulary", "corpus=pydoc"],
        ),
    ],
)
def test_a_study_begun_with_other_settings_says_which(
    changed: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    begin(settings(tmp_path))
    with pytest.raises(UserError) as error:
        begin(settings(tmp_path, **changed))
    for part in ("study mine was begun with ", "name=mine_2", *said):
        assert part in str(error.value)


def test_one_number_of_the_training_or_the_space_is_enough(tmp_path: Path) -> None:
    config = settings(tmp_path)
    begin(config)
    training = {**config.training.plain(), "rate": 0.03}
    with pytest.raises(UserError, match=r"training\.rate was 0\.02, is 0\.03"):
        begin(settings(tmp_path, training=training))
    finetuning = {**config.space["finetuning"], "rate": {"low": 0.001, "high": 0.02, "log": True}}
    with pytest.raises(UserError, match=r"space\.finetuning\.rate\.high was 0\.01, is 0\.02"):
        begin(settings(tmp_path, space=changed_space(config, finetuning=finetuning)))


RATES = [0.001, 0.002, 0.004, 0.008]
KMEANS = {"kind": "kmeans", "bits": 4}


def coded(*bits: int) -> list[Any]:
    """Codecs, one of them with an ordered list of its own."""
    return ["float16", {"kind": "linear", "bits": {"ordered": list(bits)}}]


def with_rates(folder: Path, rates: Any, **changed: Any) -> SweepConfig:
    """The study `mine`, its fine-tuning rate one of a list."""
    config = settings(folder)
    finetuning = {**config.space["finetuning"], "rate": {"ordered": rates}}
    return settings(folder, space=changed_space(config, finetuning=finetuning, **changed))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"rates": RATES}, {"rates": [*RATES, 0.016]}),
        ({"rates": RATES[:1]}, {"rates": RATES}),
        (
            {"rates": RATES, "biases": {"ordered": coded(8)}},
            {"rates": RATES, "biases": {"ordered": [*coded(8, 6), KMEANS]}},
        ),
        (
            {"rates": RATES, "biases": {"choice": coded(8)}},
            {"rates": RATES, "biases": {"choice": coded(8, 6)}},
        ),
    ],
)
def test_an_ordered_list_may_grow_at_its_end(
    before: dict[str, Any], after: dict[str, Any], tmp_path: Path
) -> None:
    begin(with_rates(tmp_path, **before))
    begin(with_rates(tmp_path, **after))
    begin(with_rates(tmp_path, **after))
    with pytest.raises(UserError, match=r"space\..*ordered was"):  # and not shrink
        begin(with_rates(tmp_path, **before))


@pytest.mark.parametrize(
    "rates",
    [
        [0.016, *RATES],
        [*RATES[:2], 0.003, *RATES[2:]],
        [*RATES[:3], 0.009, 0.016],
        RATES[:3],
        RATES[::-1],
    ],
)
def test_an_ordered_list_may_change_in_no_other_way(rates: list[float], tmp_path: Path) -> None:
    begin(with_rates(tmp_path, RATES))
    with pytest.raises(UserError, match=r"space\.finetuning\.rate\.ordered"):
        begin(with_rates(tmp_path, rates))


def test_a_choice_may_not_grow(tmp_path: Path) -> None:
    begin(with_rates(tmp_path, RATES, biases={"choice": coded(8)}))
    with pytest.raises(UserError, match=r"space\.biases\.choice was"):
        begin(with_rates(tmp_path, RATES, biases={"choice": [*coded(8), KMEANS]}))


def test_the_sampler_comes_to_the_new_entries_of_a_list_that_grew(tmp_path: Path) -> None:
    """TPE in groups draws from the first range that it finds in the study: without Store.widen
    0 of 40 trials come to a new entry, whichever of three seeds it has; with it at least 37."""
    growing = [with_rates(tmp_path, rates) for rates in (RATES, [*RATES, 0.016, 0.032, 0.064])]
    drawn: list[float] = []
    for config in growing:
        study = begin(config)
        study.sampler = optuna.samplers.TPESampler(
            multivariate=True, group=True, seed=1, n_startup_trials=5
        )
        space = Space(config.space, config.model, 200)
        for _ in range(25):
            trial = study.ask()
            recipe = space.suggest(trial).recipe
            assert recipe.finetuning
            drawn.append(recipe.finetuning.rate)
            study.tell(trial, [1 / drawn[-1], 1 / drawn[-1]])
    old, new = drawn[:25], drawn[25:]
    assert set(old) == set(RATES)
    assert set(new) >= {0.016, 0.032, 0.064}
    shown = optuna.load_study(study_name="mine", storage=growing[0].storage.shown)
    ranges = {trial.distributions["finetuning.rate"] for trial in shown.trials}
    assert ranges == {optuna.distributions.IntDistribution(0, 6)}
    indices = [trial.params["finetuning.rate"] for trial in shown.trials]
    assert [[*RATES, 0.016, 0.032, 0.064][index] for index in indices] == drawn


def test_another_study_keeps_its_ranges_when_one_has_grown(tmp_path: Path) -> None:
    other = with_rates(tmp_path, RATES).model_copy(update={"name": "other"})
    for config in (other, with_rates(tmp_path, RATES)):
        Space(config.space, config.model, 200).suggest(begin(config).ask())
    begin(with_rates(tmp_path, [*RATES, 0.016]))
    last = {
        name: optuna.load_study(study_name=name, storage=other.storage.shown)
        .trials[0]
        .distributions["finetuning.rate"]
        for name in ("mine", "other")
    }
    assert [last["mine"].high, last["other"].high] == [4, 3]  # type: ignore[attr-defined]


def test_a_row_to_start_from_names_the_entry_of_a_list_by_its_value(tmp_path: Path) -> None:
    config = with_rates(tmp_path, RATES)
    config = config.model_copy(update={"start": [{"finetuning.rate": 0.004}]})
    trial = begin(config).ask()
    recipe = Space(config.space, config.model, 200).suggest(trial).recipe
    assert recipe.finetuning
    assert (recipe.finetuning.rate, trial.params["finetuning.rate"]) == (0.004, 2)


@pytest.mark.parametrize(
    "changed",
    [
        {"trials": 99},
        {"workers": 3},
        {"max_hours": 1.0},
        {"threads": 2},
        {"format": "json"},
        {"sampler": {"_target_": "optuna.samplers.NSGAIISampler"}},
        {"start": [{"finetuning.rate": 0.005}]},
    ],
)
def test_a_study_may_go_on_with_more_trials_workers_or_another_sampler(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    begin(settings(tmp_path))
    begin(settings(tmp_path, **changed))


def test_a_study_that_has_not_begun_is_named(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with pytest.raises(UserError, match=r"there is no study mine in sqlite.*lmpareto sweep"):
        StudyContext(config).study  # noqa: B018


# --- a sweep's trials --------------------------------------------------------------------------


def test_each_slot_is_one_measured_trial(swept: Sweep) -> None:
    done = progress(swept.study, 5)
    assert (done.complete, done.failed, done.running, done.left) == (5, {}, 0, 0)
    assert done.seconds > 0
    assert sorted(one.trial for one in swept.ended if one.trial is not None) == list(range(5))
    assert all("perplexity" in one.outcome for one in swept.ended)


def test_the_study_opens_with_plain_optuna_and_its_values_are_the_measurements(
    swept: Sweep,
) -> None:
    opened = optuna.load_study(study_name="mine", storage=swept.context.config.storage.shown)
    assert opened.metric_names == ["size_bytes", "valid_perplexity"]
    results = results_of(swept.context)
    assert set(results.trials) == {trial.number for trial in opened.trials}
    for trial in opened.trials:
        one = results.trials[trial.number]
        assert trial.values == [one.size_bytes, one.valid_measure]
        assert trial.user_attrs[ATTRIBUTE]["key"] == one.key  # as any tool reads it
        assert trial.user_attrs[ATTRIBUTE]["recipe"] == one.recipe


def test_the_front_is_optunas_best_trials(swept: Sweep) -> None:
    results = results_of(swept.context)
    best = {trial.number for trial in swept.study.best_trials}
    assert {point.trial for point in results.front.points} == best
    everything = results.front.points + results.front.dominated
    assert {point.trial for point in everything} == set(range(5))
    for point in everything:
        assert isinstance(point, Point)
        assert point.recipe == results.trials[int(point.name)].recipe


def test_what_was_measured_is_the_file(swept: Sweep) -> None:
    corpus = swept.context.corpus
    for one in results_of(swept.context).trials.values():
        path = swept.context.config.folder / "bundles" / f"{one.key}.lmb"
        bundle = load(path)
        assert path.stat().st_size == one.size_bytes
        assert bundle.sha256 == one.sha256
        again = score(bundle.language, corpus.valid, corpus.vocabulary.eos)
        assert again.value == one.valid_measure


def test_a_sweep_that_is_done_trains_nothing(swept: Sweep, measured: list[str]) -> None:
    context = swept.context
    context.store.keep_baseline("mine", "dense", results_of(context).trials[0].key)
    before = {path: path.stat().st_mtime_ns for path in context.config.folder.rglob("*.lmb")}
    sweep(WorkContext(context.config))
    assert measured == []
    after = {path: path.stat().st_mtime_ns for path in context.config.folder.rglob("*.lmb")}
    assert after == before


def few(tmp_path: Path, **more: Any) -> SweepConfig:
    """A study whose space holds three recipes."""
    bits = {"kind": "linear", "bits": {"choice": [3, 4, 5]}}
    return settings(tmp_path, space={"sites": {"*": {"tie": "all", "bits": bits}}}, **more)


def test_an_equal_recipe_is_not_trained_again_and_takes_no_slot(
    tmp_path: Path, measured: list[str]
) -> None:
    swept = sweep_here(few(tmp_path, trials=3))
    rows = swept.study.get_trials()
    assert len(rows) > 3, "the seed gave no repeat: choose another"
    assert len(measured) == len(set(measured)) == 3
    done = progress(swept.study, 3)
    assert (done.complete, done.finished, done.left) == (3, 3, 0)
    assert {row.state for row in rows} == {TrialState.COMPLETE}
    told = {(TrialNote.of(row).key, *row.values) for row in rows}
    assert {key for key, *_ in told} == set(measured)
    assert len(told) == 3
    assert len(results_of(swept.context).trials) == 3


@pytest.mark.slow
def test_a_space_that_is_exhausted_ends_the_sweep(
    tmp_path: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    swept = sweep_here(few(tmp_path, trials=10))
    assert len(measured) == 3
    done = progress(swept.study, 10)
    assert (done.complete, done.left, done.running) == (3, 7, 0)
    assert "the last 20 recipes proposed were known" in capsys.readouterr().err


@pytest.mark.slow
def test_another_study_takes_the_measurements_that_are_there(
    tmp_path: Path, measured: list[str]
) -> None:
    sweep_here(few(tmp_path, trials=3))
    before = len(measured)
    other = sweep_here(few(tmp_path, trials=3, name="other"))
    assert len(measured) == before
    assert progress(other.study, 3).complete == 3


def test_a_slot_more_is_a_trial_more(tmp_path: Path, measured: list[str]) -> None:
    config = settings(tmp_path, trials=2)
    sweep_here(config)
    swept = sweep_here(config, slots=1)
    assert len(measured) == 3
    assert progress(swept.study, 3).complete == 3


def test_parameters_to_start_from_come_first(tmp_path: Path) -> None:
    start = [
        {"all.bits.step": 0.9, "finetuning.rate": 0.005},
        {"all.bits.step": 1.1},
    ]
    swept = sweep_here(settings(tmp_path, start=start, trials=3))
    rows = swept.study.get_trials()
    assert rows[0].params == {"all.bits.step": 0.9, "finetuning.rate": 0.005}
    assert rows[1].params["all.bits.step"] == 1.1
    assert 0.001 <= rows[1].params["finetuning.rate"] <= 0.01


def test_a_diverging_recipe_fails_with_its_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    config = settings(tmp_path)
    finetuning = {
        **config.space["finetuning"],
        "optimizer": "sgd",
        "clip": 1e30,
        "rate": {"low": 0.1, "high": 1e30, "log": True},
    }
    space = changed_space(config, finetuning=finetuning)
    start = [{"finetuning.rate": rate} for rate in (0.1, 1e30, 0.2, 0.3)]
    swept = sweep_here(settings(tmp_path, trials=4, space=space, start=start))
    states = [row.state for row in swept.study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, *[TrialState.COMPLETE] * 2]
    done = progress(swept.study, 4)
    assert (done.complete, done.finished, done.left) == (3, 4, 0)
    (reason,) = done.failed
    assert reason.startswith("diverged")
    assert done.failed[reason] == 1
    (failed,) = [one for one in swept.ended if one.trial == 1]
    assert failed.outcome == f"failed: {reason}"
    assert set(results_of(swept.context).trials) == {0, 2, 3}


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (ZeroDivisionError("a bug in a method"), "ZeroDivisionError: a bug in a method"),
    ],
)
def test_a_recipe_that_breaks_fails_with_its_reason(
    raised: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = breaking(monkeypatch, raised, times=2)
    swept = sweep_here(settings(tmp_path, trials=3))
    done = progress(swept.study, 3)
    assert (done.complete, done.finished, done.running) == (2, 3, 0)
    (said,) = done.failed
    assert reason in said.splitlines()[-1]
    assert len(tried) == 4  # as often as `attempts` says


def test_what_breaks_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, OSError("the disk was full for a moment"), times=1)
    swept = sweep_here(settings(tmp_path, trials=3))
    done = progress(swept.study, 3)
    assert (done.complete, done.failed) == (3, {})


def breaking(patch: pytest.MonkeyPatch, raised: Exception, times: int) -> list[str]:
    """From now on the second recipe that is measured raises, so many times; the tried ones."""
    measure: Callable[..., Any] = Workbench.measure
    tried: list[str] = []

    def breaks(self: Workbench, recipe: Recipe, *arguments: Any) -> Any:
        tried.append(recipe.key)
        second = len(set(tried)) == 2 and recipe.key == tried[1]
        if second and tried.count(recipe.key) <= times:
            raise raised
        return measure(self, recipe, *arguments)

    patch.setattr(Workbench, "measure", breaks)
    return tried


@pytest.mark.slow
def test_a_trial_that_was_running_is_taken_over_with_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]
) -> None:
    """The process dies after it was asked for a recipe; the next sweep measures that recipe."""
    config = settings(tmp_path, trials=2)
    swept = sweep_here(config, slots=1)
    left = swept.study.ask()
    rate = left.suggest_float("finetuning.rate", 0.001, 0.01, log=True)
    assert progress(swept.study, 2).running == 1
    sweep(WorkContext(config))
    rows = StudyContext(config).study.get_trials()
    assert [row.state for row in rows] == [TrialState.COMPLETE] * 2
    assert rows[1].params["finetuning.rate"] == rate
    assert progress(StudyContext(config).study, 2).left == 0


# --- progress ----------------------------------------------------------------------------------


def test_progress_counts_what_takes_a_slot() -> None:
    study = optuna.create_study(study_name="s", directions=["minimize"] * 2)
    told: list[tuple[TrialState, TrialNote]] = [
        (TrialState.COMPLETE, TrialNote()),
        (TrialState.COMPLETE, TrialNote(duplicate=True)),
        (TrialState.FAIL, TrialNote(failure="out of memory")),
        (TrialState.FAIL, TrialNote(failure="out of memory")),
        (TrialState.FAIL, TrialNote(failure="diverged: nan")),
        (TrialState.FAIL, TrialNote()),
        (TrialState.COMPLETE, TrialNote()),
    ]
    for state, note in told:
        trial = study.ask()
        note.write(trial)
        study.tell(trial, [1.0, 2.0] if state == TrialState.COMPLETE else None, state=state)
    study.ask()
    study.enqueue_trial({"x": 1})
    done = progress(study, 10)
    assert done.complete == 2
    assert done.failed == {"out of memory": 2, "diverged: nan": 1, "unknown": 1}
    assert (done.running, done.finished, done.left) == (1, 6, 4)
    assert progress(study, 3).left == 0


def test_what_is_left_where_no_worker_is_started(swept: Sweep) -> None:
    done = replace(progress(swept.study, 99), seconds=3.0)
    assert f"{done.left} to go, by workers started elsewhere" in progress_text(done, workers=0)
    assert (
        f"{done.left} to go, about {done.left * 1.5 / 60:.0f} min with 2 worker(s)"
        in progress_text(done, workers=2)
    )


def test_what_takes_less_than_a_minute(swept: Sweep) -> None:
    done = replace(progress(swept.study, 8), seconds=8.0)
    assert "3 to go, less than a minute with 1 worker(s)" in progress_text(done, workers=1)


def test_a_study_from_before_slots_is_to_have_the_trials_that_it_has(swept: Sweep) -> None:
    done = progress(swept.study, 0)
    assert (done.trials, done.left) == (5, 0)
    assert progress_text(done, workers=1).startswith("mine: 5 of 5 trials complete")


@pytest.mark.parametrize("directions", [["minimize"], ["minimize", "maximize"], ["minimize"] * 3])
def test_a_study_of_another_program_is_counted_but_not_shown_or_swept(
    directions: list[Any], tmp_path: Path
) -> None:
    config = settings(tmp_path, name="theirs & 1", workers=0)
    context = WorkContext(config)
    study = optuna.create_study(
        storage=context.store.optuna, study_name=config.study, directions=directions
    )
    study.add_trial(optuna.create_trial(values=[1.0] * len(directions)))
    assert progress_text(progress(study, 0), 1) == "theirs & 1: 1 of 1 trials complete"
    for use in (lambda: results_of(StudyContext(config)), lambda: create(context)):
        with pytest.raises(UserError) as refused:
            use()
        assert str(refused.value) == (
            "study theirs & 1 was not made by lmpareto: its objectives are not size and "
            "perplexity, each to be minimized; choose another name"
        )


def test_a_trial_of_another_program_is_named(tmp_path: Path) -> None:
    config = settings(tmp_path)
    create(WorkContext(config)).add_trial(optuna.create_trial(values=[1.0, 2.0]))
    with pytest.raises(UserError, match=r"study mine: lmpareto has no measurement of trial 0; an"):
        results_of(StudyContext(config))


def test_progress_of_nothing() -> None:
    done = progress(optuna.create_study(study_name="s", directions=["minimize"] * 2), 5)
    assert (done.complete, done.failed, done.running, done.left, done.seconds) == (0, {}, 0, 5, 0)


# --- what is wrong is found before any training ------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"start": [{"finetuning.rate": 7.0}]}, "start.finetuning.rate: got 7.0"),
        ({"space": {"sites": {"nowhere": {}}}}, "space.sites.nowhere: matches no site"),
        (
            {"baselines": {"zeros": {"sites": {"*": {"sparsity": 2}}}}},
            "baselines.zeros.sites.*.sparsity: got 2",
        ),
        ({"baselines": {"zeros": {"sites": {"x": {}}}}}, "x: matches no site"),
        ({"baselines": {"dense": {}}}, "baselines.dense"),
        (
            {"sampler": {"_target_": "optuna.samplers.NoSuchSampler"}},
            "sampler._target_: there is no",
        ),
        ({"sampler": {"_target_": "optuna.samplers.TPESampler", "bogus": 1}}, "sampler: "),
        ({"sampler": {}}, "sampler: "),
        ({"sampler": {"_target_": "builtins.dict"}}, "builtins.dict is no sampler"),
        ({"sampler": {"_target_": "os.system", "command": "touch evil"}}, "sampler"),
        (
            {
                "sampler": {
                    "_target_": "optuna.samplers.PartialFixedSampler",
                    "fixed_params": [{"_target_": "subprocess.Popen", "args": ["touch", "evil"]}],
                }
            },
            "subprocess.Popen is no sampler",
        ),
        ({"device": "nonsense"}, "device: got 'nonsense'"),
    ],
)
def test_a_sweep_with_wrong_settings_trains_and_begins_nothing(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    context = WorkContext(settings(tmp_path, **changed))
    with pytest.raises(UserError) as error:
        sweep(context)
    assert said in str(error.value)
    assert list(tmp_path.rglob("*.lmb")) == []
    assert not context.store.has_study("mine")


def test_a_finetuning_too_long_for_the_text_is_found_before_any_training(tmp_path: Path) -> None:
    config = settings(tmp_path)
    finetuning = {**config.space["finetuning"], "window": 100_000}
    config = settings(tmp_path, space=changed_space(config, finetuning=finetuning))
    with pytest.raises(UserError, match="window"):
        sweep(WorkContext(config))
    assert list(tmp_path.rglob("*.lmb")) == []


def test_a_device_that_is_not_there_fails_no_trial(tmp_path: Path) -> None:
    """The dense model is at hand; only the trials would need the device."""
    sweep_here(settings(tmp_path, trials=1))
    context = WorkContext(settings(tmp_path, trials=3, device="nonsense"))
    with pytest.raises(UserError, match="device: got 'nonsense'"):
        sweep(context)
    assert progress(context.study, 3).failed == {}


# --- samplers ----------------------------------------------------------------------------------


def first_values(config: SweepConfig, worker: int, started: int) -> list[float]:
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=sampler(config, worker, started)
    )
    return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]


def test_samplers_differ_by_worker_start_and_seed_and_by_nothing_else(tmp_path: Path) -> None:
    config = settings(tmp_path)
    seen = [
        first_values(config, 0, 0),
        first_values(config, 1, 0),
        first_values(config, 0, 7),
        first_values(settings(tmp_path, seed=2), 0, 0),
    ]
    assert len({tuple(values) for values in seen}) == len(seen)
    assert first_values(config, 0, 0) == seen[0]
    assert first_values(settings(tmp_path, name="other", trials=9), 0, 0) == seen[0]


@pytest.mark.slow
def test_the_same_study_gives_the_same_trials(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, two = (sweep_here(settings(tmp_path / name, trials=2)) for name in ("a", "b"))
    assert [row.params for row in one.study.trials] == [row.params for row in two.study.trials]
    assert [row.values for row in one.study.trials] == [row.values for row in two.study.trials]


def test_a_measurement_says_what_made_it_and_where_its_time_went(tmp_path: Path) -> None:
    swept = sweep_here(settings(tmp_path, trials=1))
    measured = swept.context.store.measurement(TrialNote.of(swept.study.trials[0]).key or "")
    assert measured
    made = measured.provenance
    assert {"lmpareto", "code", "torch", "numpy", "optuna", "python", "machine"} <= set(made)
    seconds = made["seconds"]
    assert list(seconds) == ["build", "finetune", "write", "load", "score"]
    assert measured.seconds <= seconds["finetune"] + 0.001


# --- distillation ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recipe_with_distillation_learns_from_the_dense_model(
    dense: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    """It differs from the recipe without, says so in its key, and leaves the dense model alone."""
    save(tmp_path / "dense.lmb", dense, corpus.vocabulary)
    bench = Workbench(
        corpus, load(tmp_path / "dense.lmb"), 1, tmp_path, Stages(tmp_path, 10**9), "cpu"
    )
    teacher = bench.dense.model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    finetuning = {
        "epochs": 1,
        "batch": 5,
        "rate": 0.5,
        "dropout": {"kind": "element", "rate": 0.1},
    }
    taught = {**finetuning, "distillation": {"temperature": 2.0, "mix": 0.7}}
    measured = [
        bench.measure(resolve(parse(Recipe, {"finetuning": given}), dense.settings, dense.words))
        for given in (finetuning, taught, taught)
    ]
    assert len({row.key for row in measured}) == len({row.sha256 for row in measured}) == 2
    assert measured[1].sha256 == measured[2].sha256
    assert not any(module.training for module in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_trial_that_another_worker_was_given_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite two that ask at once can be given the same enqueued trial."""
    ask = optuna.Study.ask
    given: list[optuna.Trial] = []

    def twice(study: optuna.Study, *rest: Any) -> Any:
        again = len(given) == 1
        given.append(given[0] if again else ask(study, *rest))
        return given[-1]

    monkeypatch.setattr(optuna.Study, "ask", twice)
    swept = sweep_here(settings(tmp_path, trials=2))
    assert [trial.number for trial in given] == [0, 0, 1]
    assert [row.number for row in swept.study.trials] == [0, 1]
    assert len({one.trial for one in swept.ended}) == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"baselines": {"1": {}}}, "a number names a trial"), ({"name": ""}, "name")],
)
def test_names_that_would_be_taken_for_something_else(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        settings(tmp_path, **changed)


@pytest.mark.parametrize("stored", ["text", None, {"key": 5}, {"recipe": 7}, {"moved": [1]}])
def test_a_damaged_note_is_named(stored: Any) -> None:
    row = optuna.trial.create_trial(values=[1.0, 2.0], user_attrs={ATTRIBUTE: stored})
    with pytest.raises(UserError, match=f"its attribute {ATTRIBUTE}.* is damaged"):
        TrialNote.of(row)
