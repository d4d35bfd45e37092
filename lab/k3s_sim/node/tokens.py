"""Join tokens, and the hash that pins a cluster's CA. Pure.

    K10<sha256 of /cacerts, 64 hex>::server:<password>      full server token
    K10<...>::node:<password>                               full agent token
    K10<...>::<6 characters>.<16 characters>                full bootstrap token
    <password> or <6>.<16>                                  the same without a pin

Source: k3s documentation, "k3s token"; behaviour of k3s 1.33.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field

PREFIX = "K10"
HASH_LENGTH = 64
"""Hex digits of a SHA-256."""

_BOOTSTRAP = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


class TokenError(ValueError):
    """The token can not be used; the text is the one k3s prints."""


@dataclass(frozen=True)
class JoinToken:
    """A parsed token: either a bootstrap token (`bootstrap`) or a user with a password."""

    ca_hash: str
    username: str = ""
    password: str = field(default="", repr=False)
    bootstrap: str = field(default="", repr=False)

    def authorization(self) -> str:
        """The value of the Authorization header, or nothing for an empty token."""
        if self.bootstrap:
            return f"Bearer {self.bootstrap}"
        if not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def for_user(self, username: str) -> JoinToken:
        """The same secret under another user name: agents always say `node`, servers `server`."""
        return JoinToken(self.ca_hash, username, self.password, self.bootstrap)


NO_TOKEN = JoinToken("")
"""Of an agent that has joined before: its client certificate speaks for it."""


def parse_token(text: str) -> JoinToken:
    """Parse any form of a token.

    Raises:
        TokenError: with the text k3s prints.
    """
    if not text:
        raise TokenError("token must not be empty")
    if not text.startswith(PREFIX):
        return _credentials("", text if _BOOTSTRAP.fullmatch(text) else f":{text}")
    head, separator, rest = text[len(PREFIX) :].partition("::")
    if not separator:
        return _credentials("", head)
    if head and len(head) != HASH_LENGTH:
        raise TokenError("invalid token CA hash length")
    return _credentials(head, rest)


def _credentials(ca_hash: str, text: str) -> JoinToken:
    if _BOOTSTRAP.fullmatch(text):
        return JoinToken(ca_hash, bootstrap=text)
    username, separator, password = text.partition(":")
    if not separator or not password:
        raise TokenError("invalid token format")
    return JoinToken(ca_hash, username, password)


def format_token(cacerts: bytes, username: str, password: str) -> str:
    """A full token for the cluster whose /cacerts answers with `cacerts`."""
    return f"{PREFIX}{ca_hash(cacerts)}::{username}:{password}"


def ca_hash(cacerts: bytes) -> str:
    """The hash that a full token carries.

    One certificate: SHA-256 of the literal PEM bytes as served. A bundle: SHA-256 of the DER of its root,
    which for the bundles that k3s documents is the last certificate.
    """
    certificates = _PEM_CERTIFICATE.findall(cacerts)
    if len(certificates) > 1:
        return hashlib.sha256(base64.b64decode(certificates[-1])).hexdigest()
    return hashlib.sha256(cacerts).hexdigest()


def require_pin(token: JoinToken, cacerts: bytes) -> None:
    """Refuse a server whose CA is not the one that the token pins; a token without a pin accepts every
    server.

    Raises:
        TokenError: with the text k3s prints.
    """
    found = ca_hash(cacerts)
    if token.ca_hash and token.ca_hash != found:
        raise TokenError(
            f"token CA hash does not match the Cluster CA certificate hash: {token.ca_hash} != {found}"
        )
