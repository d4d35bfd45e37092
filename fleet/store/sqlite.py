"""One SQLite file in WAL mode: its engine, its modes, and the lock that makes its opener the only
writer."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import ClassVar, Final

import sqlalchemy as sa

from fleet.store.errors import NoRecordError, StoreError

BUSY_TIMEOUT_MS: Final = 5000
READS: Final = "bramble_reads"
"""Execution option of connections that only read: they must not take the write lock."""


class SqliteBackend:
    """A file that one process writes; any number may read it meanwhile.

    Raises:
        StoreError: From the constructor: another process has it open, or the directory cannot be written.
        NoRecordError: It is to be read only and is not there.
    """

    is_shared: ClassVar[bool] = False
    write_hint: ClassVar[str] = "Is there room on the disk? Nothing was changed; what failed is tried again."
    read_hint: ClassVar[str] = (
        "Is it yours, and on a disk that works? A damaged file has to be restored from a backup."
    )

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self.place = path
        self._lock: int | None = None
        if readonly:
            if not path.is_file():
                raise NoRecordError(path)
            self.engine = _engine(f"sqlite:///file:{path}?mode=ro&uri=true")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made before SQLite does, so that the mode is right from the first byte; -wal and -shm inherit
            # it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._lock = _lock(path.with_name(f"{path.name}.lock"), path)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error.strerror}", "Is the state directory yours?", path
            ) from error
        self.engine = _engine(f"sqlite:///{path}")

    def prepare(self, connection: sa.Connection) -> None:
        """Use a write-ahead log: outside of any transaction, the mode is a property of the file."""
        driver = connection.connection.driver_connection
        if not isinstance(driver, sqlite3.Connection):
            raise TypeError(f"the store needs SQLite's own driver, got {type(driver).__name__}")
        driver.execute("PRAGMA journal_mode=WAL")

    def change_mark(self, _connection: sa.Connection) -> str:
        """Nobody else writes: nothing to watch for."""
        return ""

    def close(self) -> None:
        self.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(lock_path: Path, path: Path) -> int:
    """Become the only writer, until the descriptor is closed or the process ends."""
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreError(
            f"{path} is in use by another process",
            "Is another 'bramble serve' of this cluster running?",
            path,
        ) from error
    return descriptor


def _engine(url: str) -> sa.Engine:
    """An engine whose transactions are SQLite's own.

    The driver's implicit BEGIN is switched off: it would leave reads outside of transactions and take the
    write lock late, where two writers can deadlock. Source: SQLAlchemy documentation, SQLite dialect,
    "Serializable isolation / Savepoints".
    """
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        reads = connection.get_execution_options().get(READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
