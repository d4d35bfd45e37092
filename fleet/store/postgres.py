"""A PostgreSQL database that several control servers may share.

The rules of the store are those of SQLite's: one writer at a time, in the whole cluster. A writing
transaction begins by taking one advisory lock, which PostgreSQL releases after the commit is on the disk,
so whatever a transaction reads is what the one before it left: no update is lost, no check is stale, and
nothing has to be tried again. SERIALIZABLE would let writers overlap and abort; a transaction here is a
few rows long and a cluster's writers are few, so waiting is cheaper than repeating, and the callers stay
simple.

Readers take no lock and see one snapshot (REPEATABLE READ).

Source: PostgreSQL 15 documentation, 13.3.5 "Advisory Locks", 13.2.2 "Repeatable Read Isolation Level".
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import sqlalchemy as sa

from fleet.store.errors import StoreError
from fleet.store.sqlite import READS
from fleet.store_place import PostgresPlace

WRITER_LOCK: Final = 0x6272_616D_626C_6531
"""Key of the advisory lock, one for each database: "bramble1" in ASCII."""
CONNECT_TIMEOUT_S: Final = 10
SETTINGS: Final = {
    # What a server that hangs or whose machine vanished may keep from the others, at most.
    "lock_timeout": "20s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
    # The database may be set to acknowledge before the disk has it; the store promises more.
    "synchronous_commit": "on",
}


class PostgresBackend:
    """The engine of one database.

    Raises:
        StoreError: From the constructor, when the driver is not installed.
    """

    is_shared: ClassVar[bool] = True
    write_hint: ClassVar[str] = (
        "Is the database up and reachable from here? Unless its connection broke in the very commit, nothing "
        "was changed; every request may be repeated, and what failed is tried again."
    )
    read_hint: ClassVar[str] = "Is the database up, and may this user read it?"

    def __init__(self, place: PostgresPlace, *, readonly: bool) -> None:
        self.place = place
        options = " ".join(f"-c {key}={value}" for key, value in SETTINGS.items())
        try:
            url = sa.make_url(place.url).set(drivername="postgresql+psycopg")
            given = url.query.get("options", "")
            arguments: dict[str, Any] = {
                "options": f"{options} {given}".strip(),
                "application_name": "bramble",
                "connect_timeout": CONNECT_TIMEOUT_S,
                # A database whose machine lost its power says nothing: without these, for two hours.
                "keepalives_idle": 15,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
            }
            self.engine = sa.create_engine(
                url.difference_update_query(["options"]),
                pool_pre_ping=True,
                pool_size=2,
                max_overflow=6,
                connect_args=arguments,
            )
        except (ImportError, sa.exc.ArgumentError) as error:
            raise StoreError(
                f"{place} cannot be used: {error}", "Is the package psycopg installed?", place
            ) from error
        self._readonly = readonly
        sa.event.listen(self.engine, "begin", self._begin)

    def _begin(self, connection: sa.Connection) -> None:
        reads = self._readonly or connection.get_execution_options().get(READS, False)
        if reads:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        else:
            # READ COMMITTED: each statement after this one sees what the last holder of the lock left.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")

    def prepare(self, connection: sa.Connection) -> None:
        """Refuse a database that cannot keep every text.

        Raises:
            StoreError: Its encoding is not UTF-8.
        """
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise StoreError(
                f"{self.place} has the encoding {encoding}, the store needs UTF8",
                "Make the database with: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0.",
                self.place,
            )

    def change_mark(self, connection: sa.Connection) -> str:
        """A text that differs once any transaction has written since, here or elsewhere on the server."""
        return str(connection.exec_driver_sql("SELECT pg_snapshot_xmax(pg_current_snapshot())").scalar())

    def close(self) -> None:
        self.engine.dispose()
