"""Links that open the dashboard once, for whoever may use this machine's socket or shows an admin's token.

A link holds a code of 128 random bits, is good for one login within ten minutes, and lives in this server's
memory only, as its digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from fleet.ground import Ground
from fleet.refusal import RefusedError
from fleet.trust.tokens import TokenRole

LIFE_S: Final = 600.0
MAX_LINKS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a link opens. `who` asked for it, for the audit; `expires` is UTC seconds.

    Attributes:
        token_id: Of the token that was shown for it, whose end is that of what the link opened; None: this
            machine's socket.
    """

    who: str
    role: TokenRole
    expires: float
    token_id: str | None = None


class LoginLinks:
    """Makes links and honours each of them once.

    Attributes:
        url: Where the dashboard is, `https://10.0.0.1:7444`; None while there is none.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._grants: dict[str, Grant] = {}
        self.url: str | None = None

    def make(self, who: str, role: TokenRole, token_id: str | None = None) -> tuple[str, Grant]:
        """The whole link, and what it opens.

        Raises:
            RefusedError: There is no dashboard.
        """
        if self.url is None:
            raise RefusedError(
                409,
                "no-dashboard",
                "this server has no dashboard: network.ports.dashboard is 0",
                "Give it a port in cluster.yaml, and start 'bramble serve' again.",
            )
        now = self._ground.clock()
        self._grants = {key: grant for key, grant in self._grants.items() if now < grant.expires}
        while len(self._grants) >= MAX_LINKS:
            self._grants.pop(next(iter(self._grants)))
        code = self._ground.random_hex(16)
        grant = Grant(who=who, role=role, expires=now + LIFE_S, token_id=token_id)
        self._grants[_digest(code)] = grant
        return f"{self.url}/enter/{code}", grant

    def find(self, code: str) -> Grant | None:
        """What a code opens; it can still be used afterwards."""
        grant = self._grants.get(_digest(code))
        return grant if grant is not None and self._ground.clock() < grant.expires else None

    def redeem(self, code: str) -> Grant | None:
        """Use a code up; None where it is none, was used, or is too old."""
        grant = self.find(code)
        self._grants.pop(_digest(code), None)
        return grant


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
