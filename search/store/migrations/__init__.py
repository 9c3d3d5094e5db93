"""Bring our tables up to date, whatever version of lmpareto made them.

To make a new version, copy the last file of `versions` and change it: its name begins with its
number.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Engine, Table, column, insert, inspect, select, table

from search.store.schema import Base, ReleaseRow

TABLE = "lmpareto_version"


class VersionError(Exception):
    """A database that another version of lmpareto or Optuna wrote. The message goes on from "the
    storage X"."""


def upgrade(engine: Engine) -> None:
    """Make our tables, or bring them to the newest version, in one transaction.

    Raises VersionError where a later lmpareto wrote them, and an SQLAlchemyError where another
    process makes or upgrades them at the same moment.
    """
    if _version(engine) == newest():
        return
    from alembic import command  # takes a quarter of a second to import
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":  # which begins no transaction before it makes a table
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.execute(insert(ReleaseRow).values(version=newest(), release=_release()))


def lacking(engine: Engine) -> dict[Table, list[Column[Any]]]:
    """Our tables that the database of an earlier version lacks, or of which it lacks columns, each
    with those columns.

    Raises VersionError where a later lmpareto wrote the database, and where a table lacks a column
    that cannot be empty.
    """
    if _version(engine) == newest():
        return {}
    found, absent = inspect(engine), dict[Table, list[Column[Any]]]()
    there = found.get_table_names()
    for one in Base.metadata.sorted_tables:
        known = [each["name"] for each in found.get_columns(one.name)] if one.name in there else []
        if columns := [each for each in one.columns if each.name not in known]:
            absent[one] = columns
        if known and not all(each.nullable for each in columns):
            raise VersionError(
                f"was written by an earlier lmpareto than this one, {_release()}: "
                f"lmpareto sweep study=NAME workers=0 brings it up to date"
            )
    return absent


def newest() -> str:
    """The version of the tables that this program needs: that of the last file in `versions`."""
    return max(
        path.name.partition("_")[0] for path in (Path(__file__).parent / "versions").glob("0*.py")
    )


def _version(engine: Engine) -> str | None:
    """The version of the database's tables, None where it has none of ours. Raises VersionError
    where it is later than `newest`."""
    with engine.connect() as connection:
        if not inspect(connection).has_table(TABLE):
            return None
        version: str | None = connection.scalar(
            select(column("version_num")).select_from(table(TABLE))
        )
    if version is not None and version > newest():
        raise VersionError(_later(engine, version))
    return version


def _later(engine: Engine, version: str) -> str:
    with engine.connect() as connection:
        noted = select(ReleaseRow.release).where(ReleaseRow.version == version)
        writer = connection.scalar(noted) or f"of database version {version}"
    return (
        f"was written by lmpareto {writer}, which is later than this one, {_release()}: "
        f"install lmpareto {writer} or later"
    )


def _release() -> str:
    return importlib.metadata.version("lmpareto")
