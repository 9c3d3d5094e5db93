"""Several dense models in one study: each trained once, each trial measured on the one it chose."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from lmcore.errors import UserError
from lmcore.settings import parse
from search.bench.dense import DenseCheckpoint
from search.bench.workbench import Workbench
from search.config import ReplayConfig, SweepConfig
from search.show.export import export
from search.show.folder import Forms
from search.show.overview import overview, overview_text
from search.show.publish import publish
from search.show.replay import replay
from search.store.settings import StorageSettings
from search.study.beginning import create
from search.study.context import StudyContext, WorkContext
from search.study.history import History, history_of
from search.study.note import TrialNote
from search.study.published import RECORDS
from search.study.results import Results, results_of
from search.work.sweep import sweep
from studies import Shell, settings, sweep_here, write_configs

pytestmark = pytest.mark.slow

WIDE = {"layers": 2, "hidden": 24, "embedding": 16, "tied": False}


def two_models(folder: Path, dense: Any, **changed: Any) -> SweepConfig:
    """The study `mine` with a second model, `wide`."""
    config = settings(folder)
    models = {"wide": {"model": WIDE, "training": config.training.plain()}}
    space = {**config.space, "dense": dense}
    return settings(folder, **({"models": models, "space": space} | changed))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    folder = tmp_path_factory.mktemp("models")
    start = [{"dense": "own"}, {"dense": "wide"}]
    return two_models(folder, {"choice": ["own", "wide"]}, start=start, trials=4)


@pytest.fixture(scope="module")
def context(config: SweepConfig) -> StudyContext[SweepConfig]:
    """Of the study after its sweep."""
    sweep(WorkContext(config))
    return StudyContext(config)


@pytest.fixture(scope="module")
def results(context: StudyContext[SweepConfig]) -> Results:
    return results_of(context)


@pytest.fixture(scope="module")
def history(context: StudyContext[SweepConfig]) -> History:
    return history_of(context)


@pytest.fixture(scope="module")
def checkpoints(context: StudyContext[SweepConfig]) -> dict[str, DenseCheckpoint]:
    found = {name: context.find_checkpoint(name) for name in ("own", "wide")}
    return {name: one for name, one in found.items() if one}


def chosen(context: StudyContext[SweepConfig]) -> dict[int, str]:
    """Trial -> the dense model that it chose."""
    trials = context.study.trials
    return {trial.number: trial.params["dense"] for trial in trials if trial.state.is_finished()}


def test_each_dense_model_is_trained_and_measured(
    checkpoints: dict[str, DenseCheckpoint], results: Results
) -> None:
    assert set(checkpoints) == {"own", "wide"}
    assert checkpoints["wide"].load().model.settings.plain() == WIDE
    assert set(results.baselines) == {"dense", "wide"}
    for name, baseline in (("own", "dense"), ("wide", "wide")):
        measured = results.measured(baseline)
        assert measured.size_bytes == checkpoints[name].size_bytes
        assert measured.valid_measure == pytest.approx(checkpoints[name].valid_measure)


def test_each_trial_is_measured_on_the_dense_model_that_it_chose(
    context: StudyContext[SweepConfig], results: Results, checkpoints: dict[str, DenseCheckpoint]
) -> None:
    names = chosen(context)
    assert {names[0], names[1]} == {"own", "wide"}
    assert len(results.trials) == 4
    for number, measured in results.trials.items():
        loaded = checkpoints[names[number]].load()
        assert measured.provenance["dense"] == loaded.sha256
        layers = {site.split(".")[1] for site in measured.recipe["sites"] if "lstm" in site}
        assert len(layers) == loaded.model.settings.layers


def test_the_keys_of_the_own_dense_models_recipes_are_those_of_a_study_without_others(
    config: SweepConfig, results: Results
) -> None:
    alone = settings(config.folder, name="alone", start=[], trials=1)
    again = sweep_here(alone, slots=1)
    (row,) = again.study.get_trials(states=(TrialState.COMPLETE,))
    values = {**row.params, "dense": "own"}
    beside = config.model_copy(update={"name": "beside", "start": [values]})
    ((_, measured),) = results_of(sweep_here(beside, slots=1).context).trials.items()
    ((_, first),) = results_of(again.context).trials.items()
    assert measured.key == first.key
    assert len({one.key for one in results.trials.values()}) == 4


def test_a_trial_of_each_is_replayed_to_the_bit(
    config: SweepConfig, context: StudyContext[SweepConfig], results: Results
) -> None:
    plain = {k: value for k, value in config.plain().items() if k in ReplayConfig.model_fields}
    for number, name in list(chosen(context).items())[:2]:
        asked = parse(ReplayConfig, {**plain, "trial": number, "rung": None})
        result = replay(StudyContext(asked), results)
        assert result.identical, name


def test_a_model_of_each_is_made_again_where_its_file_is_gone(
    context: StudyContext[SweepConfig], results: Results, tmp_path: Path
) -> None:
    for number in list(chosen(context))[:2]:
        measured = results.trials[number]
        (context.config.folder / "bundles" / f"{measured.key}.lmb").unlink()
        folder = tmp_path / str(number)
        document = export(context, results.find(number), measured, folder, Forms(onnx=False))
        assert document["sha256"] == measured.sha256


def test_every_dense_model_is_published(
    context: StudyContext[SweepConfig], history: History, checkpoints: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "published" / "mine"
    publish(context, history, folder)
    for name, file in (("own", "dense"), ("wide", "dense_wide")):
        data = (folder / f"{file}.lmb").read_bytes()
        assert hashlib.sha256(data).hexdigest() == checkpoints[name].load().sha256
        assert (
            json.loads((folder / f"{file}.json").read_text())["key"]
            == checkpoints[name].record["key"]
        )
    other = tmp_path / "published" / "other"
    publish(context, history, other)
    assert not list(other.glob("dense*"))
    lines = (other / "results.csv").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("wide,"))
    assert str(folder / "dense_wide.lmb") in line


def test_publishing_again_deletes_its_own_files_alone(
    context: StudyContext[SweepConfig], history: History, tmp_path: Path
) -> None:
    folder, other = tmp_path / "published" / "mine", tmp_path / "published" / "other"
    publish(context, history, folder)
    theirs = [folder / "README.md", folder / "bundles" / "theirs.lmb", other / "dense.lmb"]
    other.mkdir()
    for path in theirs:
        path.write_text("theirs")
    (other / "dense.json").write_text("{")
    gone = folder / "bundles" / "99.lmb"
    gone.write_text("of a trial that was on the front")
    records = (folder / RECORDS).read_text()
    (folder / RECORDS).write_text(records + '{"name": "99", "sha256": ""}\n')
    publish(context, history, folder)
    assert not gone.exists()
    assert (folder / RECORDS).read_text() == records
    assert {path.read_text() for path in theirs} == {"theirs"}


@pytest.mark.parametrize("name", [RECORDS, "results.csv"])
def test_publishing_mends_what_was_damaged(
    name: str, context: StudyContext[SweepConfig], history: History, tmp_path: Path
) -> None:
    publish(context, history, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"\xff" + whole[: len(whole) // 2])
    publish(context, history, tmp_path)
    assert len((tmp_path / name).read_bytes().splitlines()) == len(whole.splitlines())


def test_a_dense_model_that_no_trial_chose_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    of = Workbench.of

    def counted(config: Any, corpus: Any, bundle: Any) -> Workbench:
        loaded.append(bundle.model.settings.layers)
        return of(config, corpus, bundle)

    monkeypatch.setattr(Workbench, "of", counted)
    start = [{"dense": "own"}] * 2
    sweep_here(two_models(tmp_path, {"choice": ["own", "wide"]}, start=start), slots=2)
    assert loaded == [1]


def test_each_dense_models_trials_are_made_to_fit(
    config: SweepConfig, results: Results, tmp_path: Path
) -> None:
    """The same trials, with a limit below the largest of the wider model's."""
    largest = max(one.size_bytes for one in results.trials.values())
    most = int(0.9 * largest)
    database = StorageSettings(url=f"sqlite:///{tmp_path}/studies.db")
    limited = config.model_copy(update={"storage": database, "max_size": most})
    swept = sweep_here(limited, slots=4)
    moved, sizes = 0, dict[str, list[int]](own=[], wide=[])
    for row in swept.study.get_trials(states=(TrialState.COMPLETE,)):
        note = TrialNote.of(row)
        measured = swept.context.store.measurement(note.key or "")
        assert measured
        sizes[row.params["dense"]].append(measured.size_bytes)
        moved += bool(note.moved)
        assert measured.size_bytes <= most * 1.05
    assert all(sizes.values())
    assert moved


def test_a_prior_is_of_the_own_dense_model(tmp_path: Path) -> None:
    prior = {"kind": "sensitivity", "settings": 2, "starts": 2}
    for dense in ({"choice": ["wide", "own"]}, {"ordered": ["wide", "own"]}):
        named = f"study_{next(iter(dense))}"
        config = two_models(tmp_path, dense, prior=prior, name=named, workers=0)
        study = sweep(WorkContext(config))
        waiting = study.get_trials(states=(TrialState.WAITING,))
        assert waiting
        space = StudyContext(config).space
        for _ in waiting:
            assert space.suggest(study.ask()).dense == "own"
    config = two_models(tmp_path, "wide", prior=prior, name="other", workers=0)
    with pytest.raises(UserError, match=r"space\.dense: .* need the study's own dense model"):
        sweep(WorkContext(config))


def test_the_corners_of_each_dense_model_are_looked_at(config: SweepConfig) -> None:
    shown = overview(StudyContext(config))
    (choice, *others) = shown.parameters
    assert (choice.name, choice.values) == ("dense", {"choice": ["own", "wide"]})
    assert {one.name for one in others} == {"all.bits.step", "finetuning.rate"}
    assert all(one.always for one in shown.parameters)
    assert shown.smallest.parameters["dense"] == "own"
    assert shown.largest.parameters["dense"] == "wide"
    for corner, dense in (("smallest", "own"), ("largest", "wide")):
        said = rf"^{corner} corner: a file of at most .*, of the dense model {dense}$"
        assert re.search(said, overview_text(shown), re.M)


def test_another_dense_model_is_composed_of_the_groups_and_trained(tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "configs")
    study = configs / "study" / "mine.yaml"
    wide = "  - /model@models.wide.model: tiny\n  - /training@models.wide.training: quick\n"
    text = study.read_text().replace("defaults:\n", f"defaults:\n{wide}")
    study.write_text(text + "space: {dense: {choice: [own, wide]}}\n")
    with Shell(tmp_path / "cache") as shell:
        mine = ("--config-dir", str(configs), "study=mine")
        quick = ("models.wide.model.hidden=24", "models.wide.training.epochs=0.1")
        shell("worker", *mine).refused("dense model", "lmpareto train")
        document = shell("train", *mine, *quick, "format=json").ok().document
        again = shell("train", *mine, *quick).ok()
    assert document["model"]["hidden"] == 16
    assert document["models"]["wide"]["model"]["hidden"] == 24
    for one in (document, document["models"]["wide"]):
        assert Path(one["bundle"]).exists()
        assert one["bundle"] in again.out
    assert again.out.count("trained before") == 2


# --- what may change, and what not -------------------------------------------------------------


def begin(config: SweepConfig) -> None:
    create(WorkContext(config))


def test_a_dense_model_may_come_to_an_ordered_list_later(tmp_path: Path) -> None:
    alone = two_models(tmp_path, {"ordered": ["own"]}, models={})
    begin(alone)
    both = two_models(tmp_path, {"ordered": ["own", "wide"]})
    begin(both)
    begin(both)
    training = both.training.plain()
    deep = {"model": {**WIDE, "layers": 3}, "training": training}
    models = {"wide": {"model": WIDE, "training": training}, "deep": deep}
    begin(two_models(tmp_path, {"ordered": ["own", "wide", "deep"]}, models=models))
    with pytest.raises(UserError, match=r"models\.deep was|space\.dense\.ordered was"):
        begin(both)


def test_no_dense_model_may_change(tmp_path: Path) -> None:
    both = two_models(tmp_path, {"ordered": ["own", "wide"]})
    begin(both)
    other = {"wide": {"model": {**WIDE, "hidden": 32}, "training": both.training.plain()}}
    with pytest.raises(UserError, match=r"models\.wide\.model\.hidden was 24, is 32"):
        begin(two_models(tmp_path, {"ordered": ["own", "wide"]}, models=other))


@pytest.mark.parametrize("name", ["own", "dense", "coarse", "3", "a/b", ""])
def test_a_dense_model_has_a_name_of_its_own(name: str, tmp_path: Path) -> None:
    config = settings(tmp_path)
    models = {name: {"model": WIDE, "training": config.training.plain()}}
    with pytest.raises(UserError, match=rf"models\.{name}: "):
        settings(tmp_path, models=models, baselines={"coarse": {}})


def test_a_text_too_short_for_one_of_the_trainings_is_said_before_any(tmp_path: Path) -> None:
    long = {**settings(tmp_path).training.plain(), "batch": 10_000}
    models = {"wide": {"model": WIDE, "training": long}}
    config = two_models(tmp_path, {"choice": ["own", "wide"]}, models=models)
    with pytest.raises(UserError) as error:
        sweep(WorkContext(config))
    said = str(error.value)
    assert said.startswith(
        "models.wide.training.batch 10000 x models.wide.training.window 20 need a "
    )
    assert (
        "training text of 210,000 tokens, and the train part of text text.txt is too short" in said
    )
    assert said.endswith("Give a longer text, or a smaller models.wide.training.batch")
    assert not (config.folder / "dense").exists()
