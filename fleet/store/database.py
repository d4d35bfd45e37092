"""The store: one SQLite file, opened, migrated and guarded here; every change is a transaction.

`Store.write()` hands out a `Transaction`; what it changed is on the disk (WAL, `synchronous=FULL`) when the
block ends, or nothing is. Transactions are short (a few rows) and run on the caller's thread. Only one
process opens the store for writing; any number may read it with `Store.open_readonly`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import sqlalchemy as sa

from fleet.errors import FleetError
from fleet.store.transaction import Reader, Transaction
from fleet.store.version import is_current

BUSY_TIMEOUT_MS: Final = 5000
_READS: Final = "bramble_reads"
"""Execution option of connections that only read: they must not take the write lock."""


class StoreError(FleetError):
    """The store's file cannot be used."""

    def __init__(self, message: str, hint: str, path: Path) -> None:
        super().__init__(message, hint)
        self.path = path


class Store:
    """Owns the engine of one database file."""

    def __init__(self, engine: sa.Engine, path: Path, lock: int | None = None) -> None:
        self._engine = engine
        self._lock = lock
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open for writing; make the file (0600) and bring its tables up to date.

        Raises:
            StoreError: Another process has it open, it is no database, a newer Bramble wrote it, or the
                directory cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made before SQLite does, so that the mode is right from the first byte; -wal and -shm inherit
            # it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            lock = _lock(path.with_name(f"{path.name}.lock"), path)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error.strerror}", "Is the state directory yours?", path
            ) from error
        store = cls(_engine(f"sqlite:///{path}"), path, lock)
        try:
            store._migrate()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open_readonly(cls, path: Path) -> Self:
        """Open for reading only, also while a server writes.

        Raises:
            StoreError: There is no such file.
        """
        if not path.is_file():
            raise StoreError(
                f"there is no record of this cluster at {path}",
                "It is made by the first 'bramble serve'.",
                path,
            )
        return cls(_engine(f"sqlite:///file:{path}?mode=ro&uri=true"), path)

    def close(self) -> None:
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction: durable when the block ends, undone when it raises.

        Raises:
            StoreError: The disk is full or refuses, or the file is damaged; nothing was changed.
        """
        try:
            with self._engine.begin() as connection:
                yield Transaction(connection)
        except sa.exc.DatabaseError as error:
            raise StoreError(
                f"{self.path} cannot be written: {error.orig}",
                "Is there room on the disk? Nothing was changed; what failed is tried again.",
                self.path,
            ) from error

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """A consistent view.

        Raises:
            StoreError: The file cannot be read, or is damaged.
        """
        try:
            with self._engine.connect().execution_options(**{_READS: True}) as connection:
                yield Reader(connection)
        except sa.exc.DatabaseError as error:
            raise StoreError(
                f"{self.path} cannot be read: {error.orig}",
                "Is it yours, and on a disk that works? A damaged file has to be restored from a backup.",
                self.path,
            ) from error

    def _migrate(self) -> None:
        try:
            with self._engine.connect() as connection:
                _use_write_ahead_log(connection)
            with self._engine.begin() as connection:
                if not is_current(connection):
                    self._upgrade(connection)
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
            cause = error.orig if isinstance(error, sa.exc.DatabaseError) else error
            raise StoreError(
                f"{self.path} is not a usable database: {cause}",
                "Restore it from a backup. Removing it makes Bramble forget which nodes are installed.",
                self.path,
            ) from error

    def _upgrade(self, connection: sa.Connection) -> None:
        from fleet.store.migrate import UnknownVersionError, upgrade  # takes 0.15 s and 11 MiB

        try:
            upgrade(connection)
        except UnknownVersionError as error:
            raise StoreError(
                f"{self.path} was written by a newer Bramble ({error})", "Run that version.", self.path
            ) from error


def _use_write_ahead_log(connection: sa.Connection) -> None:
    """Outside of any transaction, on the driver's own connection: the mode is a property of the file."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"the store needs SQLite's own driver, got {type(driver).__name__}")
    driver.execute("PRAGMA journal_mode=WAL")


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
        reads = connection.get_execution_options().get(_READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
