"""Intents get the name of their installation, and what a disk held that was not to be overwritten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; an intent from before has no name, so no marker on a disk can be its own."""
    op.add_column("intents", sa.Column("installation", sa.Text))
    op.add_column("intents", sa.Column("occupant", sa.Text))


def downgrade() -> None:
    """Remove the columns."""
    for column in ("occupant", "installation"):
        op.drop_column("intents", column)
