"""The commands, one module each. `Config` has the settings that a command takes; `run` runs it.

A command's module is imported only after its settings are composed. So `--help` is quick, and
commands that only read a database never load torch.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lmcore.errors import UserError
from search.commands.named import by_name
from search.work.launching import STOPPED, end

if TYPE_CHECKING:
    from search.config import StudyConfig

READING = ("status", "front", "plot")  # commands that need no torch


def run(command: str) -> None:
    """Run a command as a Hydra app on sys.argv. Exits with 1 for a person's error, with 130 when
    interrupted."""

    def task(composed: DictConfig) -> None:
        _say(_answer(command, composed))

    try:
        sys.argv[1:] = by_name(command, sys.argv[1:])
        hydra.main(config_path="pkg://search.conf", config_name=command, version_base="1.3")(task)()
    except UserError as error:
        print(f"lmpareto {command}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # while the jobs of a launcher ran
        print(f"lmpareto {command}: {STOPPED}", file=sys.stderr)
        sys.exit(130)


def _answer(command: str, composed: DictConfig) -> str:
    """The command's output for these settings. Ends the process where the command fails."""
    module = importlib.import_module(f"search.commands.{command}")
    from search.process import imported
    from search.store.outage import AWAY, reason
    from search.terminal import quiet_optuna

    try:
        config: StudyConfig = settings_of(module.Config, composed)
        if command not in READING:
            from lmcore.runtime import prepare

            prepare(config.threads)
        quiet_optuna()
        imported()
        answer = module.run(config)
    except UserError as error:
        end(f"lmpareto {command}: {error}", 1)
    except AWAY as error:
        end(f"lmpareto {command}: the storage {config.storage.shown}: {reason(error)}", 1)
    except KeyboardInterrupt:
        end(f"lmpareto {command}: {STOPPED}", 130)
    return json.dumps(answer.document) if config.format == "json" else str(answer.text)


def _say(answer: str) -> None:
    """Print it, to whoever wants to hear all of it."""
    try:
        print(answer, flush=True)
    except BrokenPipeError:  # `| head` has read enough; at its end Python would try once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def settings_of(kind: type[StudyConfig], composed: DictConfig) -> Any:
    """The composed settings as those of class `kind`. Raises UserError for what is missing or
    wrong."""
    from lmcore.settings import parse

    try:
        data = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(
            f"{error.full_key}: this setting is missing; give {error.full_key}=..."
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(data, dict)
    config = parse(kind, {str(name): value for name, value in data.items()})
    if config.name is None and (chosen := HydraConfig.get().runtime.choices.get("study")):
        return config.model_copy(update={"name": chosen})
    return config
