"""Our tables brought up to date, whatever version of lmpareto made them.

A new version is a file in `versions`; `alembic revision` needs nothing more than this folder.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, column, inspect, select, table

TABLE = "lmpareto_version"


def upgrade(engine: Engine) -> None:
    """Make or change our tables, all or none.

    Raises what the database says where another process does so at the same moment.
    """
    if _version(engine) == newest():
        return
    from alembic import command  # takes a quarter of a second to import
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":  # where what makes a table begins no transaction
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def newest() -> str:
    """The version that this program makes: files in `versions` are called by theirs."""
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
