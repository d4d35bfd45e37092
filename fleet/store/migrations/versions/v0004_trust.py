"""Device keys, the boards that nodes are bound to, and what a person turned away."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; nodes from before are bound to a board by their next enrolment or report."""
    op.create_table(
        "device_keys",
        sa.Column("key_sha256", sa.Text, primary_key=True),
        sa.Column("board", sa.Text, nullable=False, index=True),
        sa.Column("node", sa.Text, index=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "node_boards",
        sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
        sa.Column("serial", sa.Text),
        sa.Column("macs", sa.JSON, nullable=False),
        sa.Column("intent", sa.Integer),
        sa.Column("key", sa.Text),
        sa.Column("contested", sa.Boolean, nullable=False),
    )
    op.create_table(
        "refusals",
        sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Remove the tables."""
    for table in ("refusals", "node_boards", "device_keys"):
        op.drop_table(table)
