"""The record in a portable form: one JSON line for each row, the same from SQLite and from PostgreSQL.

A line is `[table, {column: value}]`; tables come in an order in which references point back. Everything is
read in one snapshot, so it is as consistent as the record itself, and a server may go on writing meanwhile.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import sqlalchemy as sa

from fleet.store.database import Store
from fleet.store.documents import Document
from fleet.store.tables import metadata
from fleet.store.transaction import Reader, Transaction
from fleet.store.version import LATEST, REVISIONS, VERSION, Standing, standing_of

BATCH_ROWS: Final = 500
_COUNTED: Final = ("events", "audit")
"""Tables whose ids the database gives."""


class DumpError(ValueError):
    """Lines that are no dump, or that this database cannot take; the text says why."""


def dump_rows(reader: Reader) -> Iterator[bytes]:
    """Every row of the snapshot as a line of JSON with its newline."""
    for table in metadata.sorted_tables:
        query = sa.select(table).order_by(*table.primary_key.columns)
        for row in reader.connection.execution_options(yield_per=BATCH_ROWS).execute(query).mappings():
            line = json.dumps([table.name, dict(row)], separators=(",", ":"), default=Document.to_dict)
            yield line.encode() + b"\n"


def load_rows(
    store: Store, lines: Iterable[bytes], revision: str, afterwards: Callable[[Transaction], object]
) -> Counter[str]:
    """Fill a store that has no nodes with the rows of a dump; the number of rows by table.

    Rows of an older revision go into the tables as they were then, which are brought up to date afterwards,
    as an older database would be. All of it, and what `afterwards` changes, is one transaction.

    Raises:
        DumpError: The store holds a record already, the revision is a newer one's, or a line is no row.
    """
    if revision not in REVISIONS:
        raise DumpError(f"its tables have version {revision}, this Bramble knows them up to {LATEST}")
    with store.write() as tx:
        if tx.nodes():
            raise DumpError(f"{store.place} holds a record already")
        connection = tx.connection
        tables = metadata if revision == LATEST else _make_older(connection, revision)
        counts = _insert(connection, tables, lines)
        if revision != LATEST:
            from fleet.store.migrate import upgrade

            upgrade(connection)
        if standing_of(connection) is not Standing.CURRENT:
            raise DumpError("its tables could not be brought up to date")
        _set_counters(connection)
        afterwards(tx)
    return counts


def _make_older(connection: sa.Connection, revision: str) -> sa.MetaData:
    """Put the empty tables of an older revision in the place of today's."""
    from fleet.store.migrate import upgrade

    metadata.drop_all(connection)
    VERSION.drop(connection)
    # In a database that is not ours alone, nobody else's table is touched, or filled.
    foreign = set(sa.inspect(connection).get_table_names())
    upgrade(connection, revision)
    older = sa.MetaData()
    older.reflect(connection, only=lambda name, _: name not in foreign and name != VERSION.name)
    return older


def _insert(connection: sa.Connection, tables: sa.MetaData, lines: Iterable[bytes]) -> Counter[str]:
    counts: Counter[str] = Counter()
    batch: list[dict[str, Any]] = []
    current: sa.Table | None = None
    for number, line in enumerate(lines, 1):
        name, values = _parse(line, number)
        table = tables.tables.get(name)
        if table is None or not values.keys() <= set(table.columns.keys()):
            raise DumpError(f"line {number} is a row of {name!r} that this version of the tables has not")
        is_full = table is not current or len(batch) >= BATCH_ROWS
        if current is not None and batch and (is_full or values.keys() != batch[0].keys()):
            connection.execute(sa.insert(current), batch)
            batch = []
        current = table
        batch.append(values)
        counts[name] += 1
    if batch and current is not None:
        connection.execute(sa.insert(current), batch)
    return counts


def _parse(line: bytes, number: int) -> tuple[str, dict[str, Any]]:
    try:
        name, values = json.loads(line)
    except (ValueError, TypeError) as error:
        raise DumpError(f"line {number} is no row") from error
    if not isinstance(name, str) or not isinstance(values, dict):
        raise DumpError(f"line {number} is no row")
    return name, values


def _set_counters(connection: sa.Connection) -> None:
    """PostgreSQL's counters do not see ids that were given; SQLite's do."""
    if connection.dialect.name == "postgresql":
        for table in _COUNTED:
            connection.exec_driver_sql(
                f"SELECT setval('{table}_id_seq', (SELECT coalesce(max(id), 0) + 1 FROM {table}), false)"  # noqa: S608
            )
