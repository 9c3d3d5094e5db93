"""How many workers a sweep starts, and which GPU each of them is given."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from search.study.context import StudyContext, WorkContext
from search.work import machine
from search.work.machine import VISIBLE, Machine, crew_size, worker_bytes
from search.work.sweep import sweep
from studies import settings

MB = 10**6


def workers(asked: int | str, jobs: int, **has: Any) -> int:
    here = Machine(**{"cores": 4, "free_bytes": math.inf, **has})
    return crew_size(asked, jobs, here, threads=1, worker_bytes=500 * MB).workers


def test_auto_is_as_many_as_the_machine_bears() -> None:
    assert workers("auto", 30) == 4
    assert workers("auto", 3) == 3
    assert workers("auto", 30, free_bytes=1600 * MB) == 3
    assert workers("auto", 30, free_bytes=10 * MB) == 1
    assert workers("auto", 30, gpus=("0", "1")) == 2
    assert workers("auto", 30, cores=1, gpus=("0", "1")) == 1
    assert workers("auto", 0) == 0
    assert crew_size("auto", 30, Machine(8, math.inf), threads=3, worker_bytes=1).workers == 2


def test_there_are_never_more_workers_than_jobs_nor_any_where_none_was_asked_for() -> None:
    assert workers(100_000, 3) == 3
    assert workers(2, 30) == 2
    assert workers(0, 30) == 0


def test_more_than_the_memory_bears_is_said_with_figures_and_not_started() -> None:
    made = crew_size(100_000, 10**6, Machine(4, 20_000 * MB), 1, 500 * MB)
    assert made.workers == 40
    assert made.said == (
        "workers=100000: 20000 MB of memory are free and a worker needs about 500 MB, "
        "so only 40 start"
    )


def test_more_than_the_cores_bear_is_said_with_figures() -> None:
    made = crew_size(8, 30, Machine(4, math.inf), 2, 500 * MB)
    assert made.workers == 8
    assert made.said == (
        "workers=8: there are 4 cores for 8 workers of threads=2, which slow one another; "
        "workers=auto starts 2"
    )
    assert crew_size(4, 30, Machine(4, math.inf), 1, 500 * MB).said is None


# --- what the machine says -----------------------------------------------------------------------


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the files of a machine of eight cores and 16 GB of memory, 4 of them free."""
    monkeypatch.setattr(machine, "GROUP", tmp_path)
    monkeypatch.setattr(machine, "PROC", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    write(tmp_path, "meminfo", "MemTotal:       16000000 kB\nMemAvailable:    4000000 kB\n")
    return tmp_path


def test_a_machine_without_a_container(files: Path) -> None:
    assert Machine.here("cpu") == Machine(8, 4_000_000 * 1024)


def test_a_container_without_limits(files: Path) -> None:
    write(files, "cpu.max", "max 100000\n")
    write(files, "memory.max", "max\n")
    write(files, "memory.current", "123\n")
    assert Machine.here("cpu") == Machine(8, 4_000_000 * 1024)


def test_a_container_with_limits(files: Path) -> None:
    write(files, "cpu.max", "250000 100000\n")
    write(files, "memory.max", f"{1000 * MB}\n")
    write(files, "memory.current", f"{900 * MB}\n")
    write(files, "memory.stat", f"anon 1\nactive_file {20 * MB}\ninactive_file {30 * MB}\n")
    assert Machine.here("cpu") == Machine(2, 150 * MB)


def test_a_container_of_the_first_version(files: Path) -> None:
    write(files, "cpu/cpu.cfs_quota_us", "50000\n")
    write(files, "cpu/cpu.cfs_period_us", "100000\n")
    write(files, "memory/memory.limit_in_bytes", f"{1000 * MB}\n")
    write(files, "memory/memory.usage_in_bytes", f"{900 * MB}\n")
    write(files, "memory/memory.stat", f"active_file 7\ntotal_active_file {20 * MB}\n")
    assert Machine.here("cpu") == Machine(1, 120 * MB)
    write(files, "cpu/cpu.cfs_quota_us", "-1\n")
    write(files, "memory/memory.limit_in_bytes", f"{2**63 - 4096}\n")
    assert Machine.here("cpu") == Machine(8, 4_000_000 * 1024)


def test_a_machine_without_any_of_these_files(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "meminfo").unlink()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert Machine.here("cpu") == Machine(6, math.inf)


def test_a_worker_needs_more_for_a_larger_model(tmp_path: Path) -> None:
    one, other = (
        worker_bytes(
            StudyContext(
                settings(
                    tmp_path,
                    model={"layers": 1, "hidden": hidden, "embedding": hidden, "tied": False},
                )
            )
        )
        for hidden in (16, 1500)
    )
    assert 400 * MB < one < 500 * MB < other


# --- GPUs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, ("0", "1", "2")),
        ("2,0", ("2", "0")),
        ("GPU-8932f937, MIG-a2f1", ("GPU-8932f937", "MIG-a2f1")),
        ("1,-1,2", ("1",)),
        ("", ()),
    ],
)
def test_gpus_are_those_that_this_process_may_see(
    visible: str | None, gpus: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv(VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert Machine.here("cuda").gpus == gpus
    assert Machine.here("cpu").gpus == Machine.here("cuda:1").gpus == ()


def tell_gpu(config: Any, index: int, *_: Any) -> None:
    """The main function of a worker that only writes down which GPU it may see."""
    Path(config.cache, f"gpu_of_{index}").write_text(os.environ.get(VISIBLE, "any"))


@pytest.mark.parametrize(
    ("gpus", "given"), [(("3", "MIG-a2f1"), ["3", "MIG-a2f1", "3", "MIG-a2f1"]), ((), ["5"] * 4)]
)
def test_workers_are_given_one_gpu_each_in_turn(
    gpus: tuple[str, ...], given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "5")
    monkeypatch.setattr(Machine, "here", lambda _: Machine(8, math.inf, gpus))
    monkeypatch.setattr("search.work.sweep.Crew.work", staticmethod(tell_gpu))
    sweep(WorkContext(settings(tmp_path, workers=4)))
    assert [(tmp_path / f"gpu_of_{index}").read_text() for index in range(4)] == given
    assert os.environ[VISIBLE] == "5"
