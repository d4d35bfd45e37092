"""Who is asking: token users, bootstrap tokens, client certificates, and a joined server that speaks for its
client. Pure.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import hmac
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.messages import Request

AGENT_GROUP = "k3s:agent"
SERVER_GROUP = "k3s:server"
NODES_GROUP = "system:nodes"
BOOTSTRAP_GROUP = "system:bootstrappers"
MASTERS_GROUP = "system:masters"
NODE_USER_PREFIX = "system:node:"
BOOTSTRAP_SECRET_TYPE = "bootstrap.kubernetes.io/token"


@dataclass(frozen=True)
class Identity:
    """A user with its groups."""

    name: str
    groups: tuple[str, ...]

    @property
    def node(self) -> str | None:
        """The node this identity is, if it is one."""
        if NODES_GROUP in self.groups and self.name.startswith(NODE_USER_PREFIX):
            return self.name[len(NODE_USER_PREFIX) :]
        return None

    def has_any(self, groups: tuple[str, ...]) -> bool:
        """Whether the identity is in one of the groups."""
        return any(group in self.groups for group in groups)


class UnauthorizedError(Exception):
    """Credentials were presented and they are wrong; the text is for the log."""


@dataclass(frozen=True)
class Authenticator:
    """Turns credentials into an identity.

    `passwords` are the users of Basic authentication; `find_secret` looks a secret of kube-system up by name;
    `proxy_issuer` is the subject of the request-header CA, whose certificates may name another user in
    X-Remote-User.
    """

    passwords: Mapping[str, str] = field(repr=False)
    find_secret: Callable[[str], Mapping[str, Any] | None]
    proxy_issuer: str

    def identify(self, request: Request, now: float) -> Identity | None:
        """The caller, or None for an anonymous one.

        Raises:
            UnauthorizedError: the credentials are wrong or expired.
        """
        scheme, _, credentials = request.header("authorization").partition(" ")
        if request.peer is not None and request.peer.issuer == self.proxy_issuer:
            user = request.header("x-remote-user")
            if user:
                return Identity(user, _decode_groups(request.header("x-remote-group")))
        elif request.peer is not None:
            return Identity(request.peer.common_name, request.peer.organizations)
        if scheme.lower() == "basic":
            return self._basic(credentials)
        if scheme.lower() == "bearer":
            return self._bearer(credentials, now)
        return None

    def _basic(self, credentials: str) -> Identity:
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise UnauthorizedError("malformed basic credentials") from error
        expected = self.passwords.get(user)
        if expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
            raise UnauthorizedError(f"wrong password for user {user!r}")
        return Identity(user, (SERVER_GROUP if user == "server" else AGENT_GROUP,))

    def _bearer(self, token: str, now: float) -> Identity:
        token_id, _, secret_part = token.partition(".")
        secret = self.find_secret(f"bootstrap-token-{token_id}")
        if secret is None or secret.get("type") != BOOTSTRAP_SECRET_TYPE:
            raise UnauthorizedError(f"no bootstrap token {token_id!r}")
        data = {key: _decode(value) for key, value in (secret.get("data") or {}).items()}
        if not hmac.compare_digest(data.get("token-secret", "").encode(), secret_part.encode()):
            raise UnauthorizedError(f"wrong secret for bootstrap token {token_id!r}")
        if data.get("usage-bootstrap-authentication") != "true":
            raise UnauthorizedError(f"bootstrap token {token_id!r} may not authenticate")
        if _is_expired(data.get("expiration", ""), now):
            raise UnauthorizedError(f"bootstrap token {token_id!r} has expired")
        extra = tuple(group for group in data.get("auth-extra-groups", "").split(",") if group)
        return Identity(f"system:bootstrap:{token_id}", (BOOTSTRAP_GROUP, *extra))


def require_group(
    authenticator: Authenticator, request: Request, groups: tuple[str, ...], now: float
) -> Identity:
    """The supervisor's rule: wrong credentials are 401, none or those of another group 403."""
    try:
        identity = authenticator.identify(request, now)
    except UnauthorizedError as error:
        raise StatusError(401, "Unauthorized", "not authorized") from error
    if identity is None or not identity.has_any(groups):
        raise StatusError(403, "Forbidden", "forbidden")
    return identity


def encode_groups(groups: tuple[str, ...]) -> str:
    """Groups as one header value."""
    return ",".join(urllib.parse.quote(group, safe=":") for group in groups)


def _decode_groups(text: str) -> tuple[str, ...]:
    return tuple(urllib.parse.unquote(part) for part in text.split(",") if part)


def _decode(value: object) -> str:
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _is_expired(expiration: str, now: float) -> bool:
    """No date means no end; a date that can not be read means expired."""
    if not expiration:
        return False
    try:
        return calendar.timegm(time.strptime(expiration, "%Y-%m-%dT%H:%M:%SZ")) <= now
    except ValueError:
        return True
