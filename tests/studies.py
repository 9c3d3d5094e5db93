"""What the tests of `search` share: a small text, a study that takes seconds, the command line."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import optuna
from sqlalchemy import create_engine, make_url

from lmcore.settings import parse
from search.config import SweepConfig
from search.store.slots import Ended, worker_name
from search.study.beginning import create
from search.study.context import WorkContext
from search.study.study import ended_trials
from search.terminal import quiet_optuna
from search.work.claiming import waiting
from search.work.worker import Worker

COMMAND = str(Path(sys.executable).parent / "lmpareto")
STUDY = "mine"
TRIALS = 4

STUDY_YAML = """\
# @package _global_
defaults:
  - override /corpus: text
  - override /model: tiny
  - override /training: quick
  - override /space: mine
  - override /prior: none
  - override /fidelity: whole
name: mine
trials: 4
corpus: {{file: {text}}}
model: {{hidden: 16, embedding: 16}}
training: {{epochs: 2, rate: 0.02, average: 0.0}}
baselines: # smaller than all that the space has
  coarse: {{sites: {{"*": {{bits: {{kind: uniform, step: 6.0}}}}}}}}
"""

SPACE_YAML = """\
sites:
  "*":
    tie: all
    bits: {kind: uniform, step: {low: 0.3, high: 3.0, log: true}}
finetuning:
  epochs: 0.2
  batch: 8
  window: 20
  optimizer: adam
  rate: {low: 0.001, high: 0.01, log: true}
  dropout: {kind: sequence, rate: 0.1}
"""


def write_text(path: Path, words: int = 200, lines: int = 1700) -> Path:
    """About twelve tokens a line, each word mostly decided by the one before."""
    draw = random.Random(words)
    vocabulary = [f"w{index:03d}" for index in range(words)]
    text = []
    for _ in range(lines):
        at = draw.randrange(words)
        line = []
        for _ in range(draw.randint(6, 16)):
            line.append(vocabulary[at])
            at = (at * 7 + draw.choice((1, 2, 3, 5))) % words
        text.append(" ".join(line))
    path.write_text("\n".join(text) + "\n")
    return path


def write_configs(folder: Path) -> Path:
    """A person's own --config-dir with the study `mine`, its space and its text."""
    for group in ("study", "space"):
        (folder / group).mkdir(parents=True, exist_ok=True)
    text = write_text(folder / "text.txt")
    (folder / "study" / "mine.yaml").write_text(STUDY_YAML.format(text=text))
    (folder / "space" / "mine.yaml").write_text(SPACE_YAML)
    return folder


def new_database(url: str) -> str:
    """A database with nothing in it: of a PostgreSQL server, which is shared, another one."""
    if url.startswith("sqlite"):
        return url
    name = f"new_{uuid4().hex[:12]}"
    with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"create database {name}")
    return make_url(url).set(database=name).render_as_string(hide_password=False)


# --- the command line ------------------------------------------------------------------------


def environment(cache: Path, **more: str) -> dict[str, str]:
    """The environment of a command that knows no cache, data or storage but the test's."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("LMPARETO_")}
    return {**mine, "LMPARETO_CACHE": str(cache), "OMP_NUM_THREADS": "1", **more}


@dataclass(frozen=True)
class Run:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it is."""
        return json.loads(self.out)

    def ok(self) -> Self:
        assert self.code == 0, f"exit code {self.code}\n{self.err}"
        return self

    def refused(self, *said: str) -> Self:
        """It ended with one message that says all of `said`, no traceback, nothing on stdout."""
        assert self.code not in (0, None), f"it went through: {self.out}"
        assert "Traceback" not in self.err
        assert self.out == ""
        for part in said:
            assert part in self.err, f"{part!r} is not in {self.err!r}"
        return self


def lmpareto(*arguments: str, cache: Path, cwd: Path | None = None, **more: str) -> Run:
    """The command as a person runs it, in a process of its own."""
    done = subprocess.run(
        [COMMAND, *arguments],
        env=environment(cache, **more),
        cwd=cwd or cache.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


_PRELOADED = """
import importlib, importlib.metadata, json, os, sys, traceback
import torch
from search.cli import COMMANDS, main
for command in COMMANDS:
    importlib.import_module(f"search.commands.{command}")
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        sys.argv = [asked["command"], *asked["arguments"]]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Shell:
    """The same commands without three seconds of imports each: forked from a process that has them.

    For what starts no workers. Each command is a process with its own environment, exit code,
    standard output and standard error, and runs the entry point of the console script.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.folder = tempfile.TemporaryDirectory(prefix="lmpareto-shell-")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PRELOADED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(cache, OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1"),
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.folder.cleanup()

    def __call__(
        self, *arguments: str, cwd: Path | None = None, unset: tuple[str, ...] = (), **more: str
    ) -> Run:
        out, err = Path(self.folder.name, "out"), Path(self.folder.name, "err")
        out.unlink(missing_ok=True)
        err.unlink(missing_ok=True)
        env = {k: v for k, v in environment(self.cache, **more).items() if k not in unset}
        asked = {
            "command": COMMAND,
            "arguments": list(arguments),
            "env": env,
            "cwd": str(cwd or self.cache.parent),
            "out": str(out),
            "err": str(err),
        }
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Run(int(self.process.stdout.readline()), out.read_text(), err.read_text())


# --- a study in this process -----------------------------------------------------------------


def settings(folder: Path, **changed: Any) -> SweepConfig:
    """The tiny study `mine` with all that it writes in `folder`, as a sweep's settings."""
    text = folder / "text.txt"
    if not text.exists():
        write_text(text)
    data: dict[str, Any] = {
        "name": STUDY,
        "corpus": {"kind": "text", "file": str(text)},
        "model": {"layers": 1, "hidden": 16, "embedding": 16, "tied": False},
        "training": {
            "epochs": 1,
            "batch": 16,
            "window": 20,
            "optimizer": "adam",
            "rate": 0.02,
            "dropout": {"kind": "sequence", "rate": 0.1},
            "init": 0.05,
        },
        "space": {
            "sites": {
                "*": {
                    "tie": "all",
                    "bits": {"kind": "uniform", "step": {"low": 0.3, "high": 3.0, "log": True}},
                }
            },
            "finetuning": {
                "epochs": 0.1,
                "batch": 8,
                "window": 20,
                "optimizer": "adam",
                "rate": {"low": 0.001, "high": 0.01, "log": True},
                "dropout": {"kind": "sequence", "rate": 0.1},
            },
        },
        "sampler": {"_target_": "optuna.samplers.RandomSampler"},
        "fidelity": "whole",
        "prior": "none",
        "max_size": None,
        "max_perplexity": None,
        "storage": {"url": f"sqlite:///{folder}/studies.db"},
        "baselines": {},
        "start": [],
        "seeds": {"recipes": [], "studies": []},
        "trials": TRIALS,
        "seed": 1,
        "device": "cpu",
        "threads": 1,
        "format": "text",
        "cache": str(folder),
        "max_stages": "1 GB",
        "workers": 1,
        "attempts": 2,
        "max_hours": None,
    }
    return parse(SweepConfig, data | changed)


@dataclass
class Clock:
    """A clock for `Slots` that goes on when it is told to."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Sweep:
    """What a sweep by one worker left."""

    context: WorkContext[SweepConfig]
    ended: list[Ended]

    @property
    def study(self) -> optuna.Study:
        return self.context.study


def sweep_here(config: SweepConfig, slots: int | None = None) -> Sweep:
    """Run the trials of the study, or up to `slots` more, in this process, as a worker does."""
    quiet_optuna()
    stop = threading.Event()
    context = waiting(config, stop)
    ended = ended_trials(create(context))
    checkpoints = {name: context.checkpoint(name) for name in config.dense_names}
    if slots is not None:
        context = context.but(trials=len(ended) + slots)
    context.slots.provide([], ended)
    Worker(context, 0, worker_name(), checkpoints, stop).run()
    return Sweep(context, context.slots.ended())
