"""What only reads answers at once: commands that show something load neither torch nor scipy."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import weakref
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from search.cli import COMMANDS
from search.commands import READING
from search.process import collect_later, imported
from search.study.context import WorkContext
from search.work.sweep import sweep
from studies import environment, sweep_here, write_configs
from studies import settings as settings_in

HEAVY = ("torch", "scipy", "kaleido", "pandas")
RUN = """
import json, sys
from search.cli import main
sys.argv = ["lmpareto", *sys.argv[1:]]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def modules_of(*arguments: str, cache: Path) -> set[str]:
    """The modules that a command has loaded when it ends, in a process of its own without a
    browser: `plot` then fails."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env={**environment(cache), "BROWSER_PATH": os.devnull},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == (arguments[0] == "plot" and "--help" not in arguments), done.stderr
    loaded: list[str] = json.loads(done.stderr.splitlines()[-1])
    return set(loaded)


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_load_next_to_nothing(argument: str, tmp_path: Path) -> None:
    loaded = modules_of(argument, cache=tmp_path)
    assert not loaded & {*HEAVY, "hydra", "numpy", "lmcore", "search.commands"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_no_command(command: str, tmp_path: Path) -> None:
    loaded = modules_of(command, "--help", cache=tmp_path)
    assert not loaded & {*HEAVY, "optuna", "sqlalchemy", "pydantic"}


@pytest.mark.parametrize("command", READING)
def test_a_published_study_is_shown_without_torch(command: str, tmp_path: Path) -> None:
    arguments = ["status"] if command == "status" else [command, "study=ptb_small"]
    loaded = modules_of(*arguments, cache=tmp_path)
    assert "search.study.context" in loaded
    assert not loaded & {*HEAVY[:2]}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs and the cache of a study of one trial."""
    folder = tmp_path_factory.mktemp("startup")
    write_configs(folder / "configs")
    (folder / "cache").mkdir()
    sweep_here(settings_in(folder / "cache"), slots=1)
    return folder


@pytest.mark.parametrize("command", READING)
def test_a_study_in_the_database_is_shown_without_torch(command: str, begun: Path) -> None:
    configs, cache = begun / "configs", begun / "cache"
    loaded = modules_of(command, f"--config-dir={configs}", "study=mine", cache=cache)
    assert "optuna" in loaded
    assert not loaded & {*HEAVY[:2]}


def test_a_second_job_of_a_process_freezes_no_garbage() -> None:
    class Model:
        pass

    try:
        collect_later()
        imported()
        assert gc.isenabled()
        left = Model()
        left.itself = left  # type: ignore[attr-defined]
        seen = weakref.ref(left)
        del left
        imported()
        gc.collect()
        assert seen() is None
    finally:
        gc.unfreeze()


def test_what_a_worker_is_started_with_fits_into_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more than its 64 kB, `start` would wait for the worker to read, deaf to Ctrl-C."""
    given: list[tuple[Any, ...]] = []

    class Process:
        def __init__(self, target: Any, args: tuple[Any, ...], **_: Any) -> None:
            given.append((target, *args))

        def start(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(type(multiprocessing.get_context("spawn")), "Process", Process)
    with pytest.raises(KeyboardInterrupt):
        sweep(WorkContext(settings_in(tmp_path, trials=1, workers=1)))
    assert 0 < len(ForkingPickler.dumps(given[0])) < 60_000
