"""What is left of a sweep whose processes are killed or told to stop, and how it goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import server

from benchmarks import survival
from benchmarks.survival import Victim
from lmcore.recipe import Recipe
from lmcore.settings import parse
from search.config import SweepConfig
from search.study.context import StudyContext
from search.study.results import results_of
from studies import COMMAND, Run, environment, lmpareto, new_database, write_configs

TRIALS = 4
LONG = 3  # epochs of fine-tuning: a trial of two seconds or so
PATIENCE = 300.0  # seconds until something must have happened, on a busy machine

ATTRIBUTES = "SELECT value_json FROM trial_user_attributes WHERE key = 'lmpareto'"

# a sampler whose process dies, once, between being asked for its third trial and proposing it
DEADLY = """
import os, signal
from pathlib import Path
import optuna

class Deadly(optuna.samplers.RandomSampler):
    def before_trial(self, study, trial):
        flag = Path(os.environ["LMPARETO_CACHE"], "died")
        if trial.number == 2 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""

# the command, which saves after each update of a training, is killed after the one whose number is
# its first argument (0: it is not), and says how many it made
TRAINING = """
import atexit, os, signal, sys
import lmcore.training
from search.cli import main
lmcore.training.CHECKPOINT_SECONDS = -1.0
last, made, update = int(sys.argv.pop(1)), [], lmcore.training._Run.update
def counted(run):
    update(run)
    made.append(run)
    if len(made) == last:
        os.kill(os.getpid(), signal.SIGKILL)
lmcore.training._Run.update = counted
atexit.register(lambda: print("updates made:", len(made), file=sys.stderr))
main()
"""


class Sweep:
    """The study `mine` in a folder of its own, swept by processes that can be killed."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.folder, self.cache = folder, folder / "cache"
        configs = write_configs(folder / "configs")
        self.mine = ("--config-dir", str(configs), "study=mine", *more)
        self.arguments = (*self.mine, f"trials={TRIALS}", f"space.finetuning.epochs={LONG}")

    def config(self, *more: str) -> SweepConfig:
        """The settings of a command on the study."""
        _, configs, *mine = self.mine
        return survival.composed(Path(configs), self.cache, *mine, *more)

    def again(self, *more: str) -> Run:
        return lmpareto("sweep", *self.arguments, "format=json", *more, cache=self.cache)

    def rows(self, query: str) -> list[Any]:
        path = self.cache / "studies.db"
        if not path.exists():
            return []
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as connection:
                return connection.execute(query).fetchall()
        except sqlite3.OperationalError:  # the tables are being made
            return []

    @property
    def states(self) -> Counter[str]:
        return Counter(state for (state,) in self.rows("SELECT state FROM trials"))

    @property
    def training(self) -> int:
        """How many running trials have their recipe."""
        return len(
            self.rows(
                "SELECT t.trial_id FROM trials t JOIN trial_user_attributes a USING (trial_id) "
                "WHERE t.state = 'RUNNING'"
            )
        )

    def values(self) -> dict[int, list[float]]:
        """Number -> the told values, of the complete trials."""
        found: dict[int, list[float]] = {}
        for number, value in self.rows(
            "SELECT t.number, v.value FROM trials t JOIN trial_values v USING (trial_id) "
            "WHERE t.state = 'COMPLETE' ORDER BY t.number, v.objective"
        ):
            found.setdefault(number, []).append(value)
        return found

    @contextmanager
    def process(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A command in a process group of its own, as a terminal starts it; none of it is left."""
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            process = subprocess.Popen(
                command,
                env=environment(self.cache),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                text=True,
            )
        try:
            yield process
        finally:
            end(process, signal.SIGKILL)

    def trained(self, last: int, command: str, *more: str) -> int:
        """Run the command with TRAINING; its exit code."""
        with self.process(
            sys.executable, "-c", TRAINING, str(last), command, *self.mine, *more, "format=json"
        ) as process:
            return process.wait(timeout=PATIENCE)

    def sweeping(self, *more: str) -> Any:
        return self.process(COMMAND, "sweep", *self.arguments, "format=json", *more)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def made(self) -> int:
        """How many updates the command with TRAINING made."""
        return int(self.err.rpartition("updates made:")[2])


def end(process: subprocess.Popen[str], number: int) -> int:
    """Signal the process and all that it started; its exit code."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    return process.wait(timeout=PATIENCE)


def until(happened: Callable[[], Any], process: subprocess.Popen[str], sweep: Sweep) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, f"it ended before: {sweep.err}"
        assert time.monotonic() < deadline, f"it never happened: {sweep.err}"
        time.sleep(0.02)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The process ids of the workers of a sweep."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == process.pid and "spawn_main" in command:
            found.append(int(folder.name))
    return found


def finished(run: Run) -> tuple[int, int, int]:
    """Complete, failed and running trials, as a sweep counted them at its end."""
    done = run.ok().document
    assert done["left"] == 0
    return done["complete"], sum(done["failed"].values()), done["running"]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


@pytest.mark.slow
def test_a_sweep_killed_whole_goes_on_with_nothing_lost_or_doubled(sweep: Sweep) -> None:
    with sweep.sweeping("workers=2") as process:
        until(lambda: sweep.states["COMPLETE"] and sweep.training, process, sweep)
        end(process, signal.SIGKILL)
    before, left = sweep.values(), sweep.states["RUNNING"]
    assert before
    assert left
    assert finished(sweep.again()) == (TRIALS, 0, 0)
    assert sweep.states == {"COMPLETE": TRIALS}
    after = sweep.values()
    assert len(after) == TRIALS
    assert {number: after[number] for number in before} == before
    keys = [json.loads(text)["key"] for (text,) in sweep.rows(ATTRIBUTES)]
    assert len(set(keys)) == TRIALS


@pytest.mark.slow
def test_what_a_worker_leaves_that_is_killed_another_goes_on_with(sweep: Sweep) -> None:
    with sweep.sweeping("workers=2", "space.finetuning.epochs=12") as process:
        until(lambda: sweep.states["COMPLETE"] and sweep.training == 2, process, sweep)
        time.sleep(0.2)
        os.kill(workers(process)[0], signal.SIGKILL)
        assert process.wait(timeout=PATIENCE) == 0, sweep.err
    assert finished(Run(0, sweep.out, sweep.err)) == (TRIALS, 0, 0)
    assert sweep.states == {"COMPLETE": TRIALS}
    assert "Traceback" not in sweep.err


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_asks_loses_no_trial(tmp_path: Path) -> None:
    """The trial is there, RUNNING, but nobody was told of it yet."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    sweep = Sweep(tmp_path, "sampler=random", "sampler._target_=deadly.Deadly")
    run = lmpareto(
        "sweep",
        *sweep.mine,
        "workers=1",
        f"trials={TRIALS}",
        "format=json",
        cache=sweep.cache,
        PYTHONPATH=str(tmp_path),
    )
    assert (sweep.cache / "died").exists(), run.err
    assert finished(run) == (TRIALS, 0, 0)
    assert sweep.states == {"COMPLETE": TRIALS}


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_cleanly_and_the_same_command_goes_on(sweep: Sweep) -> None:
    with sweep.sweeping("workers=2") as process:
        until(lambda: sweep.states["COMPLETE"] and sweep.training, process, sweep)
        code = end(process, signal.SIGINT)
        time.sleep(0.2)
        assert workers(process) == []
    assert code == 130
    assert "Traceback" not in sweep.err
    assert "the same command goes on" in sweep.err
    assert sweep.out == ""
    assert sweep.states["FAIL"] == 0
    assert finished(sweep.again()) == (TRIALS, 0, 0)
    assert sweep.states == {"COMPLETE": TRIALS}


@pytest.mark.slow
def test_a_database_that_is_deleted_ends_the_sweep_in_one_sentence(sweep: Sweep) -> None:
    database = sweep.cache / "studies.db"
    with sweep.sweeping("workers=2", "space.finetuning.epochs=50") as process:
        until(lambda: sweep.states["RUNNING"], process, sweep)
        for path in sweep.cache.glob("studies.db*"):
            path.unlink()
        assert process.wait(timeout=PATIENCE) == 1
        assert workers(process) == []
    assert "Traceback" not in sweep.err
    assert sweep.err.count("was deleted, moved or replaced while it was in use") == 1
    assert sweep.err.splitlines()[-1].startswith(f"lmpareto sweep: the database {database} was")
    assert not database.exists()
    assert finished(sweep.again()) == (TRIALS, 0, 0)


@pytest.mark.slow
def test_ctrl_c_while_the_workers_start(sweep: Sweep) -> None:
    with sweep.sweeping("workers=2") as process:
        until(lambda: len(workers(process)) == 2, process, sweep)
        time.sleep(1)
        code = end(process, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in sweep.err
    assert sweep.out == ""


@pytest.mark.slow
def test_ctrl_c_while_the_dense_model_trains(sweep: Sweep) -> None:
    with sweep.sweeping("training.epochs=500") as process:
        until(lambda: "epoch 2" in sweep.err, process, sweep)
        code = end(process, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in sweep.err
    assert "the same command goes on" in sweep.err
    assert sweep.out == ""


@pytest.mark.slow
def test_a_dense_training_that_is_killed_goes_on_to_the_same_model(tmp_path: Path) -> None:
    epochs = "training.epochs=4"
    whole = Sweep(tmp_path / "whole", epochs)
    run = lmpareto("train", *whole.mine, "format=json", cache=whole.cache).ok()
    cut = Sweep(tmp_path / "cut", epochs)
    killed = run.document["updates"] * 5 // 8
    assert cut.trained(killed, "train") == -signal.SIGKILL
    saved = cut.cache / "dense"
    assert not list(saved.glob("*.lmb"))
    assert list(saved.glob("*.safetensors"))
    assert cut.trained(0, "train") == 0, cut.err
    again = json.loads(cut.out)
    assert cut.made == run.document["updates"] - killed
    for name in ("size_bytes", "valid_perplexity", "valid_perplexities", "updates", "tokens"):
        assert again[name] == run.document[name], name
    one, two = (Path(each["bundle"]) for each in (run.document, again))
    assert one.read_bytes() == two.read_bytes()
    assert not list(saved.glob("*.safetensors"))


@pytest.mark.slow
def test_a_fine_tuning_that_is_killed_goes_on_to_the_same_file(sweep: Sweep) -> None:
    more = ("trials=1", "space.finetuning.epochs=3", "baselines={}")
    killed = 100
    lmpareto("sweep", *sweep.mine, *more, "workers=0", cache=sweep.cache).ok()
    assert sweep.trained(killed, "worker", *more) == -signal.SIGKILL
    (kept,) = (sweep.cache / "stages").glob("*.safetensors")
    assert kept
    assert sweep.trained(0, "worker", *more) == 0, sweep.err
    context = StudyContext(sweep.config(*more))
    ((_, one),) = results_of(context).trials.items()
    assert sweep.made == one.updates - killed
    elsewhere = context.but(cache=str(sweep.folder / "again"))
    again = elsewhere.bench(context.need_checkpoint()).measure(parse(Recipe, one.recipe))
    assert (again.updates, again.sha256) == (one.updates, one.sha256)
    assert again.valid_measure == one.valid_measure


# --- in short what `python -m benchmarks.survival` does at length --------------------------------


def victim(folder: Path, url: str, trials: int) -> Victim:
    (folder / "cache").mkdir()
    return Victim("killed", folder, new_database(url), trials)


def sound(study: Victim) -> dict[str, Any]:
    """The figures of a study in which nothing was lost or doubled."""
    found = survival.check(study)
    assert found["wrong"] == [], (study.folder / "log").read_text()
    return found


@pytest.mark.slow
def test_random_kills_lose_and_double_nothing(url: str, tmp_path: Path) -> None:
    study = victim(tmp_path, url, trials=6)
    survival.kill_a_sweep(study, 5, random.Random(1), workers=2)
    assert sound(study)["kills"]


@pytest.mark.slow
def test_workers_without_a_parent_are_killed(url: str, tmp_path: Path) -> None:
    """And nobody sees it who has another cache folder: their leases run out."""
    study = victim(tmp_path, url, trials=6)
    survival.kill_workers(study, 3, random.Random(1), workers=2)
    assert sound(study)["kills"] == {"worker": 3}


@pytest.mark.slow
def test_two_sweeps_at_once_are_one_study(url: str, tmp_path: Path) -> None:
    study = victim(tmp_path, url, trials=10)
    both = [study.start("sweep", "workers=1") for _ in range(2)]
    try:
        ended = [one.wait(timeout=PATIENCE) for one in both]
        assert ended == [0, 0], (study.folder / "log").read_text()
    finally:
        for one in both:
            survival.kill(one)
    sound(study)


@pytest.mark.slow
def test_a_database_that_goes_away_is_waited_for(tmp_path: Path) -> None:
    with server() as started:
        study = victim(tmp_path, started.get_uri(), trials=10)
        survival.lose_the_database(study, started, seconds=3.0)
        sound(study)
