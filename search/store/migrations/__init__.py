"""Our tables brought up to date, whatever version of lmpareto made them.

A new version is a file in `versions`; `alembic revision` needs nothing more than this folder.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

TABLE = "lmpareto_version"


def upgrade(engine: Engine) -> None:
    """Make or change our tables, all or none.

    Raises what the database says where another process does so at the same moment.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    head = ScriptDirectory.from_config(config).get_current_head()
    with engine.connect() as connection:
        found = MigrationContext.configure(connection, opts={"version_table": TABLE})
        if found.get_current_revision() == head:
            return
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":  # where what makes a table begins no transaction
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
