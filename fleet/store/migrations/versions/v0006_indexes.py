"""Every request of an agent looks for its certificate, and every one of an installer for its token."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_INDEXED = (("nodes", "certificate"), ("nodes", "previous_certificate"), ("intents", "token_sha256"))


def upgrade() -> None:
    """Make the indexes."""
    for table, column in _INDEXED:
        op.create_index(f"ix_{table}_{column}", table, [column])


def downgrade() -> None:
    """Remove the indexes."""
    for table, column in _INDEXED:
        op.drop_index(f"ix_{table}_{column}", table)
