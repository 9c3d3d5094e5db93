"""Studies from Python, in a notebook say:

    from search.api import open_study

    study = open_study("quickstart", name="mine")
    study.sweep(trials=8)
    study.front  # a data frame
    study.export("model", max_size="100 kB")

Settings are those of the command line: `name=value`, or as text where a name has a dot
(`"corpus.file=my.txt"`). What is wrong raises `lmcore.errors.UserError`, whose message says what
would be right.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_module
from omegaconf import open_dict

from lmcore.errors import UserError
from search.commands import settings_of
from search.commands.named import by_name
from search.commands.refusals import REFUSED, refusal
from search.commands.typed import for_hydra

if TYPE_CHECKING:
    import pandas as pd

    from search.commands.answer import Answer
    from search.study.history import History


class OpenStudy:
    """A study and the settings that it was opened with. Each look reads the database anew."""

    def __init__(self, study: str, settings: list[str]) -> None:
        self._study, self._settings = study, settings
        self.name: str = self._composed("status").study

    def __repr__(self) -> str:
        return f"<lmpareto study {self.name}>"

    @property
    def front(self) -> pd.DataFrame:
        """The front by size: a row a point, with trial, rung, size_bytes, valid_perplexity
        (or the measure of another task), tokens_per_second, method, and recipe as plain data.

        Raises UserError where there is no such study yet, or no pandas.
        """
        front = self._history().results.front
        rows = [
            {
                "trial": point.trial,
                "rung": point.rung,
                "size_bytes": point.size_bytes,
                front.measure.key("valid"): point.valid_measure,
                "bits_per_byte": point.bits_per_byte,
                "tokens_per_second": point.tokens_per_second,
                "relative_speed": point.relative_speed,
                "method": point.method,
                "recipe": point.recipe,
            }
            for point in front.points
        ]
        return _frame(rows)

    @property
    def trials(self) -> pd.DataFrame:
        """All trials by number: state, times in seconds since 1970, failure, size_bytes and
        valid_perplexity of the best file (NaN without one), and a column `params.NAME` for each
        parameter that a trial was asked for. Raises UserError as `front` does."""
        history = self._history()
        rows = []
        for one in history.trials:
            best = history.results.trials.get(one.number)
            row = {
                "trial": one.number,
                "state": one.state,
                "started": one.started,
                "ended": one.ended,
                "failure": one.failure,
                "size_bytes": best and best.size_bytes,
                history.results.measure.key("valid"): best and best.valid_measure,
            }
            rows.append(row | {f"params.{name}": value for name, value in one.parameters.items()})
        return _frame(rows)

    def sweep(self, *settings: str, **named: Any) -> dict[str, Any]:
        """Run the study's trials, or go on with them, as `lmpareto sweep` does: `trials=20` in
        total. Returns its document. Interrupting the kernel ends the workers cleanly."""
        return self._run("sweep", *settings, **named)

    def export(self, to: str | Path, *settings: str, **named: Any) -> dict[str, Any]:
        """Take a model home, as `lmpareto export` does; without a choice, the front's knee.
        Returns the document of its metrics.json, with the bundle's path as `bundle`."""
        return self._run("export", *settings, to=str(to), **named)

    def _run(self, command: str, *settings: str, **named: Any) -> dict[str, Any]:
        from lmcore.runtime import prepare
        from search.terminal import quiet_optuna

        config = self._composed(command, [*settings, *_typed(named)])
        prepare(config.threads)
        quiet_optuna()
        answer: Answer = importlib.import_module(f"search.commands.{command}").run(config)
        return answer.document

    def _history(self) -> History:
        from search.study.context import StudyContext
        from search.study.history import history_of
        from search.terminal import quiet_optuna

        quiet_optuna()
        return history_of(StudyContext(self._composed("front")))

    def _composed(self, command: str, more: list[str] | None = None) -> Any:
        """The command's settings: those of the study, as it was opened, and `more`."""
        module = importlib.import_module(f"search.commands.{command}")
        own = [*self._settings, *(more or [])]
        arguments = by_name(command, for_hydra([f"study={self._study}", *own]))
        try:
            with initialize_config_module("search.conf", version_base="1.3"):
                composed = compose(command, arguments)
        except REFUSED as error:
            raise UserError(refusal(error, arguments)) from None
        if composed.get("name") is None:
            with open_dict(composed):
                composed.name = self._study
        return settings_of(module.Config, composed)


def open_study(study: str, *settings: str, **named: Any) -> OpenStudy:
    """A study by its name: one that was begun, a published one, or one of `conf/study` to begin.

    `open_study("quickstart", name="mine", trials=8)` has the settings of quickstart under another
    name. What only a sweep takes, as `workers`, is given to `sweep`. Nothing is written before a
    sweep or an export is asked for. Raises UserError for settings that are wrong, and where there
    is no study of that name.
    """
    return OpenStudy(study, [*settings, *_typed(named)])


def _typed(named: dict[str, Any]) -> list[str]:
    """Settings as they are typed: the value as JSON, which Hydra reads, a text as it stands."""
    return [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in named.items()
    ]


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError:
        raise UserError(
            "data frames need pandas, which is not installed: pip install 'lmpareto[notebook]'"
        ) from None
    return pd.DataFrame(rows)
