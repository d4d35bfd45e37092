"""Re-images, replacements and decommissions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, in which one node has at most one row that is open."""
    op.create_table(
        "reimages",
        sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("requested_at", sa.Float, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("image_id", sa.Text),
        sa.Column("force_drain", sa.Boolean, nullable=False),
        sa.Column("was", sa.Text, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("closed_at", sa.Float),
        sa.Column("outcome", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
    )
    is_open = sa.text("closed_at IS NULL")
    op.create_index(
        "ix_reimages_open", "reimages", ["node"], unique=True, sqlite_where=is_open, postgresql_where=is_open
    )


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("reimages")
