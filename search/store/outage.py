"""Waiting for a database that is away: it is down, restarting, or cannot be reached. A file that is
gone is not waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from lmcore.errors import UserError

PAUSES = (0.1, 0.5, 1.0, 2.0)  # seconds between attempts; the last one repeats
P = ParamSpec("P")
T = TypeVar("T")


class AwayError(UserError):
    """A database that cannot be opened now. To a worker it is away, so the worker waits. To the
    person who typed its URL it is an error, since the URL may be wrong."""


class GoneError(UserError):
    """A database whose file was deleted, moved or replaced while it was in use."""


AWAY = (OperationalError, InterfaceError, StorageInternalError, AwayError)
FAILED = (SQLAlchemyError, StorageInternalError)  # away, or damaged


def never() -> bool:
    return False


@dataclass(frozen=True)
class Patience:
    """Repeats a call that fails because the database is away, for up to `seconds` seconds.

    Where `stopping` returns True, the wait ends with KeyboardInterrupt. A call is still tried twice
    before that, so that a worker that is being stopped can release its slot.
    """

    seconds: float
    storage: str  # for messages, without a password
    stopping: Callable[[], bool] = never

    def __call__(self, do: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """The result of `do(*given, **named)`, which may run several times.

        Raises UserError where the database is away for too long, KeyboardInterrupt where the wait
        was stopped.
        """
        since, attempt = time.monotonic(), 0
        while True:
            try:
                return do(*given, **named)
            except AWAY as error:
                if attempt and self.stopping():
                    raise KeyboardInterrupt from None
                if time.monotonic() - since > self.seconds:
                    raise UserError(
                        f"the storage {self.storage} was away for more than {self.seconds:.0f} s "
                        f"({reason(error)}); the same command goes on once it is back"
                    ) from None
                if attempt == 3:
                    print(f"waiting for {self.storage}: {reason(error)}", file=sys.stderr)
            time.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
            attempt += 1


def reason(error: BaseException) -> str:
    """The first line of the driver's message. SQLAlchemy's would repeat the statement."""
    while isinstance(error, StorageInternalError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, UserError):
        return str(error)
    said = str(getattr(error, "orig", None) or type(error).__name__).splitlines()[0]
    return f"{said}: is the disk full?" if said == "disk I/O error" else said
