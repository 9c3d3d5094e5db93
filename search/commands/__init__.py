"""The commands, one module each. `Config` has the settings that a command takes; `run` runs it.

A command's module is imported only after its settings are composed. So `--help` is quick, and
commands that only read a database never load torch.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lmcore.errors import UserError, is_out_of_memory
from lmcore.files import finite
from search.commands.named import by_name
from search.commands.refusals import REFUSED, refusal, unresolved, without_secrets
from search.commands.typed import for_hydra
from search.streams import harmless, say
from search.work.launching import STOPPED, JobError, end

if TYPE_CHECKING:
    from search.config import StudyConfig

NO_MEMORY = (
    "this needs more memory than the process may have; give a smaller file or text, or free memory"
)
OWN_EMBEDDINGS = "own"  # the option of the group `embeddings` that fits all tasks
READING = ("status", "front", "plot", "report")  # commands that need no torch


def run(command: str, arguments: list[str]) -> None:
    """Run a command as a Hydra app on the arguments that were typed after it.

    Exits with 1 for a person's error, with 2 for what is no flag and no setting, with 130 when
    interrupted.
    """

    def task(composed: DictConfig) -> None:
        for text in _answers(command, composed):
            say(text)

    try:
        _check_working_folder()
        typed = for_hydra(arguments)
    except UserError as error:
        _refuse(f"lmpareto {command}: {error}", 2)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        sys.argv = ["lmpareto", *by_name(command, typed)]
        hydra.main(config_path="pkg://search.conf", config_name=command, version_base="1.3")(task)()
    except UserError as error:
        _refuse(f"lmpareto {command}: {error}", 1)
    except JobError as error:
        _refuse(str(error), 1)
    except REFUSED as error:
        _refuse(f"lmpareto {command}: {refusal(error, sys.argv[1:])}", 1)
    except KeyboardInterrupt:  # while the jobs of a launcher ran
        _refuse(f"lmpareto {command}: {STOPPED}", 130)


def _check_working_folder() -> None:
    """Raises UserError where the folder that the person is in does not exist any more."""
    try:
        os.getcwd()  # noqa: PTH109 (Path's look-up is this one)
    except FileNotFoundError:
        raise UserError("the folder that you are in was deleted; cd to another one") from None


def _refuse(message: str, code: int) -> NoReturn:
    print(harmless(message), file=sys.stderr)
    sys.exit(code)


def _answers(command: str, composed: DictConfig) -> Iterator[str]:
    """The command's output for these settings; a command that listens gives an answer at a time.
    Ends the process where the command fails."""
    module = importlib.import_module(f"search.commands.{command}")
    from search.commands.answer import Answer
    from search.process import imported
    from search.store.outage import FAILED, reason
    from search.terminal import quiet_optuna

    try:
        config: StudyConfig = settings_of(module.Config, composed)
        if command not in (*READING, "dashboard"):
            from lmcore.runtime import prepare

            prepare(config.threads)
        quiet_optuna()
        imported()
        answer = module.run(config)
        for one in [answer] if isinstance(answer, Answer) else answer:
            yield json.dumps(finite(one.document)) if config.format == "json" else str(one.text)
    except UserError as error:
        end(f"lmpareto {command}: {without_secrets(str(error), sys.argv[1:])}", 1)
    except FAILED as error:
        end(f"lmpareto {command}: the storage {config.storage.shown}: {reason(error)}", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        end(f"lmpareto {command}: {NO_MEMORY}", 1)
    except KeyboardInterrupt:
        end(f"lmpareto {command}: {STOPPED}", 130)


def settings_of(kind: type[StudyConfig], composed: DictConfig) -> Any:
    """The composed settings as those of class `kind`. Raises UserError for what is missing or
    wrong."""
    from lmcore.settings import NO_SETTING, parse

    try:
        data = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(
            f"{error.full_key}: this setting is missing; give {error.full_key}=..."
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {unresolved(error)}") from None
    assert isinstance(data, dict)
    settings = {str(name): value for name, value in data.items()}
    if settings.get("name") is None:
        settings["name"] = HydraConfig.get().runtime.choices.get("study")
    try:
        return parse(kind, settings)
    except UserError as error:
        # from Python, nothing is known of what was chosen
        chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
        own = chosen.get("embeddings", OWN_EMBEDDINGS) == OWN_EMBEDDINGS
        if own or NO_SETTING not in str(error):
            raise
        raise UserError(
            f"{error}\nembeddings={chosen['embeddings']} sets more than the defaults of "
            f"task={chosen['task']}; docs/tasks.md lists which tasks it is for"
        ) from None
