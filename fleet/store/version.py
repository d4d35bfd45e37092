"""Which version the tables have. Alembic, 11 MiB of it, is needed only where older ones are changed."""

from __future__ import annotations

from enum import Enum
from typing import Final

import sqlalchemy as sa

from fleet.store.tables import metadata

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Every migration, the oldest first. A test holds them, and the tables that the migrations make, against the
declared."""
LATEST: Final = REVISIONS[-1]

VERSION: Final = sa.Table(
    "alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)


class Standing(Enum):
    """What a database's tables are to this release."""

    EMPTY = "empty"
    CURRENT = "current"
    OLDER = "older"
    UNKNOWN = "unknown"
    """A newer release's, or not ours at all."""


def standing_of(connection: sa.Connection) -> Standing:
    """Look, and change nothing."""
    names = sa.inspect(connection).get_table_names()
    if not names:
        return Standing.EMPTY
    if VERSION.name not in names:
        return Standing.OLDER
    found = connection.execute(sa.select(VERSION.c.version_num)).scalars().all()
    if found == [LATEST]:
        return Standing.CURRENT
    return Standing.OLDER if set(found) < set(REVISIONS) else Standing.UNKNOWN


def is_current(connection: sa.Connection) -> bool:
    """Whether the tables are those of this release. A database without any is given them."""
    standing = standing_of(connection)
    if standing is Standing.EMPTY:
        metadata.create_all(connection)
        VERSION.create(connection)
        connection.execute(sa.insert(VERSION).values(version_num=LATEST))
    return standing in (Standing.EMPTY, Standing.CURRENT)
