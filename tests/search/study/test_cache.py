"""What the cache holds, and what of it can go: nothing that a front or a running study needs."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from lmcore.files import sha256_of
from search.config import SweepConfig
from search.show.export import export
from search.show.folder import Forms
from search.study.cache import Share, free, survey
from search.study.context import StudyContext, WorkContext
from search.study.results import results_of
from studies import settings, sweep_here

TRIALS = 6


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    sweep_here(settings(folder, trials=TRIALS))
    return folder


@pytest.fixture
def config(swept: Path, tmp_path: Path) -> SweepConfig:
    """Of a study that was swept two hours ago."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    age(tmp_path)
    return settings(tmp_path, trials=TRIALS)


def age(folder: Path) -> None:
    before = time.time() - 7200
    for path in folder.rglob("*"):
        os.utime(path, (before, before))


def surveyed(config: SweepConfig) -> list[Share]:
    return survey(StudyContext(config))


def unneeded(config: SweepConfig) -> set[str]:
    return {path.name for one in surveyed(config) for path in one.unneeded}


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_every_file_of_the_cache_counts_once(config: SweepConfig, tmp_path: Path) -> None:
    shares = surveyed(config)
    text = tmp_path / "text.txt"  # that is no part of a cache
    assert sum(one.files for one in shares) == len(files(tmp_path) - {text})
    (bundles,) = (one for one in shares if one.what == "bundles")
    assert (bundles.study, bundles.files) == ("mine", TRIALS)
    assert bundles.size_bytes == sum(p.stat().st_size for p in (tmp_path / "bundles").iterdir())
    assert {one.what for one in shares} >= {"bundles", "dense models", "database"}


def test_what_is_not_on_the_front_can_go_and_is_made_again(
    config: SweepConfig, tmp_path: Path
) -> None:
    results = results_of(StudyContext(config))
    front = {results.measured(one.name).key for one in results.front.points}
    others = {one.key for _, _, _, one in results.named()} - front
    assert front
    assert others
    before = files(tmp_path)
    free(surveyed(config))
    gone = {path.name for path in before - files(tmp_path)}
    assert gone == {f"{key}.lmb" for key in others}
    assert unneeded(config) == set()
    number, one = next((n, m) for n, m in results.trials.items() if m.key in others)
    export(StudyContext(config), results.find(number), one, tmp_path / "to", Forms(onnx=False))
    assert sha256_of(tmp_path / "to" / "model.lmb") == one.sha256


def test_baselines_and_what_nobody_knows_stay(config: SweepConfig, tmp_path: Path) -> None:
    (dominated, *_) = sorted(unneeded(config))
    context = StudyContext(config)
    key = dominated.removesuffix(".lmb")
    WorkContext(config).store.keep_baseline("mine", "control", key)
    assert dominated not in unneeded(config)
    strange = [tmp_path / "bundles" / "0123456789abcdef.lmb", tmp_path / "bundles" / "notes.txt"]
    for path in strange:
        path.write_text("mine")
    age(tmp_path)
    free(surveyed(config))
    assert all(path.exists() for path in strange)
    assert results_of(context).front.points


def test_weights_stay_while_their_study_has_trials_to_go(
    config: SweepConfig, tmp_path: Path
) -> None:
    key = next(iter(results_of(StudyContext(config)).trials.values())).key
    stage = tmp_path / "stages" / f"{key}.safetensors"
    stage.write_bytes(b"weights")
    age(tmp_path)
    assert stage.name in unneeded(config)
    WorkContext(config).but(trials=TRIALS + 1).slots.provide([], [])
    assert stage.name not in unneeded(config)


def test_what_was_just_written_stays_and_what_the_dead_left_goes(
    config: SweepConfig, tmp_path: Path
) -> None:
    (name, *_) = sorted(unneeded(config))
    os.utime(tmp_path / "bundles" / name)
    assert name not in unneeded(config)
    partial = tmp_path / "bundles" / f".{name}.x7"
    partial.write_bytes(b"part")
    assert partial.name not in unneeded(config)
    age(tmp_path)
    assert {name, partial.name} <= unneeded(config)


def test_a_link_out_of_the_cache_is_left_alone(config: SweepConfig, tmp_path: Path) -> None:
    (name, *_) = sorted(unneeded(config))
    outside = tmp_path / "outside.lmb"
    (tmp_path / "bundles" / name).rename(outside)
    (tmp_path / "bundles" / name).symlink_to(outside)
    assert name not in unneeded(config)
    free(surveyed(config))
    assert outside.exists()


def test_a_cache_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert surveyed(settings(tmp_path, cache=str(tmp_path / "none"))) == []
    assert not (tmp_path / "none").exists()
