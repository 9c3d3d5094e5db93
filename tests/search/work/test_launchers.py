"""Workers started by Hydra's own launchers, on a PostgreSQL server that asks for a password."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from search.process import interruptible
from search.store.schema import SlotRow
from studies import COMMAND, Run, Shell, environment, lmpareto, write_configs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SECRET, TRIALS = "s3cret", 4
BY_HAND = "by_hand"
PATIENCE = 120.0  # seconds until something must have happened, on a busy machine
PAGE = (ROOT / "docs" / "clusters.md").read_text()
LINES = [line for block in PAGE.split("```")[1::2] for line in block.strip().splitlines()]
(READY,) = [line for line in LINES if line.startswith("lmpareto sweep ")]
WORKERS = {
    "".join(re.findall(r"hydra/launcher=(\w+)", line)) or BY_HAND: line
    for line in LINES
    if line.startswith("lmpareto worker ")
}

# what submitit asks of SLURM: each job of the array runs here, at once
SBATCH = """#!/bin/sh
jobs=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for index in $(seq 0 "$jobs"); do
    SLURM_JOB_ID=$((70 + index)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$index \\
        bash "$1" >/dev/null 2>&1 &
done
echo Submitted batch job 7
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do
    case $1 in
        --unbuffered) shift ;;
        --output) out=$2; shift 2 ;;
        --error) err=$2; shift 2 ;;
    esac
done
fill() { echo "$1" | sed "s/%A/7/; s/%a/$SLURM_ARRAY_TASK_ID/; s/%t/0/"; }
exec "$@" >>"$(fill "$out")" 2>>"$(fill "$err")"
"""
SACCT = "#!/bin/sh\necho 'JobID|State|NodeList'\n"


@dataclass
class Hub:
    """Where a study's workers meet: a database that asks ada for a password, a cache."""

    folder: Path
    url: URL

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def shown(self) -> str:
        return self.url.render_as_string(hide_password=False)

    def arguments(self, line: str, name: str, *more: str) -> list[str]:
        """A line of the page, for a study of seconds and two workers."""
        line = re.sub(r"range\(\d+\)", "range(2)", line)
        mine = f"study=mine name={name} trials={TRIALS} --config-dir {self.folder / 'configs'}"
        return [*shlex.split(line.replace("study=ptb_small", mine))[1:], *more]

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.folder / 'slurm'}{os.pathsep}{os.environ['PATH']}"
        return {"LMPARETO_STORAGE": self.shown, "PATH": path}

    def ready(self, name: str, *more: str) -> None:
        arguments = self.arguments(READY, name, *more)
        self.run(arguments).ok()

    def run(self, arguments: list[str], cwd: Path | None = None) -> Run:
        return lmpareto(*arguments, cache=self.cache, cwd=cwd, **self.environment)

    def slots(self, name: str) -> list[SlotRow]:
        with Session(create_engine(self.url, poolclass=NullPool)) as session:
            return list(session.scalars(select(SlotRow).where(SlotRow.study == name)))

    def check_no_password(self, *said: str) -> None:
        """None was said, none is in a file."""
        for output in said:
            assert SECRET not in output
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.fixture(scope="module")
def hub(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("launchers")
    write_configs(folder / "configs")
    for name, script in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        path = folder / "slurm" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
    url = make_url(postgresql).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        rules = Path(connection.execute(text("SHOW hba_file")).scalar_one())
        before = rules.read_text()
        connection.execute(text(f"CREATE ROLE ada LOGIN PASSWORD '{SECRET}'"))
        connection.execute(text("CREATE DATABASE studies OWNER ada"))
        rules.write_text(f"local all ada scram-sha-256\n{before}")
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    ada = url.set(drivername="postgresql", username="ada", password=SECRET, database="studies")
    yield Hub(folder, ada)
    rules.write_text(before)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Shell(tmp_path_factory.mktemp("run") / "cache") as running:
        yield running


def test_the_page_shows_each_launcher() -> None:
    assert list(WORKERS) == [BY_HAND, "joblib", "submitit_local", "ray", "submitit_slurm"]
    assert all("storage=url" in line for line in WORKERS.values())


@pytest.mark.parametrize("launcher", WORKERS)
def test_launched_workers_finish_a_study(launcher: str, hub: Hub, tmp_path: Path) -> None:
    plugin = f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher"
    if launcher != BY_HAND and find_spec(plugin) is None:
        pytest.skip(f"hydra-{launcher.split('_')[0]}-launcher is not installed")
    hub.ready(launcher)
    arguments = hub.arguments(WORKERS[launcher], launcher)
    run = hub.run(arguments, cwd=tmp_path).ok()
    mine = hub.arguments("lmpareto status study=ptb_small storage=url format=json", launcher)
    done = hub.run(mine).ok().document
    assert (done["complete"], done["running"]) == (TRIALS, 0)
    slots = hub.slots(launcher)
    assert {slot.name for slot in slots if slot.kind == "baseline"} == {"dense", "coarse"}
    assert all(slot.done and slot.attempts == 1 for slot in slots)
    said = [
        run.out,
        *(path.read_text() for path in hub.cache.glob("jobs/*/.submitit/*/*.out")),
    ]
    workers = 1 if launcher == BY_HAND else 2
    assert "".join(said).count(f"{launcher}: {TRIALS} of {TRIALS} trials complete") == workers
    hub.check_no_password(run.out, run.err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by", ["kill", "terminal"])
def test_ctrl_c_ends_the_workers_of_joblib(by: str, hub: Hub) -> None:
    """Given to the process that launched them alone, or to all as a terminal does; one of them is
    slow to hear it."""
    name, long = f"ended_by_{by}", "space.finetuning.epochs=500"
    hub.ready(name, long)
    keyboard, terminal = pty.openpty()
    with (hub.folder / "err").open("w+") as err:
        process = subprocess.Popen(
            [COMMAND, *hub.arguments(WORKERS["joblib"], name, long)],
            env=environment(hub.cache, **hub.environment),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
            stderr=err,
        )
        try:
            _until(lambda: sum(slot.fraction > 0 for slot in hub.slots(name) if slot.worker) == 2)
            slow = int(next(slot.worker for slot in hub.slots(name) if slot.worker).split(":")[1])
            os.kill(slow, signal.SIGSTOP)
            if by == "terminal":
                os.write(keyboard, b"\x03")
            else:
                os.kill(process.pid, signal.SIGINT)
            assert process.wait(timeout=PATIENCE) == 130
            _until(lambda: sum(slot.worker is not None for slot in hub.slots(name)) == 1)
            os.kill(slow, signal.SIGCONT)
            _until(lambda: not _lives(process.pid))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            os.close(keyboard)
            os.close(terminal)
        err.seek(0)
        said = err.read()
    assert "lmpareto worker: stopped; the same command goes on from here" in said
    assert "Traceback" not in said
    trials = [slot for slot in hub.slots(name) if slot.kind == "trial"]
    assert sum(slot.trial is not None for slot in trials) == 2
    assert all(slot.worker is None and slot.attempts == 0 for slot in trials)
    hub.check_no_password(said)


def _until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _lives(group: int) -> bool:
    """Whether any process of the group does."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- what launchers are given ------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/studies",
        f"postgresql://127.0.0.1:1/studies?user=ada&password={SECRET}",
        f"ada:{SECRET}@127.0.0.1/studies",
    ],
)
def test_no_job_is_launched_with_a_password(url: str, shell: Shell) -> None:
    command = ("worker", "study=quickstart", f"storage.url='{url}'", "--multirun", "worker=0,1")
    run = shell(*command)
    run.refused("lmpareto worker: storage.url", "storage=url", "LMPARETO_STORAGE")
    assert SECRET not in run.err
    assert not (shell.cache / "jobs").exists()


def test_what_is_wrong_in_a_job_is_said_where_it_was_launched(shell: Shell, tmp_path: Path) -> None:
    run = shell("status", "study=quickstart,ptb_medium", "--multirun", cwd=tmp_path)
    run.refused("lmpareto status: there is no study quickstart")
    assert list(tmp_path.iterdir()) == []
    assert len(list(shell.cache.glob("jobs/*/multirun.yaml"))) == 1


def test_jobs_lie_in_a_cache_below_the_home(shell: Shell, tmp_path: Path) -> None:
    shell("status", "--multirun", cwd=tmp_path, HOME=str(tmp_path), LMPARETO_CACHE="~/cache").ok()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert list((tmp_path / "cache" / "jobs").glob("*/multirun.yaml"))


# --- how a job is told to end ------------------------------------------------------------------


def test_a_terminals_and_a_parents_signal_are_one_request() -> None:
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt), interruptible(stop):  # noqa: PT012
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        reached = stop.is_set()
    assert reached
    with pytest.raises(KeyboardInterrupt), interruptible(threading.Event()):  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached = False
    assert reached


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_terminal_that_hangs_up_is_heard_but_by_nohup(handler: signal.Handlers) -> None:
    """It may do so twice."""
    stop = threading.Event()
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with suppress(KeyboardInterrupt), interruptible(stop):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            reached = True
    finally:
        signal.signal(signal.SIGHUP, before)
    assert reached
    assert stop.is_set() == (handler == signal.SIG_DFL)


@pytest.mark.parametrize("error", [SystemExit, RuntimeError])
def test_a_job_is_submitted_again_once_it_has_ended(error: type[BaseException]) -> None:
    """submitit's handler of SIGUSR2 ends the process with SystemExit, or raises where it cannot
    submit the job again."""
    done = []

    def resubmit(number: int, frame: object) -> None:
        done.append("submitted")
        raise error

    before = signal.signal(signal.SIGUSR2, resubmit)
    try:
        expected = SystemExit if error is SystemExit else KeyboardInterrupt
        with pytest.raises(expected), interruptible(threading.Event()):  # noqa: PT012
            signal.raise_signal(signal.SIGUSR2)
            done.append("ended")
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert done == ["ended", "submitted"]
