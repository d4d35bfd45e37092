"""The fleet lock, and rollouts of images."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; at most one rollout is open."""
    op.create_table(
        "holds",
        sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("taken_at", sa.Float, nullable=False),
    )
    op.create_table(
        "rollouts",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("image_id", sa.Text, nullable=False),
        sa.Column("requested_at", sa.Float, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("steps", sa.JSON, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("closed_at", sa.Float),
    )


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("rollouts")
    op.drop_table("holds")
