"""Which studies a storage knows, and what is kept with them.

Reads Optuna's tables without Optuna, and makes neither a database nor a table by looking.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, column, create_engine, inspect, select, table
from sqlalchemy.pool import NullPool

from search.store.opening import opening
from search.store.settings import StorageSettings

# the columns of Optuna's that are read here
_STUDIES = table("studies", column("study_id"), column("study_name"))
_ATTRIBUTES = table(
    "study_user_attributes", column("study_id"), column("key"), column("value_json")
)


def study_names(settings: StorageSettings) -> list[str]:
    """The names of the studies in a storage. Raises UserError where it cannot be opened."""
    with _looking(settings) as connection:
        return list(connection.scalars(select(_STUDIES.c.study_name))) if connection else []


def study_attributes(settings: StorageSettings, study: str) -> dict[str, Any] | None:
    """The user attributes of a study, None where the storage has no such study. Raises UserError
    where it cannot be opened."""
    of_study = (
        select(_STUDIES.c.study_id, _ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json)
        .outerjoin_from(_STUDIES, _ATTRIBUTES, _STUDIES.c.study_id == _ATTRIBUTES.c.study_id)
        .where(_STUDIES.c.study_name == study)
    )
    with _looking(settings) as connection:
        rows = connection.execute(of_study).all() if connection else []
    return {key: json.loads(value) for _, key, value in rows if key} if rows else None


@contextmanager
def _looking(settings: StorageSettings) -> Iterator[Connection | None]:
    """A connection to a storage that has Optuna's tables, None to one that has not."""
    settings.check()
    url = settings.resolved
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        yield None
        return
    with opening(settings.shown), create_engine(url, poolclass=NullPool).connect() as connection:
        yield connection if inspect(connection).has_table(_STUDIES.name) else None
