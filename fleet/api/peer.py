"""Who is at the other end of a TLS connection."""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

from aiohttp import web

_KNOWN: Final[WeakKeyDictionary[object, str | None]] = WeakKeyDictionary()
"""Connections whose certificate was looked at: it does not change, and to unpack it takes long."""


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
