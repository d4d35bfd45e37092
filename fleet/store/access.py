"""The store's questions and changes about people's access: tokens, what was done with them, repeats.

Parts of `fleet.store.transaction.Reader` and `Transaction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from fleet.store.tables import api_tokens, audit, repeats

MAX_AUDIT: Final = 20_000
"""Lines that are kept, the newest."""
MAX_REPEATS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What is known of a token; never the token itself. Times are UTC seconds."""

    id: str
    name: str
    role: str
    sha256: str
    created: float
    expires: float | None
    revoked: float | None

    def is_valid(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One thing that a person had done. `id` grows with time."""

    id: int
    at: float
    who: str
    what: str
    request_id: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatRecord:
    """A request that carried an idempotency key. `status` is None while nobody knows how it ended."""

    key: str
    request_sha256: str
    at: float
    status: int | None
    answer: str | None


class AccessReads:
    """Questions."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def token(self, sha256: str) -> TokenRecord | None:
        query = sa.select(api_tokens).where(api_tokens.c.sha256 == sha256)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else TokenRecord(**row)

    def token_by_id(self, token_id: str) -> TokenRecord | None:
        row = (
            self._connection.execute(sa.select(api_tokens).where(api_tokens.c.id == token_id))
            .mappings()
            .first()
        )
        return None if row is None else TokenRecord(**row)

    def all_tokens(self) -> list[TokenRecord]:
        """Every token that was ever made and not cleared away, by name."""
        query = sa.select(api_tokens).order_by(api_tokens.c.name, api_tokens.c.created)
        return [TokenRecord(**row) for row in self._connection.execute(query).mappings()]

    def audit_lines(self, *, after: int = 0, limit: int) -> list[AuditRecord]:
        """The lines that follow `after`, the oldest first."""
        query = sa.select(audit).where(audit.c.id > after).order_by(audit.c.id).limit(limit)
        return [AuditRecord(**row) for row in self._connection.execute(query).mappings()]

    def repeat(self, key: str) -> RepeatRecord | None:
        row = self._connection.execute(sa.select(repeats).where(repeats.c.key == key)).mappings().first()
        return None if row is None else RepeatRecord(**row)


class AccessWrites(AccessReads):
    """Changes."""

    def add_token(self, record: TokenRecord) -> None:
        values = {name: getattr(record, name) for name in record.__dataclass_fields__}
        self._connection.execute(sa.insert(api_tokens).values(**values))

    def revoke_token(self, token: str, now: float) -> None:
        self._connection.execute(sa.update(api_tokens).where(api_tokens.c.id == token).values(revoked=now))

    def revoke_all_tokens(self, now: float) -> None:
        in_force = api_tokens.c.revoked.is_(None)
        self._connection.execute(sa.update(api_tokens).where(in_force).values(revoked=now))

    def clear_tokens(self, ended_before: float) -> None:
        """Forget tokens that were revoked or expired before a moment; the audit still tells of them."""
        over = sa.or_(api_tokens.c.revoked < ended_before, api_tokens.c.expires < ended_before)
        self._connection.execute(sa.delete(api_tokens).where(over))

    def add_audit(
        self, *, at: float, who: str, what: str, request_id: str, detail: Mapping[str, Any]
    ) -> None:
        values = {"at": at, "who": who, "what": what, "request_id": request_id, "detail": dict(detail)}
        added = self._connection.execute(sa.insert(audit).values(**values)).inserted_primary_key
        newest = int(added[0]) if added else 0
        if newest % 100 == 0:
            self._connection.execute(sa.delete(audit).where(audit.c.id <= newest - MAX_AUDIT))

    def put_repeat(self, record: RepeatRecord) -> None:
        """Make or replace the key's row."""
        self._connection.execute(sa.delete(repeats).where(repeats.c.key == record.key))
        values = {name: getattr(record, name) for name in record.__dataclass_fields__}
        self._connection.execute(sa.insert(repeats).values(**values))

    def forget_repeat(self, key: str) -> None:
        self._connection.execute(sa.delete(repeats).where(repeats.c.key == key))

    def forget_repeats(self, before: float) -> None:
        """Forget requests older than a moment, and more than there is room for."""
        self._connection.execute(sa.delete(repeats).where(repeats.c.at < before))
        too_many = sa.select(repeats.c.at).order_by(repeats.c.at.desc()).offset(MAX_REPEATS).limit(1)
        bound = self._connection.execute(too_many).scalar()
        if bound is not None:
            self._connection.execute(sa.delete(repeats).where(repeats.c.at <= bound))
