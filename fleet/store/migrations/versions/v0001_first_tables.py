"""The first tables: boards, nodes, intents, tickets, events, kv."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables. A written migration is never edited: it says what the tables were then."""
    op.create_table(
        "boards",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("serial", sa.Text),
        sa.Column("macs", sa.JSON, nullable=False),
        sa.Column("revision", sa.BigInteger),
        sa.Column("model", sa.Text),
        sa.Column("first_seen", sa.Float, nullable=False),
        sa.Column("last_seen", sa.Float, nullable=False),
        sa.Column("held_reason", sa.Text),
    )
    op.create_table(
        "nodes",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("uuid", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("board", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("progressed_at", sa.Float, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("serial", sa.Text),
        sa.Column("mac", sa.Text),
        sa.Column("image_id", sa.Text),
        sa.Column("disk_signature", sa.BigInteger),
        sa.Column("certificate", sa.Text),
        sa.Column("previous_certificate", sa.Text),
        sa.Column("agent_key", sa.Text),
        sa.Column("pending_key", sa.Text),
        sa.Column("approved_key", sa.Text),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("join_allowed", sa.Boolean, nullable=False),
        sa.Column("node_password", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text),
        sa.Column("boots", sa.Integer, nullable=False),
        sa.Column("status", sa.JSON),
        sa.Column("status_sequence", sa.Integer, nullable=False),
        sa.Column("status_at", sa.Float),
        sa.UniqueConstraint("uuid"),
    )
    op.create_table(
        "intents",
        sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("opened", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("closed", sa.Float),
        sa.Column("why", sa.Text),
        sa.Column("token_sha256", sa.Text),
    )
    op.create_table(
        "tickets",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("node", sa.Text, sa.ForeignKey("nodes.name"), nullable=False),
        sa.Column("intent", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("minted_at", sa.Float, nullable=False),
        sa.Column("used_at", sa.Float),
        sa.Column("used_by", sa.Text),
    )
    op.create_index("ix_tickets_node", "tickets", ["node"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("node", sa.Text),
        sa.Column("board", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_node", "events", ["node"])
    op.create_index("ix_events_board", "events", ["board"])
    op.create_table(
        "kv",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Remove the tables."""
    for table in ("kv", "events", "tickets", "intents", "nodes", "boards"):
        op.drop_table(table)
