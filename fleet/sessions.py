"""Between hello and prove: what was said, and by whom it was said it is.

Sessions live in memory, each for one proof: a caller whose session is gone says hello again, and a proof that
was heard once is never heard again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent.proofs import fingerprint
from agent.protocol import PROTOCOL_VERSION, Hello, Welcome
from fleet.boards import BoardError, MacAddress, Serial
from fleet.ground import Ground
from fleet.refusal import RefusedError
from fleet.store.records import board_id

SESSION_TTL_S: Final = 120.0
MAX_SESSIONS: Final = 1024
MAX_REVISION: Final = 0xFFFF_FFFF
MAX_MACS: Final = 16
_HEX_32: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation that waits for its proof."""

    hello: Hello
    welcome: Welcome
    serial: Serial | None
    macs: tuple[MacAddress, ...]
    opened: float

    @property
    def board_key(self) -> str | None:
        mac = str(self.macs[0]) if self.macs else None
        return board_id(self.serial.text if self.serial else None, mac)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.hello.key_sha256)


class Sessions:
    """The conversations that wait for their proof."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._sessions: dict[str, Session] = {}

    def open(self, hello: Hello) -> Welcome:
        """Check what can be checked of a hello, and answer it.

        Raises:
            RefusedError: Another protocol version, or a value that cannot be what it says.
        """
        if hello.protocol != PROTOCOL_VERSION:
            raise RefusedError(
                400,
                "protocol",
                f"the caller speaks protocol {hello.protocol}, this server {PROTOCOL_VERSION}",
                "Image and server come from different versions of Bramble: build the image again.",
            )
        for name in ("key_sha256", "client_nonce"):
            if not _HEX_32.fullmatch(getattr(hello, name)):
                raise RefusedError(400, "hello", f"{name} is not 64 lower-case hex digits")
        if hello.hardware.revision is not None and not 0 <= hello.hardware.revision <= MAX_REVISION:
            raise RefusedError(400, "hello", "the revision code does not fit in 32 bits")
        try:
            serial = Serial.parse(hello.hardware.serial) if hello.hardware.serial else None
            macs = tuple(MacAddress.parse(mac) for mac in hello.hardware.macs[:MAX_MACS])
        except BoardError as error:
            raise RefusedError(400, "hello", error.message) from error
        now = self._ground.clock()
        self._forget_old(now)
        welcome = Welcome(
            session=self._ground.random_hex(16), server_nonce=self._ground.random_hex(32), server_time=now
        )
        self._sessions[welcome.session] = Session(hello, welcome, serial, macs, now)
        return welcome

    def take(self, name: str, now: float) -> Session:
        """The session, which is over with that.

        Raises:
            RefusedError: It is unknown: it ended, was used, or the server was started again.
        """
        session = self._sessions.pop(name, None)
        if session is None or now - session.opened > SESSION_TTL_S:
            raise RefusedError(409, "session", "this session is not open", "Say hello again.")
        return session

    def _forget_old(self, now: float) -> None:
        if len(self._sessions) < MAX_SESSIONS:
            return
        live = {key: item for key, item in self._sessions.items() if now - item.opened <= SESSION_TTL_S}
        # Still full: the oldest half makes room, so that a flood cannot lock out a board that comes later.
        self._sessions = dict(list(live.items())[len(live) // 2 :]) if len(live) >= MAX_SESSIONS else live
