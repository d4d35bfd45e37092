"""What alembic runs for an upgrade; the connection comes from `fleet.store.database`."""

from __future__ import annotations

from alembic import context

from fleet.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
