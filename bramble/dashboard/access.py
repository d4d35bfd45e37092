"""Who is logged in: sessions, kept on the server, and what each may do. Pure.

A browser holds a random name of its session in a cookie; the server keeps the digest of that name. The name
changes at login and every quarter of an hour. Once the browser has shown the new one, the one before it is
honoured for a moment, because a page and its stream are under way at the same time. Where the answer that
carried the new name was lost, the browser comes with the old one: within a quarter of an hour that is taken,
and it is handed another new name, once for each change. A session ends when it was not used for a while, when
its time is over, when its token is revoked, and with the server.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fleet.trust.tokens import TokenRole

MAX_SESSIONS: Final = 500
ROTATE_S: Final = 900.0
GRACE_S: Final = 30.0
LOST_S: Final = ROTATE_S
"""How long the name before is honoured while the browser has not shown the one that follows it."""
IDLE_S: Final = {TokenRole.ADMIN: 4 * 3600.0, TokenRole.VIEWER: 30 * 86400.0}
"""A viewer's session is that of a screen on the wall, which nobody touches."""
LIFE_S: Final = {TokenRole.ADMIN: 12 * 3600.0, TokenRole.VIEWER: 30 * 86400.0}


@dataclass(frozen=True, slots=True)
class Notice:
    """What became of an action, for the next page. `kind` is `done` or `refused`."""

    kind: str
    text: str
    hint: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One login.

    Attributes:
        who: For the audit.
        token_id: Of the token that was shown, for the link too; None for a link of the machine's own socket.
        csrf: What each of its forms has to carry.
        notice: For the next page that is shown.
    """

    who: str
    role: TokenRole
    token_id: str | None
    csrf: str
    opened: float
    used: float
    rotated: float
    notice: Notice | None = None
    streams: int = 0
    names: dict[str, float] = field(default_factory=dict)
    """Digest of each of its names → until when that one is honoured, UTC seconds."""
    unseen: str | None = None
    """Digest of the name that was handed out and not shown by the browser yet."""
    is_repeated: bool = False
    """The name before that one got lost."""

    @property
    def is_admin(self) -> bool:
        return self.role is TokenRole.ADMIN

    def ends_at(self) -> float:
        """When it is over unless it is used before, UTC seconds."""
        return min(self.ends_by(), self.used + IDLE_S[self.role])

    def ends_by(self) -> float:
        """When it is over in any case, UTC seconds."""
        return self.opened + LIFE_S[self.role]

    def cut_others(self, digest: str, until: float) -> None:
        """Honour every name but this one until then at most."""
        self.names = {name: end if name == digest else min(end, until) for name, end in self.names.items()}

    def takes(self, csrf: str) -> bool:
        """Whether a form carries this session's own token."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode())


class Sessions:
    """All sessions of one server.

    Args:
        random_text: Makes names and tokens: at least 128 random bits, fit for a cookie.
    """

    def __init__(self, random_text: Callable[[], str]) -> None:
        self._random_text = random_text
        self._by_name: dict[str, Session] = {}

    def __len__(self) -> int:
        return len({id(session) for session in self._by_name.values()})

    def open(self, who: str, role: TokenRole, token_id: str | None, now: float) -> tuple[str, Session]:
        """A new session, and its name for the cookie."""
        self._sweep(now)
        while len(self) >= MAX_SESSIONS:
            self.close(min(self._by_name.values(), key=lambda one: one.used))
        session = Session(
            who=who,
            role=role,
            token_id=token_id,
            csrf=self._random_text(),
            opened=now,
            used=now,
            rotated=now,
        )
        return self._name(session), session

    def find(self, name: str, now: float, *, is_use: bool = True) -> Session | None:
        """The session of a cookie; None where there is none, or it is over.

        Args:
            is_use: A person asks, so it is not idle. A stream that stays open is no use.
        """
        digest = _digest(name)
        session = self._by_name.get(digest)
        if session is None:
            return None
        if now >= session.ends_at():
            self.close(session)
            return None
        if now >= session.names[digest]:
            return None
        if digest == session.unseen:
            session.unseen, session.is_repeated = None, False
            session.cut_others(digest, now + GRACE_S)
        if is_use:
            session.used = now
        return session

    def rotate(self, session: Session, now: float) -> str | None:
        """Another name for a session whose present one is old enough; None: it keeps it."""
        if session.unseen is not None:
            if session.is_repeated or now - session.rotated < GRACE_S:
                return None
            # The answer that carried it was lost. It counts for nothing any more, and neither will the next
            # one that gets lost be made up for.
            self._drop(session, session.unseen)
            session.is_repeated = True
        elif now - session.rotated < ROTATE_S:
            return None
        for digest in [key for key, until in session.names.items() if until <= now]:
            self._drop(session, digest)
        session.rotated = now
        name = self._name(session)
        session.unseen = _digest(name)
        session.cut_others(session.unseen, now + (GRACE_S if session.is_repeated else LOST_S))
        return name

    def close(self, session: Session) -> None:
        """End it at once, under all of its names."""
        for digest in session.names:
            self._by_name.pop(digest, None)
        session.names.clear()

    def _drop(self, session: Session, digest: str) -> None:
        del session.names[digest], self._by_name[digest]

    def _name(self, session: Session) -> str:
        name = self._random_text()
        session.names[_digest(name)] = session.ends_by()
        self._by_name[_digest(name)] = session
        return name

    def _sweep(self, now: float) -> None:
        for session in {id(one): one for one in self._by_name.values()}.values():
            if now >= session.ends_at():
                self.close(session)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
