"""Tokens with which people and their programs use the control API from elsewhere.

A token is `bramble_<id>_<64 hex digits>`: it is shown once, and kept as its SHA-256. The id is no secret; it
names the token in lists. One name has at most one token that is in force.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from fleet.ground import Ground
from fleet.refusal import RefusedError, nearest_hint
from fleet.secret import Secret
from fleet.store.access import TokenRecord

PREFIX: Final = "bramble_"
DEFAULT_TTL_S: Final = 90 * 86400.0
MAX_TTL_S: Final = 10 * 365 * 86400.0
KEPT_S: Final = 90 * 86400.0
"""How long a token that ended is listed."""
MAX_TOKENS: Final = 1000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TOKEN: Final = re.compile(r"bramble_([0-9a-f]{8})_[0-9a-f]{64}")


class TokenRole(StrEnum):
    """What a token is for."""

    VIEWER = "viewer"
    ADMIN = "admin"


class TokenDesk:
    """Makes tokens, recognises them and ends them."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def create(self, name: str, role: TokenRole, ttl_s: float = DEFAULT_TTL_S) -> tuple[TokenRecord, Secret]:
        """Make a token; this is the only moment at which it is known.

        Raises:
            RefusedError: The name is not one, is in use, or the time is out of range.
        """
        if not _NAME.fullmatch(name):
            raise RefusedError(
                400,
                "name",
                f"{name!r} is no name of a token: 1 to 64 letters, digits, dots, dashes, underscores or @",
            )
        if not 1.0 <= ttl_s <= MAX_TTL_S:
            raise RefusedError(400, "ttl", f"a token lives for 1 second to ten years, not {ttl_s:g} s")
        ground, now = self._ground, self._ground.clock()
        token_id = ground.random_hex(4)
        secret = Secret(f"{PREFIX}{token_id}_{ground.random_hex(32)}")
        record = TokenRecord(
            id=token_id,
            name=name,
            role=role.value,
            sha256=secret.sha256,
            created=now,
            expires=now + ttl_s,
            revoked=None,
        )
        with ground.store.write() as tx:
            tx.clear_tokens(now - KEPT_S)
            known = tx.all_tokens()
            if any(one.name == name and one.is_valid(now) for one in known):
                raise RefusedError(
                    409,
                    "name-in-use",
                    f"there is a token named {name!r}",
                    f"End it with 'bramble token revoke {name}', or take another name.",
                )
            if len(known) >= MAX_TOKENS:
                raise RefusedError(
                    409, "too-many-tokens", f"there are {len(known)} tokens, the limit is {MAX_TOKENS}"
                )
            tx.add_token(record)
        return record, secret

    def find(self, text: str) -> TokenRecord | None:
        """The token in force that a caller shows; None where it is none, or over."""
        if not _TOKEN.fullmatch(text):
            return None
        with self._ground.store.read() as reader:
            found = reader.token(hashlib.sha256(text.encode()).hexdigest())
        return found if found is not None and found.is_valid(self._ground.clock()) else None

    def is_in_force(self, token_id: str) -> bool:
        """Whether the token with this id was neither revoked nor has ended."""
        with self._ground.store.read() as reader:
            found = reader.token_by_id(token_id)
        return found is not None and found.is_valid(self._ground.clock())

    def tokens(self) -> list[TokenRecord]:
        """All of them, also those that ended lately."""
        with self._ground.store.read() as reader:
            return reader.all_tokens()

    def revoke(self, name: str) -> str:
        """End the token of a name, or of an id, at once; what was done, for people.

        Raises:
            RefusedError: None in force is called so.
        """
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            known = tx.all_tokens()
            found = [one for one in known if name in (one.name, one.id) and one.is_valid(now)]
            if not found:
                raise _none_in_force(name, known, now)
            for one in found:
                tx.revoke_token(one.id, now)
        return f"token {found[0].name} ({found[0].id}) is revoked: it is refused from now on"


def _none_in_force(name: str, known: Iterable[TokenRecord], now: float) -> RefusedError:
    """The refusal for a name that no token has, or only such that have ended."""
    known = list(known)
    if any(name in (one.name, one.id) for one in known):
        return RefusedError(
            404,
            "token",
            f"token {name!r} has ended already: it is refused",
            "'bramble token list' tells when.",
        )
    hint = nearest_hint(name, (one.name for one in known if one.is_valid(now)), "bramble token list")
    return RefusedError(404, "token", f"no token is called {name!r}", hint)
