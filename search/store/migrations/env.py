"""What alembic runs: our migrations on the connection that `upgrade` has opened."""

from alembic import context

from search.store.migrations import TABLE
from search.store.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=TABLE,
)
with context.begin_transaction():
    context.run_migrations()
