"""Bringing the tables up to date; the one place that imports alembic."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class UnknownVersionError(Exception):
    """The tables have a version that this Bramble does not know."""


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Run the migrations up to `revision` that the database has not seen, in the caller's transaction.

    Raises:
        UnknownVersionError: Written by a newer Bramble.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise UnknownVersionError(str(error)) from error
