"""Studies with speed as their third objective, and what studies without it keep of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_module

import lmcore.onnx.speed
from lmcore.errors import UserError
from lmcore.task import PERPLEXITY
from search.bench.workbench import Workbench
from search.commands import settings_of
from search.config import ReadingConfig, SweepConfig
from search.measurement import Measurement
from search.show.report.computed import Source, study_report
from search.show.tables import front_document, front_table
from search.study.beginning import create
from search.study.context import StudyContext, WorkContext
from search.study.history import history_of, write_history
from search.study.published import RECORDS
from search.study.results import read_results, results_of, write_records
from search.study.study import sampler
from studies import Sweep, settings, sweep_here

pytestmark = pytest.mark.slow

THREE = ["size", "perplexity", "speed"]
RULE = {"kind": "front", "rungs": (0.0, 0.05), "eta": 4.0}


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """The same measuring, for a tenth of a second."""
    with pytest.MonkeyPatch.context() as patch:
        measure = partial(lmcore.onnx.speed.relative_speed, seconds=0.1)
        patch.setattr(lmcore.onnx.speed, "relative_speed", measure)
        yield


def three(folder: Path, **more: Any) -> SweepConfig:
    return settings(folder, **{"objectives": THREE, "fidelity": RULE, **more})


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return sweep_here(three(tmp_path_factory.mktemp("three"), max_size="1 MB"))


def files_of(swept: Sweep) -> list[Measurement]:
    return [one for _, _, _, one in results_of(swept.context).named()]


def test_each_file_is_timed_and_optuna_minimises_the_inverse(swept: Sweep) -> None:
    files, best = files_of(swept), results_of(swept.context).trials
    assert len(files) > len(best) == 4
    assert all(one.relative_speed and one.relative_speed > 0 for one in files)
    url = swept.context.config.storage.resolved.render_as_string()
    study = optuna.load_study(study_name="mine", storage=url)
    assert study.metric_names == ["size_bytes", "valid_perplexity", "inverse_speed"]
    for row in study.trials:
        one = best[row.number]
        assert one.relative_speed
        assert row.values == [one.size_bytes, one.valid_measure, 1 / one.relative_speed]
        assert row.constraints == {"max_size": row.constraints["max_size"]}
    assert study.best_trials
    assert optuna.visualization.plot_pareto_front(study).data
    assert optuna.importance.get_param_importances(study, target=lambda trial: trial.values[2])


def test_the_front_is_non_dominated_in_all_three(swept: Sweep) -> None:
    results = results_of(swept.context)

    def values(one: Measurement) -> tuple[float, float, float]:
        return one.size_bytes, one.valid_measure, -(one.relative_speed or 0.0)

    wanted = {
        name
        for name, _, _, one in results.named()
        if not any(
            values(other) != values(one)
            and all(a <= b for a, b in zip(values(other), values(one), strict=True))
            for other in files_of(swept)
        )
    }
    assert {point.name for point in results.front.points} == wanted
    document = front_document(results.front, results.beside, {})["front"]
    assert [one["relative_speed"] for one in document] == [
        results.measured(point.name).relative_speed for point in results.front.points
    ]
    assert " x" in front_table(results.front, results.beside, {}).splitlines()[1]


def test_the_report_has_the_speeds(swept: Sweep, tmp_path: Path) -> None:
    found = study_report(Source(history_of(swept.context), tmp_path, tmp_path))
    assert found.objectives == THREE
    assert all(found.trials["relative_speed"])
    assert all(point.relative_speed for point in found.front)


def test_objectives_are_kept_and_may_not_change(swept: Sweep) -> None:
    config = swept.context.config
    with initialize_config_module("search.conf", version_base="1.3"):
        named = settings_of(ReadingConfig, compose("status", ["name=mine"]))
    context = StudyContext(named.model_copy(update={"storage": config.storage}))
    assert results_of(context).objectives == tuple(THREE)
    other = config.model_copy(update={"objectives": ("size", "perplexity")})
    with pytest.raises(UserError, match=r"objectives was .*'speed'\], is \['size', 'perplexity'\]"):
        create(WorkContext(other))
    again = create(WorkContext(config))
    assert len(again.trials) == 4


def test_a_study_without_speed_cannot_be_given_it(tmp_path: Path) -> None:
    create(WorkContext(settings(tmp_path)))
    with pytest.raises(UserError, match=r"objectives was \['size', 'perplexity'\], is"):
        create(WorkContext(three(tmp_path)))


def test_published_and_read_again_it_is_the_same(swept: Sweep, tmp_path: Path) -> None:
    history = history_of(swept.context)
    write_history(history, swept.context.attributes, tmp_path)
    write_records(history.results, tmp_path / RECORDS)
    again = read_results(swept.context.config, tmp_path)
    assert again.objectives == tuple(THREE)
    assert again.files == history.results.files
    assert again.front == history.results.front


def test_what_another_study_measured_is_timed_and_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = [{"finetuning.rate": 0.005, "all.bits.step": 0.5}]
    plain = settings(tmp_path, trials=1, start=start)
    before = sweep_here(plain)
    (one,) = files_of(before)
    assert one.relative_speed is None
    assert "relative_speed" not in one.plain(PERPLEXITY)
    made = list[str]()
    monkeypatch.setattr(Workbench, "measure", lambda *_: made.append("again"))
    after = sweep_here(three(tmp_path, name="timed", trials=1, start=start, fidelity="whole"))
    assert not made
    (timed,) = files_of(after)
    assert (timed.key, timed.sha256) == (one.key, one.sha256)
    assert timed.relative_speed
    monkeypatch.undo()
    # the study without speed is as it was
    results = results_of(before.context)
    assert [point.relative_speed for point in results.front.points] == [None]
    assert "relative_speed" not in json.dumps(front_document(results.front, results.beside, {}))


@pytest.mark.parametrize("name", ["gp", "nsga2", "random", "tpe"])
def test_every_sampler_takes_three(name: str, tmp_path: Path) -> None:
    with initialize_config_module("search.conf", version_base="1.3"):
        chosen = compose("sweep", ["study=quickstart", f"sampler={name}"]).sampler
    config = settings(tmp_path, sampler={**chosen})
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler(config, 0, 0))
    for number in range(12):
        trial = study.ask()
        value = trial.suggest_float("step", 0.3, 3.0, log=True)
        trial.set_constraint("max_size", value - 2)
        study.tell(trial, [1 / value, value, 1.0 + number % 3])
    assert study.best_trials


def test_objectives_that_are_none_are_refused(tmp_path: Path) -> None:
    for given in (["size"], ["speed", "size", "perplexity"], ["size", "perplexity", "mood"]):
        with pytest.raises(UserError, match="objectives"):
            settings(tmp_path, objectives=given)
    dense = settings(tmp_path)
    models = {"b": {"model": dense.model.plain(), "training": dense.training.plain()}}
    with pytest.raises(UserError, match="leave out speed, or models"):
        three(tmp_path, models=models)
