"""The store: opened, migrated and guarded here, in SQLite or PostgreSQL; every change is a transaction.

`Store.write()` hands out a `Transaction`; what it changed is on the disk when the block ends, or nothing
is. Transactions are short (a few rows), run on the caller's thread, and follow one another: on SQLite
because one process opens the file for writing, on PostgreSQL by a lock (`fleet.store.postgres`). Any
number of processes may read with `Store.open_readonly`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import sqlalchemy as sa

from fleet.store.batch import BatchTransaction
from fleet.store.errors import NoRecordError, StoreError
from fleet.store.sqlite import READS, SqliteBackend
from fleet.store.transaction import Reader, Transaction
from fleet.store.version import LATEST, Standing, is_current, standing_of
from fleet.store_place import Place

__all__ = ["NoRecordError", "Store", "StoreError"]


class Backend(Protocol):
    """What differs between the databases."""

    place: Any
    engine: sa.Engine
    is_shared: ClassVar[bool]
    write_hint: ClassVar[str]
    read_hint: ClassVar[str]

    def prepare(self, connection: sa.Connection) -> None: ...

    def change_mark(self, connection: sa.Connection) -> str: ...

    def close(self) -> None: ...


class Store:
    """Owns the connections to one cluster's record."""

    def __init__(self, backend: Backend, *, readonly: bool) -> None:
        self._backend = backend
        self._unchecked = readonly
        self.commits = 0
        """Of this process. Whoever shows what is stored need not look again while neither this nor
        `change_mark` differs."""
        self.place: Place = backend.place

    @classmethod
    def open(cls, place: Place) -> Self:
        """Open for writing; make what is missing (a file: 0600) and bring the tables up to date.

        Raises:
            StoreError: Another process has the file open, it is no database, a newer Bramble wrote it, or it
                cannot be written or reached.
        """
        store = cls(_backend(place, readonly=False), readonly=False)
        try:
            store._migrate()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open_readonly(cls, place: Place) -> Self:
        """Open for reading only, also while a server writes.

        Raises:
            NoRecordError: There is no such file.
        """
        return cls(_backend(place, readonly=True), readonly=True)

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write to it too."""
        return self._backend.is_shared

    def close(self) -> None:
        self._backend.close()

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction: durable when the block ends, undone when it raises.

        Raises:
            StoreError: The disk is full or refuses, the file is damaged, or the database cannot be reached.
        """
        try:
            with self._backend.engine.begin() as connection:
                yield Transaction(connection)
            self.commits += 1
        except sa.exc.DBAPIError as error:
            raise self._cannot_write(error) from error

    @contextlib.contextmanager
    def write_batch(self) -> Iterator[BatchTransaction]:
        """A transaction for many nodes at once; as durable, and raising the same."""
        try:
            with self._backend.engine.begin() as connection:
                batch = BatchTransaction(connection)
                yield batch
                batch.flush()
            self.commits += 1
        except sa.exc.DBAPIError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: sa.exc.DBAPIError) -> StoreError:
        message = f"{self.place} cannot be written: {_cause(error)}"
        is_of_values = isinstance(error, sa.exc.DataError | sa.exc.IntegrityError)
        return StoreError(message, self._backend.write_hint, self.place, refuses_values=is_of_values)

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """A consistent view.

        Raises:
            NoRecordError: A database in which no server has made the tables.
            StoreError: It cannot be read, is damaged, or is of another version.
        """
        try:
            with self._backend.engine.connect().execution_options(**{READS: True}) as connection:
                if self._unchecked:
                    self._check(connection)
                yield Reader(connection)
        except sa.exc.DBAPIError as error:
            raise StoreError(
                f"{self.place} cannot be read: {_cause(error)}", self._backend.read_hint, self.place
            ) from error

    def change_mark(self) -> str:
        """Differs from an earlier answer once another process may have written; always the same on SQLite."""
        with self.read() as reader:
            return self._backend.change_mark(reader.connection)

    def _check(self, connection: sa.Connection) -> None:
        """Who only reads cannot migrate: say who can."""
        match standing_of(connection):
            case Standing.CURRENT:
                self._unchecked = False
            case Standing.EMPTY:
                raise NoRecordError(self.place)
            case Standing.OLDER:
                raise StoreError(
                    f"{self.place} was written by an older Bramble, and only a server brings it up to date",
                    "Start 'bramble serve' once, or run the version that wrote it.",
                    self.place,
                )
            case Standing.UNKNOWN:
                raise self._newer(f"it is not {LATEST} or older")

    def _migrate(self) -> None:
        try:
            with self._backend.engine.connect() as connection:
                self._backend.prepare(connection)
            with self._backend.engine.begin() as connection:
                if not is_current(connection):
                    self._upgrade(connection)
        except (sa.exc.DBAPIError, sqlite3.DatabaseError) as error:
            raise StoreError(
                f"{self.place} is not a usable database: {_cause(error)}", self._open_hint(), self.place
            ) from error

    def _open_hint(self) -> str:
        if isinstance(self.place, Path):
            return "Restore it from a backup. Removing it makes Bramble forget which nodes are installed."
        return "Is the database up and reachable from here, and does it belong to this user?"

    def _upgrade(self, connection: sa.Connection) -> None:
        from fleet.store.migrate import UnknownVersionError, upgrade  # takes 0.15 s and 11 MiB

        try:
            upgrade(connection)
        except UnknownVersionError as error:
            raise self._newer(str(error)) from error

    def _newer(self, why: str) -> StoreError:
        return StoreError(
            f"{self.place} was written by a newer Bramble ({why})", "Run that version.", self.place
        )


def _backend(place: Place, *, readonly: bool) -> Backend:
    if isinstance(place, Path):
        return SqliteBackend(place, readonly=readonly)
    from fleet.store.postgres import PostgresBackend  # its driver is loaded only where it is used

    return PostgresBackend(place, readonly=readonly)


def _cause(error: BaseException) -> str:
    """The driver's own words, in one line.

    Of PostgreSQL's only the first sentence: its details quote whole rows, and a node's has its password.
    """
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    diagnosis = getattr(cause, "diag", None)
    return " ".join(str((diagnosis and diagnosis.message_primary) or cause).split())
