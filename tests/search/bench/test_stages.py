"""Stages: models with fewer units, trained once for all recipes that start from them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from filelock import FileLock

from lmcore import training
from lmcore.bundle import load, packed_size, save
from lmcore.compress.hidden_units import with_fewer_units
from lmcore.data import Data
from lmcore.progress import DivergedError, TrainingRecord
from lmcore.recipe import Recipe, resolve
from lmcore.runtime import prepare
from lmcore.settings import parse
from search.bench import workbench
from search.bench.stages import Stages
from search.bench.workbench import Workbench
from search.measurement import Measurement

pytestmark = pytest.mark.slow

TRAINING = {"batch": 5, "window": 15, "optimizer": "adam"}
UNITS = {
    "strength": 4.0,
    "embedding": True,
    "training": {
        **TRAINING,
        "epochs": 2,
        "rate": 0.02,
        "dropout": {"kind": "sequence", "rate": 0.1},
    },
}
# ranks, widths and cores that what is left may be too small for
EVERYTHING: dict[str, Any] = {
    "layers": {"units": UNITS, "projection": [7, 6], "embedding": 7},
    "sites": {
        "embedding": {"structure": {"kind": "activation_svd", "rank": 4}, "sparsity": 0.3},
        "lstm.0.recurrent": {"structure": {"kind": "tensor_train", "rank": 3, "cores": 2}},
        "*": {
            "structure": {"kind": "svd", "rank": 5},
            "sparsity": 0.4,
            "bits": {"kind": "kmeans", "bits": 3, "weighted": True},
        },
    },
    "biases": {"kind": "linear", "bits": 8},
    "finetuning": {
        **TRAINING,
        "epochs": 0.5,
        "rate": 0.005,
        "dropout": {"kind": "sequence", "rate": 0.1},
    },
}
PLAIN: dict[str, Any] = {"layers": {"units": UNITS}}


@pytest.fixture
def bench(make_model: MakeModel, corpus: Data, tmp_path: Path) -> Workbench:
    return bench_in(tmp_path, make_model, corpus)


def bench_in(folder: Path, make_model: MakeModel, corpus: Data, tied: bool = False) -> Workbench:
    save(folder / "dense.lmb", make_model(tied=tied, hidden=12), corpus.vocabulary)
    stages = Stages(folder / "stages", 10**9)
    return Workbench(corpus, load(folder / "dense.lmb"), 1, folder / "bundles", stages, "cpu")


def recipe_of(bench: Workbench, data: dict[str, Any]) -> Recipe:
    model = bench.dense.model
    return resolve(parse(Recipe, data, "recipe"), model.settings, model.words)


def counting(patch: pytest.MonkeyPatch) -> list[str]:
    """From now on what is trained: each stage."""
    seen: list[str] = []

    def counted(*arguments: Any, **more: Any) -> Any:
        seen.append("stage")
        return with_fewer_units(*arguments, **more)

    patch.setattr(workbench, "with_fewer_units", counted)
    return seen


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return counting(monkeypatch)


def same(one: Measurement, other: Measurement) -> bool:
    return (one.sha256, one.valid_measure) == (other.sha256, other.valid_measure)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_all_methods_compose(
    tied: bool, make_model: MakeModel, corpus: Data, tmp_path: Path
) -> None:
    bench = bench_in(tmp_path, make_model, corpus, tied)
    recipe = recipe_of(bench, EVERYTHING)
    measured = bench.measure(recipe)
    bundle = load(bench.path(measured.key))
    left = bundle.model.settings
    assert sum(left.units) < 24
    assert left.embedding <= 7
    assert all(width <= asked for width, asked in zip(left.widths, (7, 6), strict=True))
    assert measured.size_bytes <= packed_size(recipe, bench.dense.model.settings, corpus.vocabulary)
    (tmp_path / "again").mkdir()
    again = bench_in(tmp_path / "again", make_model, corpus, tied).measure(recipe)
    assert same(measured, again)


def test_a_stage_is_trained_once_for_all_its_recipes(
    bench: Workbench, trainings: list[str]
) -> None:
    first = bench.measure(recipe_of(bench, PLAIN))
    second = bench.measure(recipe_of(bench, EVERYTHING))
    assert trainings == ["stage"]
    assert first.sha256 != second.sha256
    bench.measure(recipe_of(bench, {}))
    assert trainings == ["stage"]
    other = {**UNITS, "strength": 3.0}
    bench.measure(recipe_of(bench, {"layers": {"units": other}}))
    assert trainings == ["stage", "stage"]
    assert {path.suffix for path in bench.stages.folder.iterdir()} <= {".lmb", ".lock"}


@pytest.mark.parametrize("damage", ["cut", "altered", "empty", "foreign"])
def test_a_damaged_stage_is_made_anew(damage: str, bench: Workbench, trainings: list[str]) -> None:
    recipe = recipe_of(bench, PLAIN)
    first = bench.measure(recipe)
    (path,) = bench.stages.folder.glob("*.lmb")
    data = path.read_bytes()
    altered = bytearray(data)
    altered[len(data) // 2] ^= 1
    broken = {"cut": data[:-100], "altered": bytes(altered), "empty": b"", "foreign": b"{}" * 99}
    path.write_bytes(broken[damage])
    assert same(bench.measure(recipe), first)
    assert trainings == ["stage", "stage"]
    assert path.read_bytes() == data


def test_a_stage_that_was_killed_goes_on_to_the_same_end(
    bench: Workbench, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    recipe = recipe_of(bench, PLAIN)

    class StoppedError(Exception):
        pass

    seen: list[int] = []

    def stop(record: TrainingRecord, updates: int) -> None:
        if record.updates == 20:
            raise StoppedError

    def look(record: TrainingRecord, updates: int) -> None:
        seen.append(record.updates)

    with pytest.raises(StoppedError):
        bench.measure(recipe, stop)
    assert [path.suffix for path in bench.stages.folder.glob("*.*")].count(".lmb") == 0
    resumed = bench.measure(recipe, look)
    assert seen == list(range(21, 39))
    (tmp_path / "other").mkdir()
    whole = bench_in(tmp_path / "other", make_model, bench.corpus).measure(recipe)
    assert same(resumed, whole)


def test_a_stage_that_another_worker_trains_is_waited_for(
    bench: Workbench, make_model: MakeModel, trainings: list[str], tmp_path: Path
) -> None:
    """Meanwhile the observer is asked, and may stop; then the other's file is taken."""
    recipe = recipe_of(bench, PLAIN)
    (tmp_path / "other").mkdir()
    other = bench_in(tmp_path / "other", make_model, bench.corpus)
    expected = other.measure(recipe)
    (made,) = other.stages.folder.glob("*.lmb")
    bench.stages.folder.mkdir(parents=True)
    lock = FileLock(bench.stages.folder / made.with_suffix(".lock").name)
    lock.acquire()
    asked: list[float] = []

    def observe(record: TrainingRecord, updates: int) -> None:
        asked.append(record.updates / updates)
        if len(asked) == 1:
            (bench.stages.folder / made.name).write_bytes(made.read_bytes())
            lock.release()

    assert same(bench.measure(recipe, observe), expected)
    assert asked == [0.0]
    assert trainings == ["stage"]  # the other's


def test_a_stage_that_diverges_says_so_and_leaves_no_stage(bench: Workbench) -> None:
    given = {**UNITS["training"], "optimizer": "sgd", "rate": 1e30, "clip": 1e30}  # type: ignore[dict-item]
    units = {"layers": {"units": {**UNITS, "training": given}}}
    with pytest.raises(DivergedError):
        bench.measure(recipe_of(bench, units))
    assert not list(bench.stages.folder.glob("*.lmb"))


def test_units_are_no_part_of_a_model_that_learns_from_the_dense_one(bench: Workbench) -> None:
    finetuning = {**EVERYTHING["finetuning"], "distillation": {"mix": 0.5}}
    recipe = recipe_of(bench, {**PLAIN, "finetuning": finetuning})
    before = {name: value.clone() for name, value in bench.dense.model.state_dict().items()}
    assert bench.measure(recipe).updates == 10
    for name, value in bench.dense.model.state_dict().items():
        assert torch.equal(value, before[name])


def _measure(folder: str, corpus: Data, results: Any) -> None:
    """A worker's process."""
    prepare()
    stages = Stages(Path(folder, "stages"), 10**9)
    dense = load(Path(folder, "dense.lmb"))
    bench = Workbench(corpus, dense, 1, Path(folder, "bundles"), stages, "cpu")
    seen = counting(pytest.MonkeyPatch())
    measured = bench.measure(recipe_of(bench, PLAIN))
    results.put((len(seen), measured.sha256, measured.valid_measure))


def test_two_workers_train_a_stage_once(bench: Workbench, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_measure, args=(str(tmp_path), bench.corpus, results))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    assert sorted(calls for calls, *_ in found) == [0, 1]
    assert found[0][1:] == found[1][1:]
