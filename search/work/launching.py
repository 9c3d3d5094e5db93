"""A command as jobs of one of Hydra's launchers (`--multirun`): joblib, submitit, Ray.

A launcher pickles the settings of its jobs into a folder and brings back what they raised. So a
job ends with an exception rather than an exit code, and its settings may hold no password.
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

from search.process import end_with_parent, orphaned

STOPPED = "stopped; the same command goes on from here"

OmegaConf.register_new_resolver("expanduser", lambda path: str(Path(path).expanduser()))


class JobError(CompactHydraException):
    """What a job has to say at its end: Hydra shows it, without a traceback, when the other jobs
    have ended, and ends the process that launched them with 1."""


def end(message: str, code: int) -> NoReturn:
    """End the command's process, or the job that it is."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise JobError(message)
    print(message, file=sys.stderr)
    sys.exit(code)


class Launching(Callback):
    """What is done before the first job is launched, and after each."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        name = config.hydra.job.name
        settings = OmegaConf.to_container(config, resolve=False)
        assert isinstance(settings, dict)
        if _holds_password(str(settings["storage"]["url"])):
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
            # at which joblib would kill its processes: they end by themselves
            print(f"{name}: {STOPPED}", file=sys.stderr, flush=True)
            os._exit(130)

        signal.signal(signal.SIGINT, interrupt)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if orphaned():  # nobody is there to hear what came of the job
            os._exit(1)


def _holds_password(url: str) -> bool:
    """Whether a URL holds one itself; ${...} stands for what is found elsewhere."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from search.store.settings import secrets

    try:
        return any("${" not in secret for secret in secrets(make_url(url)))
    except (ArgumentError, ValueError):
        return "@" in url  # no URL, but one may have been meant
