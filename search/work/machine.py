"""How many workers this machine bears, by its cores, its memory and its GPUs."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch

from lmcore.data import SPLITS
from search.config import ConfirmConfig, StudyConfig, SweepConfig
from search.study.context import StudyContext
from search.units import format_size

GROUP = Path("/sys/fs/cgroup")  # a container's limits; Linux only, as /proc
PROC = Path("/proc/meminfo")
# the limit, the use, and its share that only caches files, of both versions of these groups
MEMORY = (
    ("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_active_file", "total_inactive_file"),
    ),
)
VISIBLE = "CUDA_VISIBLE_DEVICES"

Crewed = StudyContext[SweepConfig] | StudyContext[ConfirmConfig]

# of a worker, measured: what it imports, and how often it holds the weights and the logits
IMPORTS_BYTES = 400_000_000
WEIGHT_COPIES, LOGIT_COPIES = 10, 2


@dataclass(frozen=True)
class Machine:
    """What this process may use. `free_bytes` is inf where nobody knows it."""

    cores: int
    free_bytes: float
    gpus: tuple[str, ...] = ()  # where workers compute on GPUs: as CUDA_VISIBLE_DEVICES has them

    @classmethod
    def here(cls, device: str) -> Machine:
        return cls(_cores(), _free_bytes(), _gpus() if device == "cuda" else ())

    def gpu(self, worker: int) -> str | None:
        """The GPU of the worker of that index, None where workers have no GPU of their own."""
        return self.gpus[worker % len(self.gpus)] if self.gpus else None


@dataclass(frozen=True)
class CrewSize:
    """How many workers a sweep starts, and what the person should know of that."""

    workers: int
    said: str | None = None


def crew_size(
    asked: int | str, jobs: int, machine: Machine, threads: int, worker_bytes: int
) -> CrewSize:
    """How many workers to start for `jobs` jobs where a person asked for a number, or for auto.

    A worker uses `threads` cores and `worker_bytes` of memory. Auto is one worker a GPU, or as many
    as the cores bear. There are never more workers than jobs, nor than the memory bears.
    """
    by_cores = max(1, machine.cores // threads)
    by_memory = max(1, math.floor(min(machine.free_bytes / worker_bytes, jobs + 1)))
    if asked == "auto":
        return CrewSize(min(jobs, by_memory, by_cores, len(machine.gpus) or by_cores))
    wanted = min(int(asked), jobs)
    if wanted > by_memory:
        return CrewSize(
            by_memory,
            f"workers={asked}: {format_size(int(machine.free_bytes))} of memory are free and a "
            f"worker needs about {format_size(worker_bytes)}, so only {by_memory} start",
        )
    if wanted > by_cores:
        return CrewSize(
            wanted,
            f"workers={asked}: there are {machine.cores} cores for {wanted} workers of "
            f"threads={threads}, which slow one another; workers=auto starts {by_cores}",
        )
    return CrewSize(wanted)


def crew_of(context: Crewed, jobs: int, machine: Machine) -> CrewSize:
    """How many workers are started for `jobs` jobs of the study."""
    config = context.config
    return crew_size(config.workers, jobs, machine, config.threads, worker_bytes(context))


def worker_bytes(context: StudyContext[StudyConfig]) -> int:
    """About how much memory a worker of the study needs, by its text and its largest model."""
    config, corpus, words = context.config, context.corpus, context.words
    every = [config.of(name) for name in config.dense_names]
    weights = max(one.model.completed(corpus).weights(words) for one in every)
    logits = max(one.training.update_tokens for one in every) * words
    tokens = sum(map(corpus.tokens, SPLITS))
    numbers = WEIGHT_COPIES * weights + LOGIT_COPIES * logits
    return IMPORTS_BYTES + numbers * 4 + tokens * 8


def _cores() -> int:
    """The cores of this process: by its affinity, and by the quota of its container."""
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = _group("cpu.max") or _group("cpu/cpu.cfs_quota_us") + _group("cpu/cpu.cfs_period_us")
    if len(limit) == 2 and limit[0].isdigit():  # no quota is "max", or -1
        return max(1, min(every or 1, int(limit[0]) // int(limit[1])))
    return every or 1


def _free_bytes() -> float:
    """The memory that is free, or kept only for files: of the machine and of its container."""
    free = [math.inf]
    if available := _named(_read(PROC), "MemAvailable:"):
        free.append(available * 1024)
    for limit, usage, stat, files in MEMORY:
        most, used, kept = _group(limit), _group(usage), _read(GROUP / stat)
        if most and used and most[0].isdigit():  # no limit is "max"
            cached = sum(_named(kept, name) for name in files)
            free.append(int(most[0]) - int(used[0]) + cached)
    return max(0, min(free))


def _gpus() -> tuple[str, ...]:
    """The GPUs that CUDA lets this process see: numbers or UUIDs, up to the first that is none."""
    if (given := os.environ.get(VISIBLE)) is None:
        return tuple(map(str, range(torch.cuda.device_count())))
    names = (name.strip() for name in given.split(","))
    return tuple(takewhile(lambda name: name not in ("", "-1"), names))


def _group(name: str) -> list[str]:
    """The words of one of the container's files, none where there is no such file."""
    return _read(GROUP / name).split()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _named(text: str, name: str) -> int:
    """The number after a name at the beginning of a line, 0 where there is none."""
    lines = (line.split() for line in text.splitlines())
    return next((int(words[1]) for words in lines if words[:1] == [name]), 0)
