"""Which version the tables have. Alembic, 11 MiB of it, is needed only where older ones are changed."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from fleet.store.tables import metadata

LATEST: Final = "0002"
"""The newest migration. A test holds it, and the tables that the migrations make, against the declared."""

_VERSION: Final = sa.Table(
    "alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)


def is_current(connection: sa.Connection) -> bool:
    """Whether the tables are those of this release. A database without any is given them."""
    names = sa.inspect(connection).get_table_names()
    if not names:
        metadata.create_all(connection)
        _VERSION.create(connection)
        connection.execute(sa.insert(_VERSION).values(version_num=LATEST))
        return True
    if _VERSION.name not in names:
        return False
    return connection.execute(sa.select(_VERSION.c.version_num)).scalars().all() == [LATEST]
