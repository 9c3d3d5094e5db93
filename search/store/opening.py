"""What is wrong with a database that cannot be opened, said to the person who named it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from lmcore.errors import UserError
from search.store.outage import AwayError, reason


@contextmanager
def opening(shown: str) -> Iterator[None]:
    """Turns the errors of opening the storage `shown` into AwayError where it cannot be opened now,
    and UserError where it never can."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"storage.url {shown}: install its driver, {error.name}") from None
    except RuntimeError as error:  # the tables of another version of Optuna
        raise UserError(f"cannot use the storage {shown}: {error}") from None
    except SQLAlchemyError as error:
        kind = AwayError if isinstance(error, OperationalError) else UserError
        raise kind(f"cannot open the storage {shown}: {reason(error)}") from None
