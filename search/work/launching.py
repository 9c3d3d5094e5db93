"""Running a command as jobs of one of Hydra's launchers (`--multirun`): joblib, submitit, Ray.

A launcher writes the settings of its jobs into a folder, so the settings may hold no password. It
hands on the exception that a job raises but not its exit code, so a job ends with an exception.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from search.process import end_with_parent, imported, orphaned
from search.streams import harmless

STOPPED = "stopped; the same command goes on from here"

OmegaConf.register_new_resolver("expanduser", lambda path: str(Path(path).expanduser()))


class JobError(CompactHydraException):
    """The message of a job that ends with an error. When the other jobs have ended, Hydra shows the
    message without a traceback and exits with 1."""


def end(message: str, code: int) -> NoReturn:
    """End the command with a message: a process with the exit code, a job with a JobError."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise JobError(message)
    print(harmless(message), file=sys.stderr)
    sys.exit(code)


class Launching(Callback):
    """Hydra calls this before it launches the first job, and at the end of each job."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        imported()  # this process waits for its jobs, and has all that it needs for that
        name = config.hydra.job.name
        settings = OmegaConf.to_container(config, resolve=False)
        assert isinstance(settings, dict)
        if holds_password(str(settings["storage"]["url"])):
            print(
                f"{name}: storage.url: its password would be written into the jobs' folders; "
                f"storage=url takes the URL from $LMPARETO_STORAGE",
                file=sys.stderr,
            )
            sys.exit(1)

        if config.hydra.launcher._target_.endswith(".JoblibLauncher"):
            begin = f"{end_with_parent.__module__}.{end_with_parent.__name__}"
            with open_dict(config.hydra.launcher):
                config.hydra.launcher.initializer = {"_target_": begin, "_partial_": True}

        def interrupt(number: int, frame: FrameType | None) -> None:
            if not multiprocessing.active_children():
                raise KeyboardInterrupt
            # a KeyboardInterrupt would make joblib kill its processes, which end by themselves
            print(f"{name}: {STOPPED}", file=sys.stderr, flush=True)
            os._exit(130)

        signal.signal(signal.SIGINT, interrupt)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if orphaned():  # the process that would take the job's result is gone
            os._exit(1)


def holds_password(url: str) -> bool:
    """Whether a URL contains a password itself, and not a ${...} that is resolved later."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from search.store.settings import secrets

    try:
        return any("${" not in secret for secret in secrets(make_url(url)))
    except (ArgumentError, ValueError):
        return "@" in url  # malformed, but perhaps meant to hold one
