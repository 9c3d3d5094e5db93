"""Bring our tables up to date, whatever version of lmpareto made them.

To make a new version, copy the last file of `versions` and change it: its name begins with its
number.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, column, inspect, select, table

TABLE = "lmpareto_version"


def upgrade(engine: Engine) -> None:
    """Make our tables, or bring them to the newest version, in one transaction.

    Raises an SQLAlchemyError where another process does so at the same moment.
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


def newest() -> str:
    """The version of the tables that this program needs: that of the last file in `versions`."""
    return max(
        path.name.partition("_")[0] for path in (Path(__file__).parent / "versions").glob("0*.py")
    )


def _version(engine: Engine) -> str | None:
    """The version of the database's tables, None where it has none of ours."""
    with engine.connect() as connection:
        if not inspect(connection).has_table(TABLE):
            return None
        version: str | None = connection.scalar(
            select(column("version_num")).select_from(table(TABLE))
        )
        return version
