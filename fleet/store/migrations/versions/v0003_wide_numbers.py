"""Numbers that grow for ever get 64 bits in PostgreSQL; SQLite's INTEGER always had them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = (("nodes", "status_sequence"), ("nodes", "generation"), ("events", "id"))
_COUNTER = "events_id_seq"


def upgrade() -> None:
    """Widen the columns."""
    _set_type(sa.BigInteger())


def downgrade() -> None:
    """Narrow them again; fails where a number has outgrown 32 bits."""
    _set_type(sa.Integer())


def _set_type(kind: sa.types.TypeEngine[int]) -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, column in _COLUMNS:
        op.alter_column(table, column, type_=kind, existing_nullable=False)
    op.execute(f"ALTER SEQUENCE {_COUNTER} AS {'bigint' if isinstance(kind, sa.BigInteger) else 'integer'}")
