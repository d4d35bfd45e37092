"""Who is at the other end of a connection: the certificate that TLS verified, or the user of the socket."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiohttp import web

_KNOWN: Final[WeakKeyDictionary[object, str | None]] = WeakKeyDictionary()
"""Connections whose certificate was looked at: it does not change, and to unpack it takes long."""

_CREDENTIALS: Final = struct.Struct("3i")
"""pid, uid, gid. Source: unix(7), SO_PEERCRED."""


def socket_user(request: web.Request) -> str | None:
    """The user at the other end of the unix socket, as the kernel says; None where it is none any more."""
    connection: Any = request.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(raw)
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid}) on {os.uname().nodename}"
    except KeyError:
        return f"uid {uid} on {os.uname().nodename}"


def is_of_this_machine(request: web.Request) -> bool:
    """Whether the caller came through the unix socket, which only the server's own user can open."""
    connection: Any = request.get_extra_info("socket")
    return connection is not None and connection.family == socket.AF_UNIX


def peer_certificate(request: web.Request) -> str | None:
    """Serial number (lower-case hex, no leading zeros) of the connection's verified client certificate."""
    transport = request.transport
    if transport is None:
        return _read(request)
    if transport not in _KNOWN:
        _KNOWN[transport] = _read(request)
    return _KNOWN[transport]


def _read(request: web.Request) -> str | None:
    tls = request.get_extra_info("ssl_object")
    shown: dict[str, Any] | None = tls.getpeercert() if tls is not None else None
    serial = shown.get("serialNumber") if shown else None
    return f"{int(serial, 16):x}" if serial else None
