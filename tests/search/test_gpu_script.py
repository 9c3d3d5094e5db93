"""studies/ptb/gpu.sh on the processor: a few updates of a tiny model, and what it plans with."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lmcore.bundle import load
from search.api import open_study
from search.bench.workbench import PACKAGES
from search.config import PUBLISHED
from search.study.context import StudyContext
from studies import environment, write_text

SCRIPT = PUBLISHED / "ptb" / "gpu.sh"
TINY = ("model.hidden=16", "model.embedding=8")


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT.with_suffix(".py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def run(cache: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = environment(cache, PYTHON=sys.executable, **more)
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env={name: value for name, value in env.items() if name != "OUT"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_model_is_trained_coded_and_measured_and_stands_for_its_dense_checkpoint(
    tmp_path: Path,
) -> None:
    text = write_text(tmp_path / "text.txt", words=60, lines=400)
    settings = ("corpus=text", f"corpus.file={text}", *TINY)
    out, cache = tmp_path / "out", tmp_path / "cache"
    done = run(cache, str(out), *settings, DEVICE="cpu", EPOCHS="0.4", MODELS="ptb_1200")
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "ptb_1200.json").read_text())
    bundle = load(out / "ptb_1200.lmb")
    assert bundle.size_bytes == record["size_bytes"]
    assert bundle.model.settings.plain() == record["model"]
    line, *_ = done.stdout.splitlines()
    said = re.fullmatch(r"ptb_1200: [\d.]+ kB, valid ([\d.]+), test ([\d.]+), 0.4 epochs", line)
    assert said, done.stdout
    assert float(said[1]) == pytest.approx(record["valid_perplexity"], abs=0.01)
    assert float(said[1]) == pytest.approx(record["dense_valid_perplexity"], rel=0.05)
    dense = tmp_path / "other" / "dense"
    dense.mkdir(parents=True)
    for form in ("lmb", "json"):
        shutil.copy(out / f"ptb_1200.{form}", dense / f"{record['key']}.{form}")
    study = open_study("ptb_1200", *settings, "training.epochs=0.4", cache=str(tmp_path / "other"))
    context: StudyContext[Any] = StudyContext(study._composed("train"))
    assert context.need_checkpoint().valid_measure == record["valid_perplexity"]
    assert context.bench().untrained_size(context.space.corners[0].recipe) > 0


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    nowhere = run(tmp_path, str(tmp_path / "out"), DEVICE="cpu")
    assert nowhere.returncode == 1
    assert "gpu.sh: Penn Treebank is not at hand" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr


def test_a_package_or_a_device_that_is_missing_is_named(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu.missing("cpu") is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no CUDA device" in gpu.missing("cuda")
    monkeypatch.setattr(gpu, "MODULES", ("torch", "a_package_of_nobody"))
    assert "lacks a_package_of_nobody; install" in gpu.missing("cpu")


def test_the_modules_are_those_that_training_imports(gpu: ModuleType) -> None:
    code = "import search.commands.train, search.bench.workbench, lmcore.runtime, sys"
    command = [sys.executable, "-P", "-c", f"{code}; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(gpu.MODULES) <= {*done.stdout.split(), *PACKAGES, "rich"}  # rich draws its bar


def test_the_epochs_follow_from_the_measured_speed(gpu: ModuleType) -> None:
    fast = {name: {"tokens": 1e6, "seconds": 1.0} for name in gpu.EPOCHS}
    assert gpu.plan(fast, 929_589, 400.0) == "ptb_650 \nptb_1200 \nptb_medium \n"
    slow = {name: {"tokens": 1e5, "seconds": 1.5} for name in gpu.EPOCHS}
    lines = gpu.plan(slow, 929_589, 400.0).splitlines()
    epochs = [int(re.findall(r"training\.epochs=(\d+)", line)[0]) for line in lines]
    assert epochs[0] == epochs[1] < epochs[2] < 39
    factor = float(lines[2].rpartition("=")[2])
    hold = int(re.findall(r"hold=(\d+)", lines[2])[0])
    assert factor ** (epochs[2] - hold) == pytest.approx(0.8 ** (39 - 6), rel=0.2)


def test_trainings_side_by_side_take_as_long_as_they_are_said_to(gpu: ModuleType) -> None:
    alone = [gpu.Probed(tokens=1000.0, rate=10.0)]
    assert gpu.fraction(alone, 100.1) == 1
    assert gpu.fraction(alone, 50.0) == pytest.approx(0.5)
    two = [*alone, gpu.Probed(tokens=500.0, rate=10.0)]  # 50 s both, then faster by sqrt 2
    took = 50 + 50 / 2**0.5
    assert gpu.fraction(two, took + 0.1) == 1
    assert gpu.fraction(two, took / 2) == pytest.approx(0.5)
